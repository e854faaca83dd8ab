//! What a fleet offers: the answers to `envicutor.info.runtimes` and `envicutor.info.limits`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    limits::{LimitChanges, Limits},
    names::{RuntimeName, RuntimeRef, RuntimeVersion},
    result::Isolation,
    units::{ByteSize, Micros},
};

/// The runtimes of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Catalogue {
    /// Each version of each runtime.
    pub runtimes: Vec<Runtime>,
}

/// A version of a runtime, as far as a submission depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Runtime {
    /// Its name.
    pub name: RuntimeName,
    /// Its version.
    pub version: RuntimeVersion,
    /// Whether the name without a version means this one.
    pub default: bool,
    /// One line for people.
    pub description: String,
    /// The path of the first file where a submission gives none: `main.py`.
    pub source_file: String,
    /// The environment of both stages; `PATH` among it.
    pub env: BTreeMap<String, String>,
    /// How it compiles, where it does.
    pub compile: Option<StageDefaults>,
    /// How it runs.
    pub run: StageDefaults,
    /// What starting it costs; absent until the worker that answers has measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_cost: Option<StartCost>,
}

/// What a program that does nothing takes: what every run of the runtime takes at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartCost {
    /// In which isolation it was measured.
    pub isolation: Isolation,
    /// CPU time of the run, in the middle of a few.
    #[schemars(with = "u64")]
    pub cpu_us: Micros,
    /// The same on the wall.
    #[schemars(with = "u64")]
    pub wall_us: Micros,
    /// The peak of its memory.
    #[schemars(with = "u64")]
    pub memory_bytes: ByteSize,
}

/// The defaults of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageDefaults {
    /// The argument vector; `{entry}` in an argument stands for the entry file's path.
    pub command: Vec<String>,
    /// Whether this command may begin from a template: a copy of where an earlier start of it was when it first looked at the
    /// submission's files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub template: bool,
    /// What it may use.
    #[serde(deserialize_with = "known_limits")]
    pub limits: Limits,
}

/// Limits in a message. Those of a configuration refuse a field that they do not know; readers of messages ignore it.
fn known_limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
    let mut fields = serde_json::Map::deserialize(deserializer)?;
    fields.retain(|name, _| LimitChanges::FIELDS.contains(&name.as_str()));
    Limits::deserialize(serde_json::Value::Object(fields)).map_err(de::Error::custom)
}

/// The ceilings of a fleet: nothing over them is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// For each stage.
    pub limits: Limits,
    /// The default of `total_time_us`.
    #[schemars(with = "u64")]
    pub default_total_time_us: Micros,
    /// The most that `total_time_us` may be.
    #[schemars(with = "u64")]
    pub total_time_us: Micros,
    /// Tests of a submission.
    pub tests: usize,
    /// Inline files of a submission.
    pub files: usize,
    /// Contents of a submission that are in the object store.
    pub blobs: usize,
    /// Each of them, in bytes.
    #[schemars(with = "u64")]
    pub blob_bytes: ByteSize,
    /// All of them together, one that is named more than once counted once, in bytes.
    #[schemars(with = "u64")]
    pub blob_total_bytes: ByteSize,
    /// An archive as it is packed, in bytes.
    #[schemars(with = "u64")]
    pub archive_bytes: ByteSize,
    /// Files that are kept of the work directory after the last run.
    pub collect_files: u64,
    /// The same together, in bytes.
    #[schemars(with = "u64")]
    pub collect_bytes: ByteSize,
    /// Arguments of a stage: command, `args` and a test's together.
    pub arguments: usize,
    /// Arguments and environment of a stage together, in bytes.
    #[schemars(with = "u64")]
    pub argument_bytes: ByteSize,
}

impl Catalogue {
    /// The runtime that `reference` names: its version, or the default one.
    pub fn find(&self, reference: &RuntimeRef) -> Option<&Runtime> {
        self.runtimes.iter().find(|runtime| {
            runtime.name == reference.name
                && reference
                    .version
                    .as_ref()
                    .map_or(runtime.default, |version| runtime.version == *version)
        })
    }
}

impl Runtime {
    /// The name with the version: `python@3.11`.
    pub fn reference(&self) -> RuntimeRef {
        RuntimeRef {
            name: self.name.clone(),
            version: Some(self.version.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::submission::encoding::Encoding;

    fn limits() -> serde_json::Value {
        LimitChanges::FIELDS
            .iter()
            .map(|name| (*name, json!(7)))
            .collect()
    }

    fn catalogue() -> serde_json::Value {
        json!({"runtimes": [{
            "name": "c++", "version": "12", "default": true, "description": "GCC", "source_file": "main.cpp",
            "env": {"PATH": "/usr/bin"},
            "compile": {"command": ["g++", "{entry}"], "limits": limits()},
            "run": {"command": ["./a.out"], "limits": limits()},
        }]})
    }

    #[test]
    fn runtimes_and_ceilings_survive_both_encodings() {
        let catalogue: Catalogue = serde_json::from_value(catalogue()).expect("decodes");
        let ceilings: Ceilings = serde_json::from_value(json!({
            "limits": limits(), "default_total_time_us": 1, "total_time_us": 2, "tests": 3, "files": 4,
            "blobs": 7, "blob_bytes": 8, "blob_total_bytes": 9, "archive_bytes": 10, "collect_files": 11, "collect_bytes": 12,
            "arguments": 5, "argument_bytes": 6,
        }))
        .expect("decodes");
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            let body = encoding.encode(&catalogue).expect("encodes");
            assert_eq!(
                encoding.decode::<Catalogue>(&body).expect("decodes"),
                catalogue
            );
            let body = encoding.encode(&ceilings).expect("encodes");
            assert_eq!(
                encoding.decode::<Ceilings>(&body).expect("decodes"),
                ceilings
            );
        }
    }

    #[test]
    fn a_reader_of_the_catalogue_ignores_what_it_does_not_know() {
        let mut later = catalogue();
        later["runtimes"][0]["run"]["limits"]["gpus"] = json!({"count": 1});
        assert!(serde_json::from_value::<Catalogue>(later).is_ok());
    }

    #[test]
    fn a_name_without_a_version_means_the_default_one() {
        let catalogue: Catalogue = serde_json::from_value(catalogue()).expect("decodes");
        let find = |name: &str| catalogue.find(&name.parse().expect("valid")).is_some();
        assert!(find("c++") && find("c++@12"));
        assert!(!find("c++@13") && !find("c"));
    }
}
