//! `ceilings`: what no submission of the fleet may exceed.

use serde::{Deserialize, Serialize};

use crate::submission::{
    catalogue::Ceilings,
    limits::Limits,
    units::{ByteSize, Micros},
};

/// The fleet's ceilings; see [`Ceilings`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FleetCeilings(pub Ceilings);

impl Default for FleetCeilings {
    fn default() -> Self {
        Self(Ceilings {
            limits: Limits {
                cpu_time_us: Micros(60_000_000),
                extra_time_us: Micros(10_000_000),
                wall_time_us: Micros(120_000_000),
                memory_bytes: ByteSize(1 << 30),
                stack_bytes: ByteSize(1 << 30),
                processes: 512,
                open_files: 4_096,
                file_size_bytes: ByteSize(1 << 30),
                disk_bytes: ByteSize(1 << 30),
                inodes: 65_536,
                output_bytes: ByteSize(16 << 20),
            },
            default_total_time_us: Micros(600_000_000),
            total_time_us: Micros(1_800_000_000),
            tests: 1_000,
            files: 1_000,
            blobs: 4_000,
            blob_bytes: ByteSize(1 << 30),
            blob_total_bytes: ByteSize(4 << 30),
            archive_bytes: ByteSize(1 << 30),
            collect_files: 1_000,
            collect_bytes: ByteSize(1 << 30),
            arguments: 256,
            argument_bytes: ByteSize(64 << 10),
        })
    }
}
