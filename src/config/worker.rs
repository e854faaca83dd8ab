//! `worker`: how much a worker takes at a time, and how long it tries.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::submission::units::{ByteSize, Micros};

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Its id, `[A-Za-z0-9_-]{1,64}`; absent: the host name and a random part.
    pub id: Option<String>,
    /// Submissions at a time; absent: one for each processor.
    pub slots: Option<usize>,
    /// Submissions that are compiled at a time; absent: one for each processor.
    pub compilations: Option<usize>,
    /// How long a submission waits for its turn to be compiled, before it is compiled beside the others.
    pub compilation_wait_us: Micros,
    /// Memory for all submissions together; absent: three quarters of the machine's.
    pub memory_bytes: Option<ByteSize>,
    /// Starts of a generation before it is dead-lettered.
    pub max_attempts: u64,
    /// Deliveries of a message before it is dead-lettered, whatever came of them: a backstop.
    pub max_deliveries: u64,
    /// The longest wait before a failed attempt is tried again.
    pub retry_max_us: Micros,
    /// How often the queues are looked at while no wake comes, give or take a half: what finds redeliveries.
    pub sweep_us: Micros,
    /// Pulls of the interactive lane for each one of the batch lane, while both have work.
    pub interactive_weight: u32,
    /// How often the worker tells the registry that it is alive; it is forgotten after three times this.
    pub heartbeat_us: Micros,
    /// How often the worker looks for submissions that expired while nobody took them.
    pub expiry_look_us: Micros,
    /// How long a drain lets running submissions finish before it hands them back.
    pub drain_grace_us: Micros,
    /// The last lines of a submission's log that a dead letter keeps.
    pub log_tail_lines: usize,
    /// Where blobs are cached; absent: `cache` in `data_dir`. Workers of one machine may share it: each has a place of its own there.
    pub cache_dir: Option<PathBuf>,
    /// The most bytes of the cache. All blobs of a submission must fit.
    pub cache_bytes: ByteSize,
    /// Blobs of a submission that are fetched at a time.
    pub downloads: usize,
    /// How long fetching what a submission needs may take.
    pub stage_timeout_us: Micros,
    /// The most that a result shows of the beginning of a stream; what is longer goes whole to the object store.
    pub inline_output_bytes: ByteSize,
    /// The most that is shown of its end then.
    pub output_tail_bytes: ByteSize,
    /// Outputs and collected files of a submission that are uploaded at a time.
    pub uploads: usize,
    /// Whether a build stands for later ones of the same sources.
    pub compile_cache: bool,
    /// The most bytes of a work directory that a build leaves for later ones; one that leaves more is built each time.
    pub compile_cache_artifact_bytes: ByteSize,
    /// How long looking for an earlier build, and keeping one, may take. A submission that finds none soon is built.
    pub compile_cache_timeout_us: Micros,
    /// Whether the worker measures, while it has nothing to do, what starting each runtime costs here. Each takes a container for a
    /// moment, in a full pool that of a tenant.
    pub measure_start_cost: bool,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            id: None,
            slots: None,
            compilations: None,
            compilation_wait_us: Micros(1_000_000),
            memory_bytes: None,
            max_attempts: 3,
            max_deliveries: 50,
            retry_max_us: Micros(30_000_000),
            sweep_us: Micros(1_000_000),
            interactive_weight: 4,
            heartbeat_us: Micros(10_000_000),
            expiry_look_us: Micros(10_000_000),
            drain_grace_us: Micros(30_000_000),
            log_tail_lines: 50,
            cache_dir: None,
            cache_bytes: ByteSize(10 << 30),
            downloads: 4,
            stage_timeout_us: Micros(600_000_000),
            inline_output_bytes: ByteSize(256 << 10),
            output_tail_bytes: ByteSize(4 << 10),
            uploads: 4,
            compile_cache: true,
            compile_cache_artifact_bytes: ByteSize(64 << 20),
            compile_cache_timeout_us: Micros(5_000_000),
            measure_start_cost: true,
        }
    }
}
