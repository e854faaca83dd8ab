//! `installer`: what an installation of a runtime may use of its machine.

use serde::{Deserialize, Serialize};

use crate::submission::units::{ByteSize, Micros};

/// The limits of an installation. Its time is `runtimes.prepare_timeout_us`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Installer {
    /// Memory; no swap beside it.
    pub memory_bytes: ByteSize,
    /// What it may write to its disk.
    pub disk_bytes: ByteSize,
    /// Processes and threads at a time.
    pub processes: u64,
    /// Its weight where processors are scarce; a container's is 1024.
    pub cpu_shares: i64,
    /// How much of the machine's processors it may use where others leave nothing of them, in percent.
    pub busy_percent: u64,
    /// How much of one processor's time the image's way into the object store takes at most, in percent.
    pub export_percent: u64,
    /// How often it is looked at how much it has written.
    pub disk_look_us: Micros,
    /// How long an installer may be silent before its installation is given to another one.
    pub ack_wait_us: Micros,
    /// How often it is looked for an installation to do.
    pub poll_us: Micros,
    /// How often an installation is begun before it is taken for one that kills its installer.
    pub max_attempts: u64,
    /// The most bytes of images in the fleet's NATS, reserved by the server.
    pub image_bytes: ByteSize,
    /// How much of the end of its log is kept.
    pub log_bytes: ByteSize,
}

impl Default for Installer {
    fn default() -> Self {
        Self {
            memory_bytes: ByteSize(2 << 30),
            disk_bytes: ByteSize(8 << 30),
            processes: 1_024,
            cpu_shares: 64,
            busy_percent: 3,
            export_percent: 10,
            disk_look_us: Micros(2_000_000),
            ack_wait_us: Micros(30_000_000),
            poll_us: Micros(500_000),
            max_attempts: 3,
            image_bytes: ByteSize(8 << 30),
            log_bytes: ByteSize(64 << 10),
        }
    }
}
