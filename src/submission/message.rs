//! The submission as a service publishes it. Reading one that anybody may have written is the work of [`super::check`];
//! these types are what it makes of a good one, and what the client library writes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    compare::Compare, content::Content, limits::LimitChanges, names::RuntimeRef, units::Micros,
};

/// Code to run, and how. `docs/contract.md` has the meaning of every field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The runtime, with or without a version.
    pub runtime: RuntimeRef,
    /// One or more files of the work directory.
    pub files: Vec<File>,
    /// The file that the runtime's commands name; absent is the first.
    pub entry: Option<String>,
    /// Changes to the runtime's compile stage.
    pub compile: StageChanges,
    /// Changes to the runtime's run stage.
    pub run: StageChanges,
    /// The standard input of the one run; absent where there are `tests`.
    pub stdin: Option<Content>,
    /// Each one run of the same build, in order.
    pub tests: Vec<Test>,
    /// How a run's output is held against what was expected.
    pub compare: Compare,
    /// Skip what follows the first run that is not ok.
    pub stop_on_failure: bool,
    /// Wall time of all stages together; absent is the fleet's default.
    pub total_time_us: Option<Micros>,
    /// Which events are published.
    pub events: EventsWanted,
    /// Echoed in every event, result and dead letter.
    pub labels: BTreeMap<String, String>,
}

/// A file of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where in the work directory; the first file's may be absent: the runtime's source file name.
    pub path: Option<String>,
    /// What is in it.
    pub content: Content,
    /// Whether it may be executed.
    pub executable: bool,
}

/// What a submission changes of a runtime's stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageChanges {
    /// Replaces the runtime's command: an argument vector, no shell.
    pub command: Option<Vec<String>>,
    /// Follow the command.
    pub args: Vec<String>,
    /// Added to the runtime's environment.
    pub env: BTreeMap<String, String>,
    /// Replace single defaults.
    pub limits: LimitChanges,
}

/// One run of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Test {
    /// Echoed in its run of the result.
    pub name: Option<String>,
    /// Its standard input.
    pub stdin: Content,
    /// Follow the command and `run.args`.
    pub args: Vec<String>,
    /// What it should write to its standard output; absent is not compared.
    pub expected: Option<Content>,
    /// Replace single limits of `run`.
    pub limits: LimitChanges,
}

/// Which events a submission wants.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum EventsWanted {
    /// Only `started`, which the delivery protocol needs.
    None,
    /// Also when a stage starts and ends.
    #[default]
    Stages,
    /// Also output while it appears.
    Output,
}
