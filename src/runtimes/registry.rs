//! All definitions: the program's own, and a directory's before them. Of each name exactly one version is the default.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{definition::Definition, error::RuntimeError};
use crate::submission::{
    catalogue::Catalogue,
    names::{RuntimeName, RuntimeVersion},
};

/// The definitions that come with the program.
const OWN: [(&str, &str); 4] = [
    (
        "runtimes/bash.toml",
        include_str!("../../runtimes/bash.toml"),
    ),
    ("runtimes/c.toml", include_str!("../../runtimes/c.toml")),
    ("runtimes/cpp.toml", include_str!("../../runtimes/cpp.toml")),
    (
        "runtimes/python.toml",
        include_str!("../../runtimes/python.toml"),
    ),
];

type Versions = BTreeMap<(RuntimeName, RuntimeVersion), Definition>;

/// Every definition, and the catalogue made of them.
pub(super) struct Registry {
    versions: Versions,
    catalogue: Catalogue,
}

impl Registry {
    /// The program's definitions, and those of `dir` in their place.
    pub(super) fn load(dir: Option<&Path>) -> Result<Self, RuntimeError> {
        let own = OWN.map(|(file, text)| (file.to_owned(), text.to_owned()));
        let mut versions = read(own.to_vec())?;
        if let Some(dir) = dir {
            let theirs = read(files(dir)?)?;
            replace(&mut versions, theirs);
        }
        check_defaults(&versions)?;
        let runtimes = versions.values().map(|d| d.runtime.clone()).collect();
        Ok(Self {
            versions,
            catalogue: Catalogue { runtimes },
        })
    }

    pub(super) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub(super) fn find(&self, name: &RuntimeName, version: &RuntimeVersion) -> Option<&Definition> {
        self.versions.get(&(name.clone(), version.clone()))
    }
}

/// The `*.toml` of a directory, in the order of their names.
fn files(dir: &Path) -> Result<Vec<(String, String)>, RuntimeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| RuntimeError::Read { path, source }
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
        Ok((path.display().to_string(), text))
    };
    paths.into_iter().map(read).collect()
}

/// The definitions in `files`, each version and each default once.
fn read(files: Vec<(String, String)>) -> Result<Versions, RuntimeError> {
    let mut versions = Versions::new();
    let mut defaults = BTreeSet::new();
    for (file, text) in files {
        let definition = Definition::parse(&file, &text)?;
        let twice = |field: &str, problem: String| RuntimeError::Field {
            file: file.clone(),
            field: field.to_owned(),
            problem,
        };
        let (name, version) = (&definition.runtime.name, &definition.runtime.version);
        if definition.runtime.default && !defaults.insert(name.clone()) {
            let problem = format!("another version of {name} is the default already; one can be");
            return Err(twice("default", problem));
        }
        let key = (name.clone(), version.clone());
        if versions.contains_key(&key) {
            let problem = format!("{name}@{version} is defined by another file of the directory");
            return Err(twice("version", problem));
        }
        versions.insert(key, definition);
    }
    Ok(versions)
}

/// Puts `theirs` before the ones that are there; their default versions too.
fn replace(versions: &mut Versions, theirs: Versions) {
    for definition in theirs.values().filter(|theirs| theirs.runtime.default) {
        for own in versions.values_mut() {
            if own.runtime.name == definition.runtime.name {
                own.runtime.default = false;
            }
        }
    }
    versions.extend(theirs);
}

fn check_defaults(versions: &Versions) -> Result<(), RuntimeError> {
    let defaults: BTreeSet<&RuntimeName> = versions
        .values()
        .filter(|definition| definition.runtime.default)
        .map(|definition| &definition.runtime.name)
        .collect();
    match versions.keys().find(|(name, _)| !defaults.contains(name)) {
        None => Ok(()),
        Some((name, version)) => Err(RuntimeError::Field {
            file: format!("the definition of {name}@{version}"),
            field: "default".to_owned(),
            problem: format!("no version of {name} is the default: set `default = true` in one"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, version: &str, default: bool) -> String {
        format!(
            "name = '{name}'\nversion = '{version}'\ndefault = {default}\ndescription = 'theirs'\n\
             source_file = 'm'\nrun.command = ['x']\n"
        )
    }

    fn load(files: &[(&str, String)]) -> Result<Catalogue, RuntimeError> {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        Registry::load(Some(dir.path())).map(|registry| registry.catalogue)
    }

    fn default_of(catalogue: &Catalogue, name: &str) -> String {
        let found = catalogue.find(&name.parse().expect("a name"));
        found.expect("a default").version.to_string()
    }

    #[test]
    fn the_programs_own_definitions_are_valid_and_tested() {
        let registry = Registry::load(None).expect("valid");
        let names: Vec<String> = registry
            .catalogue()
            .runtimes
            .iter()
            .map(|runtime| runtime.reference().to_string())
            .collect();
        assert_eq!(names, ["bash@5.2", "c@12", "cpp@12", "python@3.11"]);
        for definition in registry.versions.values() {
            let tests: Vec<&str> = definition.tests.iter().map(|t| t.name.as_str()).collect();
            assert_eq!(tests, ["hello", "echo"]);
        }
    }

    #[test]
    fn a_directory_goes_before_the_program() {
        let catalogue = load(&[("p.toml", definition("python", "3.11", true))]).expect("valid");
        let python = catalogue.find(&"python".parse().expect("a name"));
        assert_eq!(python.expect("there").description, "theirs");
        assert!(catalogue.find(&"bash".parse().expect("a name")).is_some());
    }

    #[test]
    fn versions_stand_side_by_side_and_one_is_the_default() {
        let beside = load(&[("p.toml", definition("python", "4", false))]).expect("valid");
        assert_eq!(default_of(&beside, "python"), "3.11");
        let before = load(&[("p.toml", definition("python", "4", true))]).expect("valid");
        assert_eq!(default_of(&before, "python"), "4");
        assert_eq!(before.runtimes.len(), 5);
    }

    #[test]
    fn no_default_two_defaults_and_a_version_twice_are_refused() {
        for (files, expected) in [
            (
                vec![("a.toml", definition("x", "1", false))],
                "no version of x",
            ),
            (
                vec![
                    ("a.toml", definition("x", "1", true)),
                    ("b.toml", definition("x", "2", true)),
                ],
                "b.toml: default",
            ),
            (
                vec![
                    ("a.toml", definition("x", "1", true)),
                    ("b.toml", definition("x", "1", false)),
                ],
                "b.toml: version",
            ),
        ] {
            let message = load(&files).expect_err("refused").to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let missing = Registry::load(Some(Path::new("/no/such/dir")));
        let message = missing.err().expect("refused").to_string();
        assert!(message.contains("/no/such/dir"), "{message}");
    }
}
