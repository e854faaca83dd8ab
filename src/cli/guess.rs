//! The runtime of a file, by its name: each runtime's source file name has an extension, and C++ has several.

use std::{collections::BTreeSet, path::Path};

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

/// What an extension means where several runtimes have it, and people mean one of them.
const USUAL: [(&str, &str); 4] = [
    ("cpp", "cpp"),
    ("lua", "lua"),
    ("pl", "perl"),
    ("py", "python"),
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
    let usual = USUAL.iter().find(|(extension, _)| *extension == wanted);
    let is_usual =
        |runtime: &&RuntimeRef| usual.is_some_and(|(_, usual)| runtime.name.as_str() == *usual);
    if let Some(runtime) = fitting.iter().find(is_usual) {
        return Ok(runtime.clone());
    }
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

/// The runtime that the project in `dir` is for: the one whose source file it has.
pub fn runtime_of_project(dir: &Path, catalogue: &Catalogue) -> Result<RuntimeRef, CliError> {
    let defaults = catalogue.runtimes.iter().filter(|runtime| runtime.default);
    let fitting: Vec<_> = defaults
        .filter(|runtime| dir.join(&runtime.source_file).is_file())
        .collect();
    let problem = match fitting.as_slice() {
        [runtime] => {
            return Ok(RuntimeRef {
                name: runtime.name.clone(),
                version: None,
            });
        }
        [] => "it has no file that a runtime's source file is called, such as main.py".to_owned(),
        several => {
            let sources: BTreeSet<_> = several
                .iter()
                .map(|runtime| &*runtime.source_file)
                .collect();
            let sources: Vec<_> = sources.into_iter().collect();
            if let [source] = sources.as_slice() {
                return runtime_of(Path::new(source), catalogue);
            }
            format!("it has {}", sources.join(" and "))
        }
    };
    Err(CliError::Usage(format!(
        "{}: what runs is not known, since {problem}: name it with --entry, or a runtime with --runtime",
        dir.display()
    )))
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
        let runtimes = Runtimes::load(&config::Config::default(), dir.path()).expect("loaded");
        runtime_of(Path::new(file), &runtimes.catalogue())
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
            ("a.pl", "perl"),
            ("a.lua", "lua"),
            ("a.go", "go"),
        ] {
            assert_eq!(guess(file).as_deref(), Ok(runtime), "{file}");
        }
    }

    #[test]
    fn a_name_that_two_languages_share_is_not_guessed() {
        let error = guess("a.m").expect_err("Objective-C or Octave");
        assert!(error.contains("objective-c and octave both"), "{error}");
    }

    #[test]
    fn a_project_says_its_runtime_by_the_source_file_that_it_has() {
        let dir = tempfile::tempdir().expect("a directory");
        let runtimes = Runtimes::load(&config::Config::default(), dir.path()).expect("loaded");
        let guess = || runtime_of_project(dir.path(), &runtimes.catalogue());
        let error = guess().expect_err("unknown").to_string();
        assert!(
            error.contains("--entry") && error.contains("main.py"),
            "{error}"
        );
        std::fs::write(dir.path().join("main.py"), "").expect("written");
        assert_eq!(guess().expect("known").to_string(), "python");
        std::fs::write(dir.path().join("main.c"), "").expect("written");
        let error = guess().expect_err("two").to_string();
        assert!(
            error.contains("main.c") && error.contains("main.py"),
            "{error}"
        );
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
