//! Chunks on their way into a bucket: each is sent when the one before is known to be stored, and only if that is still the last one
//! under its subject. So what an outage leaves behind, a chunk that arrived unacknowledged or one that a client sends late, is
//! never stored twice and never out of order. Large chunks make up for the waiting; see `benches/blobs.rs`.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::{Bucket, FIRST, Info, OFFSET, Options};
use crate::bus::{
    api::{ApiError, code, header},
    outage::sit_out,
};

/// The bytes of a chunk. Larger ones cost the server fewer syncs; NATS takes 1 MiB by default.
const CHUNK: usize = 512 << 10;

/// What a chunk's subject and headers take of the server's `max_payload` at most.
const HEAD: usize = 4 << 10;

/// An upload. What it stored is visible to nobody before it is described.
#[derive(Debug)]
pub struct Upload {
    bucket: Bucket,
    nuid: String,
    chunk: usize,
    /// The sequences of the first and the last chunk; 0 before there is one.
    first: u64,
    last: u64,
    chunks: u64,
    size: u64,
    hash: Sha256,
}

impl Upload {
    pub(super) fn begin(bucket: &Bucket) -> Self {
        let max_payload = bucket.bus.client.server_info().max_payload;
        Self {
            bucket: bucket.clone(),
            // Sorts by the time at which it was made.
            nuid: uuid::Uuid::now_v7().simple().to_string(),
            chunk: CHUNK.min(max_payload.saturating_sub(HEAD)).max(1),
            first: 0,
            last: 0,
            chunks: 0,
            size: 0,
            hash: Sha256::new(),
        }
    }

    /// What its chunks are stored under.
    pub fn nuid(&self) -> &str {
        &self.nuid
    }

    /// Stores `data` behind what was written before. An outage is sat out, for `nats.outage_timeout_us`.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), ApiError> {
        while !data.is_empty() {
            let chunk = data.split_to(self.chunk.min(data.len()));
            let patience = self.bucket.bus.outage_timeout;
            let sequence = sit_out(patience, || self.store(&chunk)).await?;
            if self.chunks == 0 {
                self.first = sequence;
            }
            self.last = sequence;
            self.chunks += 1;
            self.size += chunk.len() as u64;
            self.hash.update(&chunk);
        }
        Ok(())
    }

    /// What was stored.
    pub fn finish(&self, name: &str) -> Info {
        let digest = self.hash.clone().finalize();
        Info {
            name: name.to_owned(),
            description: None,
            metadata: BTreeMap::from([(FIRST.to_owned(), self.first.to_string())]),
            options: Some(Options {
                link: None,
                max_chunk_size: Some(self.chunk as u64),
            }),
            bucket: self.bucket.name.clone(),
            nuid: self.nuid.clone(),
            size: self.size,
            chunks: self.chunks,
            mtime: Some(OffsetDateTime::now_utc()),
            digest: Some(format!("SHA-256={}", URL_SAFE.encode(digest))),
            deleted: false,
        }
    }

    /// Stores the next chunk, or finds that it is stored. As which sequence.
    async fn store(&self, chunk: &Bytes) -> Result<u64, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(OFFSET, self.size.to_string());
        headers.insert(header::EXPECTED_SEQUENCE, self.last.to_string());
        let subject = self.bucket.chunk(&self.nuid);
        let ack = self
            .bucket
            .bus
            .publish_stored(&subject, headers, chunk.clone());
        match ack.await {
            Ok(ack) => Ok(ack.sequence),
            Err(error) if error.code().is_some_and(code::is_lost_race) => self.find(error).await,
            Err(error) => Err(error),
        }
    }

    /// The next chunk after an outage: nobody else writes under this subject, so what was first can only be an earlier try.
    async fn find(&self, refusal: ApiError) -> Result<u64, ApiError> {
        let next = self.bucket.chunk_of_leader(&self.nuid, self.last + 1);
        match next.await? {
            Some(next) if next.offset == Some(self.size) => Ok(next.sequence),
            // A cluster that is agreeing on it: asked for again.
            None if refusal.code() == Some(code::WRITE_UNDERWAY) => Err(ApiError::Unavailable {
                code: code::WRITE_UNDERWAY,
                description: "an earlier try of this chunk is under way".to_owned(),
            }),
            _ => Err(refusal),
        }
    }
}
