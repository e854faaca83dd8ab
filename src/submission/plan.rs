//! What a worker runs: a submission that was found valid, with the runtime's defaults filled in.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    compare::Compare,
    limits::Limits,
    message::EventsWanted,
    names::{RuntimeName, RuntimeVersion},
    units::{ByteSize, Micros},
};

/// A valid submission, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The runtime that was named, or its default version.
    pub runtime: (RuntimeName, RuntimeVersion),
    /// What lies in the work directory before the first stage.
    pub files: Vec<PlannedFile>,
    /// The compile stage, where the runtime or the submission has one.
    pub compile: Option<StagePlan>,
    /// The runs, one or more, in order.
    pub runs: Vec<RunPlan>,
    /// How output is held against what was expected.
    pub compare: Compare,
    /// Skip what follows the first run that is not ok.
    pub stop_on_failure: bool,
    /// Wall time of all stages together.
    pub total_time_us: Micros,
    /// Which events are published.
    pub events: EventsWanted,
    /// Echoed in every message.
    pub labels: BTreeMap<String, String>,
}

/// A file with its path resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Relative, by the contract's rules.
    pub path: String,
    /// Mode 0755 instead of 0644.
    pub executable: bool,
    /// Its content.
    pub data: Vec<u8>,
}

/// A stage with everything resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// The argument vector, not empty.
    pub argv: Vec<String>,
    /// The whole environment, `HOME` and `PATH` included. Shared, since a thousand runs have the same one.
    pub env: Arc<BTreeMap<String, String>>,
    /// Every limit.
    pub limits: Limits,
    /// Standard input.
    pub stdin: Vec<u8>,
}

/// A run with what it is held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPlan {
    /// The test's name.
    pub name: Option<String>,
    /// How it runs.
    pub stage: StagePlan,
    /// What it should write to its standard output.
    pub expected: Option<Vec<u8>>,
}

impl Plan {
    /// Every stage, in order.
    pub fn stages(&self) -> impl Iterator<Item = &StagePlan> {
        self.compile
            .iter()
            .chain(self.runs.iter().map(|run| &run.stage))
    }

    /// The most memory that a stage may use, in bytes: what a worker must have free.
    pub fn memory_bytes(&self) -> ByteSize {
        self.stages()
            .map(|stage| stage.limits.memory_bytes)
            .max()
            .unwrap_or_default()
    }

    /// The size of the work directory that its stages share, in bytes.
    pub fn disk_bytes(&self) -> ByteSize {
        self.stages()
            .map(|stage| stage.limits.disk_bytes)
            .max()
            .unwrap_or_default()
    }

    /// The files and directories that the work directory may hold.
    pub fn inodes(&self) -> u64 {
        self.stages()
            .map(|stage| stage.limits.inodes)
            .max()
            .unwrap_or_default()
    }
}
