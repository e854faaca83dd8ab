//! What a stage may use. Each limit has a default in the runtime and a ceiling in the fleet; a submission replaces single
//! ones, and a value of zero or over the ceiling is an error, never clamped in silence.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{ByteSize, Micros};

/// The limits of a stage, every one set: a runtime's defaults, the fleet's ceilings, what a stage runs with. Integers in
/// messages; in TOML sizes and times may have units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// CPU time of all processes together, user and system, in microseconds.
    #[schemars(with = "u64")]
    pub cpu_time_us: Micros,
    /// How long past the CPU limit before the kill, so that the overshoot is known, in microseconds. May be zero.
    #[schemars(with = "u64")]
    pub extra_time_us: Micros,
    /// Time on the wall, in microseconds.
    #[schemars(with = "u64")]
    pub wall_time_us: Micros,
    /// Memory of the process tree, with what it writes to in-memory directories, in bytes.
    #[schemars(with = "u64")]
    pub memory_bytes: ByteSize,
    /// Stack of the main thread, in bytes.
    #[schemars(with = "u64")]
    pub stack_bytes: ByteSize,
    /// Processes and threads at a time.
    pub processes: u64,
    /// Open file descriptors of each process.
    pub open_files: u64,
    /// The largest file that it may write, in bytes.
    #[schemars(with = "u64")]
    pub file_size_bytes: ByteSize,
    /// All files in the work directory together, in bytes.
    #[schemars(with = "u64")]
    pub disk_bytes: ByteSize,
    /// Files and directories in the work directory.
    pub inodes: u64,
    /// Standard output and standard error, each, in bytes.
    #[schemars(with = "u64")]
    pub output_bytes: ByteSize,
}

/// The limits that a submission or a runtime's stage replaces; what is absent keeps its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitChanges {
    /// CPU time of all processes together, user and system, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub cpu_time_us: Option<Micros>,
    /// How long past the CPU limit before the kill, so that the overshoot is known, in microseconds. May be zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>")]
    pub extra_time_us: Option<Micros>,
    /// Time on the wall, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub wall_time_us: Option<Micros>,
    /// Memory of the process tree, with what it writes to in-memory directories, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub memory_bytes: Option<ByteSize>,
    /// Stack of the main thread, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub stack_bytes: Option<ByteSize>,
    /// Processes and threads at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub processes: Option<u64>,
    /// Open file descriptors of each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub open_files: Option<u64>,
    /// The largest file that it may write, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub file_size_bytes: Option<ByteSize>,
    /// All files in the work directory together, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub disk_bytes: Option<ByteSize>,
    /// Files and directories in the work directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub inodes: Option<u64>,
    /// Standard output and standard error, each, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub output_bytes: Option<ByteSize>,
}

impl LimitChanges {
    /// The names of the fields.
    pub(super) const FIELDS: [&str; 11] = [
        "cpu_time_us",
        "extra_time_us",
        "wall_time_us",
        "memory_bytes",
        "stack_bytes",
        "processes",
        "open_files",
        "file_size_bytes",
        "disk_bytes",
        "inodes",
        "output_bytes",
    ];
}

impl Limits {
    /// These limits with `changes` in their place.
    #[must_use]
    pub fn changed(&self, changes: &LimitChanges) -> Self {
        Self {
            cpu_time_us: changes.cpu_time_us.unwrap_or(self.cpu_time_us),
            extra_time_us: changes.extra_time_us.unwrap_or(self.extra_time_us),
            wall_time_us: changes.wall_time_us.unwrap_or(self.wall_time_us),
            memory_bytes: changes.memory_bytes.unwrap_or(self.memory_bytes),
            stack_bytes: changes.stack_bytes.unwrap_or(self.stack_bytes),
            processes: changes.processes.unwrap_or(self.processes),
            open_files: changes.open_files.unwrap_or(self.open_files),
            file_size_bytes: changes.file_size_bytes.unwrap_or(self.file_size_bytes),
            disk_bytes: changes.disk_bytes.unwrap_or(self.disk_bytes),
            inodes: changes.inodes.unwrap_or(self.inodes),
            output_bytes: changes.output_bytes.unwrap_or(self.output_bytes),
        }
    }
}
