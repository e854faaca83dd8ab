//! What came of a submission: one result for each generation.

use std::collections::BTreeMap;

use envicutor_protocol::MemoryFrom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    collect::{CollectError, Collected},
    names::{Digest, RuntimeRef, Tenant},
    output::Output,
    units::{ByteSize, Micros},
};

/// The result of a submission, as it stands under `envicutor.results.<tenant>.<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubmissionResult {
    /// Whose it is.
    pub tenant: Tenant,
    /// Its id. A subject may hold an id that breaks the rule for ids; its `rejected` result echoes it as it came.
    pub id: String,
    /// 0, and one more for each replay.
    pub generation: u64,
    /// Which start of this generation came to an end, from 1.
    pub attempt: u64,
    /// Whether it ran.
    pub outcome: Outcome,
    /// What came out, where it ran.
    pub verdict: Option<Verdict>,
    /// The runtime with its version, where it is known.
    pub runtime: Option<RuntimeRef>,
    /// The image's id.
    pub image: Option<Digest>,
    /// The SHA-256 of the body as published.
    pub submission_digest: Digest,
    /// The isolation it ran in.
    pub isolation: Option<Isolation>,
    /// Whether a container waited for it.
    pub start: Option<Start>,
    /// Who ran it.
    pub worker: String,
    /// The compile stage, where there was one.
    pub compile: Option<Run>,
    /// The runs, in order.
    pub runs: Vec<Run>,
    /// The files that were kept after the last run, by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collected: Vec<Collected>,
    /// What of the files that were asked for was not kept, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collect_errors: Vec<CollectError>,
    /// Why it was rejected: all reasons at once.
    pub errors: Vec<FieldError>,
    /// Why the fleet could not run it.
    pub failure: Option<Failure>,
    /// When JetStream stored it.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub published_at: OffsetDateTime,
    /// When this attempt started.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub finished_at: OffsetDateTime,
    /// From `published_at` to `started_at`.
    #[schemars(with = "u64")]
    pub queued_us: Micros,
    /// The submission's.
    pub labels: BTreeMap<String, String>,
}

/// Whether a submission ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran.
    Finished,
    /// It is not valid.
    Rejected,
    /// The fleet could not run it; it is in the dead letters.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// It was not started in time.
    Expired,
}

/// What came of a stage, the first that holds; and of a submission.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Of a submission only: the compile stage ended with an exit code other than 0 or a signal of its own.
    CompileError,
    /// Ended by us for CPU time.
    CpuTimeExceeded,
    /// Ended by us for wall time.
    WallTimeExceeded,
    /// Ended for memory.
    MemoryExceeded,
    /// Ended by us for its output.
    OutputExceeded,
    /// Ended by SIGXFSZ.
    FileSizeExceeded,
    /// Ended by the system-call filter.
    Forbidden,
    /// The process limit was hit and the exit is not 0.
    ProcessesExceeded,
    /// Ended by a signal.
    Signaled,
    /// An exit code other than 0.
    RuntimeError,
    /// The output is not what was expected.
    WrongAnswer,
    /// All is well.
    Ok,
    /// It did not run.
    Skipped,
}

/// How a stage went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// The test's name.
    pub name: Option<String>,
    /// What came of it.
    pub verdict: Verdict,
    /// Of a compile stage: an earlier build of the same sources stands for it, and everything that follows is that one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub cached: Option<bool>,
    /// Set where it ended by itself.
    pub exit_code: Option<u8>,
    /// Set where a signal ended it: `SIGSEGV`.
    pub signal: Option<String>,
    /// The fields of the limits that were touched, whatever the verdict.
    pub limits_hit: Vec<String>,
    /// CPU time in user mode.
    #[schemars(with = "u64")]
    pub cpu_user_us: Micros,
    /// CPU time in the kernel.
    #[schemars(with = "u64")]
    pub cpu_system_us: Micros,
    /// Time on the wall.
    #[schemars(with = "u64")]
    pub wall_us: Micros,
    /// Peak memory of the process tree.
    #[schemars(with = "u64")]
    pub memory_peak_bytes: ByteSize,
    /// Where the peak was read; absent where nothing ran.
    #[schemars(with = "Option<String>")]
    pub memory_from: Option<MemoryFrom>,
    /// The most processes and threads at a time.
    pub processes_peak: u64,
    /// What it wrote.
    pub stdout: Output,
    /// What it wrote to its standard error.
    pub stderr: Output,
}

/// One thing wrong with a submission.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// Where: `files[0].path`; empty where the body as a whole is meant.
    pub path: String,
    /// What came, and what is expected.
    pub message: String,
}

/// Why the fleet could not run a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// For programs.
    pub code: FailureCode,
    /// For people.
    pub message: String,
    /// What was being done.
    pub stage: String,
    /// How many attempts started.
    pub attempts: u64,
}

/// Reasons of a failure and of a dead letter.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum FailureCode {
    /// Attempts started and were never heard of again.
    WorkerLost,
    /// The container could not be made, or was lost.
    Container,
    /// The agent failed or broke the protocol.
    Agent,
    /// The runtime's image is missing or cannot be used.
    Image,
    /// It was delivered too often without a start that ended.
    Deliveries,
    /// Its id already has a result of other content.
    IdReused,
    /// What it needs is not in the object store, or the store does not give it.
    Store,
    /// A bug of ours.
    Internal,
}

/// The wall that a submission ran in.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// A fresh container.
    Container,
    /// A slot's container that only this tenant uses, and a wall of its own inside it for each submission.
    Sandbox,
}

/// How a submission got its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// It was made for it.
    Cold,
    /// It waited in the pool.
    Pooled,
    /// It waited in the pool, and every run began from a template.
    Warm,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::submission::encoding::Encoding;

    /// The contract's example.
    fn example() -> serde_json::Value {
        let digest = Digest::of(b"");
        json!({
            "tenant": "default", "id": "a1", "generation": 0, "attempt": 1,
            "outcome": "finished", "verdict": "ok",
            "runtime": "python@3.11", "image": digest, "submission_digest": digest,
            "isolation": "container", "start": "cold", "worker": "host-1",
            "compile": null,
            "runs": [{"name": null, "verdict": "ok", "exit_code": 0, "signal": null, "limits_hit": [],
                      "cpu_user_us": 8000, "cpu_system_us": 2000, "wall_us": 11000, "memory_peak_bytes": 9_400_320,
                      "memory_from": "cgroup", "processes_peak": 1,
                      "stdout": {"text": "hello\n", "size_bytes": 6, "truncated": false, "blob": null},
                      "stderr": {"text": "", "size_bytes": 0, "truncated": false, "blob": null}}],
            "errors": [{"path": "run.limits.wall_time_us", "message": "90 s is over this fleet's ceiling of 60 s"}],
            "failure": {"code": "worker_lost", "message": "gone", "stage": "run", "attempts": 3},
            "published_at": "2026-01-02T03:04:05Z", "started_at": "2026-01-02T03:04:05.0009Z",
            "finished_at": "2026-01-02T03:04:06Z", "queued_us": 900, "labels": {"course": "cs101"}
        })
    }

    #[test]
    fn a_result_is_written_as_the_contract_shows_it() {
        let result: SubmissionResult = serde_json::from_value(example()).expect("decodes");
        assert_eq!(serde_json::to_value(result).expect("encodes"), example());
    }

    #[test]
    fn a_result_survives_both_encodings() {
        let result: SubmissionResult = serde_json::from_value(example()).expect("decodes");
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            let body = encoding.encode(&result).expect("encodes");
            assert_eq!(
                encoding.decode::<SubmissionResult>(&body).expect("decodes"),
                result
            );
        }
        let packed = Encoding::MessagePack.encode(&result).expect("encodes");
        let holds = |part: &[u8]| packed.windows(part.len()).any(|window| window == part);
        assert!(holds(b"2026-01-02T03:04:05.0009Z"));
        assert!(holds(b"\xa5bytes\xc4\x06hello\n"));
    }

    #[test]
    fn a_reader_ignores_what_it_does_not_know() {
        let mut example = example();
        example["later"] = json!({"x": 1});
        example["runs"][0]["stdout"]["tail"] = json!("x");
        assert!(serde_json::from_value::<SubmissionResult>(example).is_ok());
    }
}
