//! The runtime of a file, by its name: each runtime's source file name has an extension, and C++ has several.

use std::path::Path;

use super::exit::CliError;
use crate::submission::{catalogue::Catalogue, names::RuntimeRef};

/// Extensions that mean the same as another one.
const ALIASES: [(&str, &str); 5] = [
    ("cc", "cpp"),
    ("cxx", "cpp"),
    ("c++", "cpp"),
    ("bash", "sh"),
    ("pyw", "py"),
];

/// The runtime that `file` is for, its default version.
pub fn runtime_of(file: &Path, catalogue: &Catalogue) -> Result<RuntimeRef, CliError> {
    let extension = extension(file).unwrap_or_default();
    let alias = ALIASES.iter().find(|(alias, _)| *alias == extension);
    let wanted = alias.map_or(extension.as_str(), |(_, extension)| extension);
    let source_extension = |source: &str| self::extension(Path::new(source));
    let mut fitting: Vec<RuntimeRef> = catalogue
        .runtimes
        .iter()
        .filter(|runtime| {
            runtime.default && source_extension(&runtime.source_file).as_deref() == Some(wanted)
        })
        .map(|runtime| RuntimeRef {
            name: runtime.name.clone(),
            version: None,
        })
        .collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(runtime), true) => Ok(runtime),
        (Some(runtime), false) => Err(CliError::Usage(format!(
            "{}: {} and {runtime} both run such files: name one with --runtime",
            file.display(),
            fitting
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        ))),
        (None, _) => Err(CliError::Usage(format!(
            "{}: no runtime is known for this file name: name one with --runtime (there are {})",
            file.display(),
            names(catalogue),
        ))),
    }
}

fn extension(file: &Path) -> Option<String> {
    Some(file.extension()?.to_str()?.to_ascii_lowercase())
}

/// The runtimes' names, for people.
fn names(catalogue: &Catalogue) -> String {
    let defaults = catalogue.runtimes.iter().filter(|runtime| runtime.default);
    let names: Vec<_> = defaults.map(|runtime| runtime.name.to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, runtimes::Runtimes};

    fn guess(file: &str) -> Result<String, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let runtimes = Runtimes::load(&config::Runtimes::default(), dir.path()).expect("loaded");
        runtime_of(Path::new(file), runtimes.catalogue())
            .map(|runtime| runtime.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_name_says_its_runtime() {
        for (file, runtime) in [
            ("hello.py", "python"),
            ("dir/a.c", "c"),
            ("a.cpp", "cpp"),
            ("a.cc", "cpp"),
            ("A.CXX", "cpp"),
            ("a.sh", "bash"),
        ] {
            assert_eq!(guess(file).as_deref(), Ok(runtime), "{file}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_what_there_is() {
        for file in ["README", "a.zig", ".py"] {
            let error = guess(file).expect_err("unknown");
            assert!(
                error.contains("--runtime") && error.contains("python"),
                "{error}"
            );
        }
    }
}
