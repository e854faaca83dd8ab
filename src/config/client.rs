//! `client`: how long a client tries and waits, and what it sends how.

use serde::{Deserialize, Serialize};

use crate::submission::units::{ByteSize, Micros};

/// The client's waiting and sending.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// How often a publish is tried that is not answered, or that a full queue or a queue without a leader refuses. Ten take about
    /// 15 s, longer than an election.
    pub publish_tries: u32,
    /// How long `wait` waits for a result.
    pub wait_timeout_us: Micros,
    /// How often `wait` looks for a standing result besides listening.
    pub wait_poll_us: Micros,
    /// The most bytes of content that a submission holds itself, in all; past it the largest contents go to the object store. So
    /// does, whatever this says, what the message has no room for.
    pub inline_bytes: ByteSize,
    /// How many small files are sent to the store, or fetched from it, at a time. Large ones go one after another.
    pub transfers: usize,
    /// The most files, directories and links of a directory that is submitted.
    pub project_files: u64,
    /// The most bytes of such a directory's files together.
    pub project_bytes: ByteSize,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            publish_tries: 10,
            wait_timeout_us: Micros(1_800_000_000),
            wait_poll_us: Micros(3_000_000),
            inline_bytes: ByteSize(64 << 10),
            transfers: 4,
            project_files: 65_536,
            project_bytes: ByteSize(1 << 30),
        }
    }
}
