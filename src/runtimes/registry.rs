//! All definitions: the program's own, a directory's before them, and before both what the fleet has installed. Of each name exactly
//! one version is the default.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use super::{carried::CARRIED, definition::Definition, error::RuntimeError};
use crate::submission::{
    catalogue::Catalogue,
    installation::Installed,
    names::{RuntimeName, RuntimeVersion},
};

type Key = (RuntimeName, RuntimeVersion);
type Versions = BTreeMap<Key, Arc<Definition>>;

/// Every definition, and the catalogue made of them.
pub(super) struct Registry {
    /// Those of the program and the directory.
    carried: Arc<Versions>,
    versions: Versions,
    /// What the fleet has installed, as far as it is defined here.
    installed: BTreeMap<Key, Installed>,
    catalogue: Arc<Catalogue>,
}

impl Registry {
    /// The program's definitions, and those of `dir` in their place.
    pub(super) fn load(dir: Option<&Path>) -> Result<Self, RuntimeError> {
        let own = CARRIED.iter();
        let own = own.map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
        let mut versions = read(own.collect())?;
        if let Some(dir) = dir {
            let theirs = read(files(dir)?)?;
            for definition in theirs.values().filter(|theirs| theirs.runtime.default) {
                unset_default(&mut versions, &definition.runtime.name);
            }
            versions.extend(theirs);
        }
        check_defaults(&versions)?;
        Ok(Self::of(
            Arc::new(versions.clone()),
            versions,
            BTreeMap::new(),
        ))
    }

    fn of(carried: Arc<Versions>, versions: Versions, installed: BTreeMap<Key, Installed>) -> Self {
        let runtimes = versions.values().map(|d| d.runtime.clone()).collect();
        Self {
            carried,
            versions,
            installed,
            catalogue: Arc::new(Catalogue { runtimes }),
        }
    }

    /// The carried definitions, and what the fleet has installed in their place. Of several versions that want to be the default
    /// the one that was installed last is; where none does, the last one is. An entry that cannot be read is left out, and told.
    pub(super) fn with(&self, entries: Vec<Installed>) -> Self {
        let mut versions = Versions::clone(&self.carried);
        let mut installed = BTreeMap::new();
        for entry in entries {
            let mut definition = match Definition::parse(
                "a runtime of the fleet",
                &entry.definition,
            ) {
                Ok(definition) => definition,
                Err(error) => {
                    tracing::warn!(%error, "a runtime that another program installed cannot be used here");
                    continue;
                }
            };
            let name = definition.runtime.name.clone();
            let is_known = versions.keys().any(|(known, _)| *known == name);
            definition.runtime.default |= !is_known;
            if definition.runtime.default {
                unset_default(&mut versions, &name);
            }
            let key = (name, definition.runtime.version.clone());
            // What was the default stays it, until another version wants to be.
            let was = versions.get(&key).is_some_and(|it| it.runtime.default);
            definition.runtime.default |= was;
            versions.insert(key.clone(), Arc::new(definition));
            installed.insert(key, entry);
        }
        Self::of(Arc::clone(&self.carried), versions, installed)
    }

    pub(super) fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    pub(super) fn find(
        &self,
        name: &RuntimeName,
        version: &RuntimeVersion,
    ) -> Option<&Arc<Definition>> {
        self.versions.get(&(name.clone(), version.clone()))
    }

    /// What the fleet has installed of this version.
    pub(super) fn installed(
        &self,
        name: &RuntimeName,
        version: &RuntimeVersion,
    ) -> Option<&Installed> {
        self.installed.get(&(name.clone(), version.clone()))
    }
}

/// No version of `name` is the default any more.
fn unset_default(versions: &mut Versions, name: &RuntimeName) {
    for definition in versions.values_mut() {
        if definition.runtime.name == *name {
            Arc::make_mut(definition).runtime.default = false;
        }
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
        versions.insert(key, Arc::new(definition));
    }
    Ok(versions)
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

    fn load(files: &[(&str, String)]) -> Result<Arc<Catalogue>, RuntimeError> {
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
    fn a_directory_goes_before_the_program() {
        let catalogue = load(&[("p.toml", definition("python", "3.11", true))]).expect("valid");
        let python = catalogue.find(&"python".parse().expect("a name"));
        assert_eq!(python.expect("there").description, "theirs");
        assert!(catalogue.find(&"bash".parse().expect("a name")).is_some());
    }

    #[test]
    fn versions_stand_side_by_side_and_one_is_the_default() {
        let own = load(&[]).expect("valid").runtimes.len();
        let beside = load(&[("p.toml", definition("python", "4", false))]).expect("valid");
        assert_eq!(default_of(&beside, "python"), "3.11");
        let before = load(&[("p.toml", definition("python", "4", true))]).expect("valid");
        assert_eq!(default_of(&before, "python"), "4");
        assert_eq!(before.runtimes.len(), own + 1);
    }

    fn installed(definition: String) -> Installed {
        Installed {
            definition,
            image: crate::submission::names::Digest::of(b"x"),
            stored: None,
            installer: "i".to_owned(),
            installed_at: time::OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_the_fleet_has_installed_goes_before_what_is_carried() {
        let carried = Registry::load(None).expect("valid");
        let with =
            |entries: Vec<String>| carried.with(entries.into_iter().map(installed).collect());
        let beside = with(vec![
            definition("python", "4", false),
            definition("zig", "1", false),
        ]);
        assert_eq!(default_of(beside.catalogue(), "python"), "3.11");
        assert_eq!(default_of(beside.catalogue(), "zig"), "1", "the only one");
        let last = with(vec![
            definition("python", "5", true),
            definition("python", "4", true),
            "no definition".to_owned(),
        ]);
        assert_eq!(default_of(last.catalogue(), "python"), "4");
        assert_eq!(
            last.catalogue().runtimes.len(),
            carried.catalogue().runtimes.len() + 2
        );
        let over = with(vec![definition("python", "3.11", false)]);
        assert_eq!(default_of(over.catalogue(), "python"), "3.11");
        let python = over
            .catalogue()
            .find(&"python".parse().expect("a name"))
            .cloned();
        assert_eq!(python.expect("there").description, "theirs");
        assert_eq!(
            over.with(Vec::new()).catalogue(),
            carried.catalogue(),
            "and back"
        );
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
