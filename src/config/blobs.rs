//! `blobs`: the object store of files, large outputs and artifacts, and what is kept there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::submission::units::{ByteSize, Micros};

/// The object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Blobs {
    /// `nats://`: the fleet's own NATS, a bucket for each tenant. `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix`: a folder for each tenant.
    pub url: String,
    /// Options of a cloud store, as `object_store` names them (`aws_endpoint`, `allow_http`); they go before the environment's.
    pub options: BTreeMap<String, String>,
    /// The bytes of a part: a larger blob is uploaded in several. S3 takes no less than 5 MiB; in NATS and a directory it is 1 MiB at most.
    pub part_bytes: ByteSize,
    /// The parts of one upload that are on their way at a time.
    pub uploads: usize,
    /// How long one call to the store may take, and a transfer may stand still.
    pub call_timeout_us: Micros,
    /// How long to ask again while the store does not answer.
    pub outage_timeout_us: Micros,
    /// How long a blob that nothing refers to is kept. What was claimed is published within half of it.
    pub grace_us: Micros,
    /// How often a worker of the fleet collects what nothing refers to.
    pub gc_us: Micros,
    /// How long an entry of the compile cache stands that nobody uses.
    pub cache_age_us: Micros,
    /// The most bytes of a tenant's bucket, reserved by the NATS server.
    pub tenant_bytes: ByteSize,
}

impl Default for Blobs {
    fn default() -> Self {
        Self {
            url: "nats://".into(),
            options: BTreeMap::new(),
            part_bytes: ByteSize(5 << 20),
            uploads: 2,
            call_timeout_us: Micros(30_000_000),
            outage_timeout_us: Micros(20_000_000),
            grace_us: Micros(24 * 3_600_000_000),
            gc_us: Micros(3_600_000_000),
            cache_age_us: Micros(7 * 24 * 3_600_000_000),
            tenant_bytes: ByteSize(4 << 30),
        }
    }
}

impl Blobs {
    /// Whether the blobs are in the fleet's own NATS.
    pub fn is_nats(&self) -> bool {
        self.url.starts_with("nats:")
    }
}
