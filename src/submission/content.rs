//! Bytes as the contract shows them. JSON: `text` where they are UTF-8, else `base64`; MessagePack: `bytes`; or a blob.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{names::Digest, units::ByteSize};

/// A file in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blob {
    /// The SHA-256 of its content.
    pub digest: Digest,
    /// Its size in bytes.
    #[schemars(with = "u64")]
    pub size_bytes: ByteSize,
}

/// What a file, a standard input or an expected output holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In the message itself.
    Inline(Vec<u8>),
    /// In the object store.
    Blob(Blob),
}

impl Default for Content {
    fn default() -> Self {
        Self::Inline(Vec::new())
    }
}

/// What a stage wrote to one of its streams, as far as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The beginning of it, or all.
    pub data: Vec<u8>,
    /// What was written, up to the limit, in bytes.
    #[schemars(with = "u64")]
    pub size_bytes: ByteSize,
    /// More was written than `data` shows.
    pub truncated: bool,
    /// All of it, once blobs exist.
    pub blob: Option<Blob>,
}
