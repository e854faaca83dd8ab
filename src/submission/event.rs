//! What happens on a submission's way, for live views. Only the result is promised; an event may be lost.

use std::collections::BTreeMap;

use envicutor_protocol::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    content::Output,
    names::{SubmissionId, Tenant},
    result::Verdict,
    units::ByteSize,
};

/// An event, as it stands under `envicutor.events.<tenant>.<id>.<kind>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Whose submission.
    pub tenant: Tenant,
    /// Which.
    pub id: SubmissionId,
    /// 0, and one more for each replay.
    pub generation: u64,
    /// Which start of this generation, from 1.
    pub attempt: u64,
    /// Counts the events of an attempt, from 0.
    pub sequence: u64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub at: OffsetDateTime,
    /// Who runs it.
    pub worker: String,
    /// The submission's.
    pub labels: BTreeMap<String, String>,
    /// What happened: the field `kind` and the kind's own fields.
    #[serde(flatten)]
    pub happened: Happened,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happened {
    /// An attempt began.
    Started,
    /// A stage began.
    StageStarted {
        /// Which.
        #[serde(flatten)]
        stage: StageName,
    },
    /// A stage wrote something.
    Output {
        /// Which.
        #[serde(flatten)]
        stage: StageName,
        /// To which stream.
        #[schemars(with = "String")]
        stream: Stream,
        /// How much of the stream came before, in bytes.
        #[schemars(with = "u64")]
        offset_bytes: ByteSize,
        /// What it wrote: its field is `text`, `base64` or `bytes`.
        #[serde(flatten)]
        data: Output,
    },
    /// A stage is over.
    StageEnded {
        /// Which.
        #[serde(flatten)]
        stage: StageName,
        /// What came of it.
        verdict: Verdict,
    },
}

/// The compile stage or one of the runs: `"stage": "compile"`, or `"stage": "run", "run": 0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum StageName {
    /// The build.
    Compile,
    /// A run, from 0.
    Run {
        /// Its place among the runs.
        run: usize,
    },
}
