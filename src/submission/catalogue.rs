//! What a fleet offers: the answers to `envicutor.info.runtimes` and `envicutor.info.limits`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    limits::Limits,
    names::{RuntimeName, RuntimeRef, RuntimeVersion},
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
}

/// The defaults of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StageDefaults {
    /// The argument vector; `{entry}` in an argument stands for the entry file's path.
    pub command: Vec<String>,
    /// What it may use.
    pub limits: Limits,
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
