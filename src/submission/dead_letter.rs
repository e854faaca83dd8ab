//! A submission that the fleet could not run, whole, with the reason: what an operator replays.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    names::{Lane, SubmissionId, Tenant},
    result::FailureCode,
};

/// A dead letter, as it stands under `envicutor.dead.<tenant>.<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// Whose submission.
    pub tenant: Tenant,
    /// Which.
    pub id: SubmissionId,
    /// 0, and one more for each replay.
    pub generation: u64,
    /// Where it was queued.
    pub lane: Lane,
    /// Why it is here.
    pub reason: Reason,
    /// Every start of this generation.
    pub attempts: Vec<Attempt>,
    /// The message as published.
    pub submission: Original,
    /// The last lines that the worker logged of it.
    pub log_tail: Vec<String>,
    /// When it was given up.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub dead_at: OffsetDateTime,
    /// The submission's, where it could be read.
    pub labels: BTreeMap<String, String>,
}

/// Why a submission is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// For programs.
    pub code: FailureCode,
    /// For people.
    pub message: String,
    /// What was being done.
    pub stage: String,
}

/// A start of a submission, and how it ended. Also what KV `attempts` keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// The worker's id.
    pub worker: String,
    /// The worker's host name.
    pub host: String,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub started_at: OffsetDateTime,
    /// When it ended, or was found to have.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub ended_at: OffsetDateTime,
    /// What went wrong.
    pub error: String,
}

/// A published message: its body as `text`, `base64` or `bytes`, whichever is shortest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Original {
    /// The `Content-Type` header as it came.
    pub content_type: Option<String>,
    /// The other headers that are ours or the trace's.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}
