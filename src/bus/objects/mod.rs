//! A bucket of objects in JetStream's stock layout, so that the `nats` tool reads it: under `$O.<bucket>.M.<name>` what an object is,
//! under `$O.<bucket>.C.<nuid>` its bytes, in messages of a bounded size and in their order.
//!
//! Reading makes no consumer: what an object is comes by one direct get, its bytes by batches of direct gets. Each chunk says in a
//! header where in the object it belongs, so that a part of an object is found without what is before it. An object is there when
//! its description is; that is written last, where it is to be by compare-and-set on the sequence of the one before.

mod upload;

use std::collections::{BTreeMap, HashMap, HashSet};

use async_nats::HeaderMap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

pub use self::upload::Upload;
use super::{
    api::{ApiError, Stored, code, header, header_of},
    connect::Bus,
    credentials::Role,
    outage::sit_out,
    walk::{Walk, batch},
};
use crate::submission::names::Tenant;

/// Where in its object a chunk belongs, in bytes.
const OFFSET: &str = "Envicutor-Offset";

/// The metadata that says as which sequence the first chunk is stored.
const FIRST: &str = "envicutor-first";

/// The chunks that are asked for at a time, and their bytes: what a reading holds in memory.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

/// What an object is, as every client of JetStream's object stores writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What its writer noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The largest of its chunks, and whether it is a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Options>,
    /// The bucket's name.
    pub bucket: String,
    /// What its chunks are stored under.
    #[serde(default)]
    pub nuid: String,
    /// In bytes.
    #[serde(default)]
    pub size: u64,
    /// How many.
    #[serde(default)]
    pub chunks: u64,
    /// When it was written, by the writer's clock.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub mtime: Option<OffsetDateTime>,
    /// `SHA-256=` and base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// It is there no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// More of what an object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Another object, where this is a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Value>,
    /// The size of every chunk but the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_chunk_size: Option<u64>,
}

/// The description of an object, as it is stored.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is.
    pub info: Info,
    /// As which sequence: what a compare-and-set is made on.
    pub sequence: u64,
    /// When, by the server's clock.
    pub stored_at: OffsetDateTime,
}

impl Entry {
    fn read(stored: &Stored) -> Option<Self> {
        Some(Self {
            info: serde_json::from_slice(&stored.body).ok()?,
            sequence: stored.sequence,
            stored_at: stored.stored_at,
        })
    }
}

/// A chunk of an object.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// As which sequence it is stored.
    pub sequence: u64,
    /// Where in the object it belongs; `None` where its writer did not say.
    pub offset: Option<u64>,
    /// Its bytes.
    pub data: Bytes,
}

impl From<Stored> for Chunk {
    fn from(stored: Stored) -> Self {
        Self {
            sequence: stored.sequence,
            offset: header_of(&stored.headers, OFFSET).and_then(|offset| offset.parse().ok()),
            data: stored.body,
        }
    }
}

/// A bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    bus: Bus,
    name: String,
}

impl Bucket {
    /// The blobs of a tenant.
    pub fn of(bus: &Bus, tenant: &Tenant) -> Self {
        Self {
            name: bus.names.blobs_bucket(tenant),
            bus: bus.clone(),
        }
    }

    /// The images of runtimes.
    pub fn images(bus: &Bus) -> Self {
        Self {
            name: bus.names.images_bucket(),
            bus: bus.clone(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn stream(&self) -> String {
        format!("OBJ_{}", self.name)
    }

    /// Whether no direct get may be used. The server sends what one gives, as it is stored, to whatever subject the asker names: an
    /// installer that was taken over could so have it publish a result. The leader's answers are told from results.
    fn is_read_from_leader(&self) -> bool {
        self.bus.role == Role::Installer
    }

    fn meta(&self, object: &str) -> String {
        format!("$O.{}.M.{}", self.name, URL_SAFE.encode(object))
    }

    fn chunk(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.name)
    }

    /// What `object` is, from any replica; that it is not there, or there no more, from the leader. Deleted ones are given too:
    /// their sequence is what a compare-and-set is made on.
    pub async fn entry(&self, object: &str) -> Result<Option<Entry>, ApiError> {
        let (stream, subject) = (self.stream(), self.meta(object));
        if !self.is_read_from_leader() {
            let patience = self.bus.outage_timeout;
            let near = sit_out(patience, || self.bus.get_last(&stream, &subject)).await?;
            let near = near.as_ref().and_then(Entry::read);
            if near.as_ref().is_some_and(|entry| !entry.info.deleted) {
                return Ok(near);
            }
        }
        let which = json!({ "last_by_subj": subject });
        let stored = self.bus.get_from_leader(&stream, &which).await?;
        Ok(stored.as_ref().and_then(Entry::read))
    }

    /// Writes what an object is, where the sequence of its description is still `expected` (0: there is none). The new sequence.
    pub async fn describe(&self, info: &Info, expected: u64) -> Result<u64, ApiError> {
        let body = serde_json::to_vec(info).map_err(|error| ApiError::Answer {
            subject: self.meta(&info.name),
            message: error.to_string(),
        })?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        headers.insert(header::EXPECTED_SEQUENCE, expected.to_string());
        let subject = self.meta(&info.name);
        let ack = self.bus.publish_stored(&subject, headers, body.into());
        Ok(ack.await?.sequence)
    }

    /// Removes a description, where it is still the one that is stored as `sequence`. Whether it was.
    pub async fn forget(&self, sequence: u64) -> Result<bool, ApiError> {
        let call = format!("STREAM.MSG.DELETE.{}", self.stream());
        let which = json!({ "seq": sequence, "no_erase": true });
        // Not `api`: a deletion that happened and was not answered would be refused the second time.
        match self.bus.api_once::<Value>(&call, &which).await {
            Ok(_) => Ok(true),
            Err(error) if error.code().is_some_and(is_gone) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what is stored under a nuid.
    pub async fn purge(&self, nuid: &str) -> Result<(), ApiError> {
        let call = format!("STREAM.PURGE.{}", self.stream());
        let which = json!({ "filter": self.chunk(nuid) });
        self.bus.api::<Value>(&call, &which).await.map(|_| ())
    }

    /// The same for whoever cannot tell whether it may purge: a service may not, and leaves one empty message for the collector. A full
    /// bucket refuses that too.
    pub async fn clear(&self, nuid: &str) -> Result<(), ApiError> {
        if self.bus.role != Role::Service {
            return self.purge(nuid).await;
        }
        let subject = self.chunk(nuid);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let emptied = self.bus.publish_stored(&subject, headers, Bytes::new());
        emptied.await.map(|_| ())
    }

    /// Begins to store chunks.
    pub fn upload(&self) -> Upload {
        Upload::begin(self)
    }

    /// The next chunks under a nuid from the sequence `from`, as many as a batch holds; none at the end.
    pub async fn chunks(&self, nuid: &str, from: u64) -> Result<Vec<Chunk>, ApiError> {
        if self.is_read_from_leader() {
            let next = self.chunk_of_leader(nuid, from).await?;
            return Ok(next.into_iter().collect());
        }
        let (stream, subject) = (self.stream(), self.chunk(nuid));
        let next = batch(&self.bus, &stream, &subject, from, BATCH, BATCH_BYTES);
        Ok(next.await?.into_iter().map(Chunk::from).collect())
    }

    /// The first chunk under a nuid from the sequence `from`.
    pub async fn chunk_at(&self, nuid: &str, from: u64) -> Result<Option<Chunk>, ApiError> {
        if self.is_read_from_leader() {
            return self.chunk_of_leader(nuid, from).await;
        }
        let (stream, subject) = (self.stream(), self.chunk(nuid));
        let next = batch(&self.bus, &stream, &subject, from, 1, BATCH_BYTES);
        Ok(next.await?.pop().map(Chunk::from))
    }

    /// The same from the leader: what a replica that is behind does not have yet.
    pub async fn chunk_of_leader(&self, nuid: &str, from: u64) -> Result<Option<Chunk>, ApiError> {
        let which = json!({ "seq": from, "next_by_subj": self.chunk(nuid) });
        let stored = self.bus.get_from_leader(&self.stream(), &which).await?;
        Ok(stored.map(Chunk::from))
    }

    /// The last chunk under a nuid, and when it was stored: all of it where there is but one.
    pub async fn last_chunk(
        &self,
        nuid: &str,
    ) -> Result<Option<(Chunk, OffsetDateTime)>, ApiError> {
        let (stream, subject) = (self.stream(), self.chunk(nuid));
        let last = if self.is_read_from_leader() {
            let which = json!({ "last_by_subj": subject });
            self.bus.get_from_leader(&stream, &which).await?
        } else {
            self.bus.get_last(&stream, &subject).await?
        };
        Ok(last.map(|stored| {
            let stored_at = stored.stored_at;
            (Chunk::from(stored), stored_at)
        }))
    }

    /// The descriptions that are stored now, one after the other.
    pub async fn entries(&self) -> Result<Entries, ApiError> {
        let state = self.state(None).await?;
        let subject = format!("$O.{}.M.>", self.name);
        let walk = Walk::new(
            &self.bus,
            self.stream(),
            subject,
            state.first_seq,
            state.last_seq,
        );
        Ok(Entries { walk })
    }

    /// The nuids under which something is stored. As many as the server tells of at a time, 100,000: what is left out comes when these
    /// are gone.
    pub async fn nuids(&self) -> Result<HashSet<String>, ApiError> {
        let filter = format!("$O.{}.C.>", self.name);
        let before = filter.len() - 1;
        let subjects = self.state(Some(&filter)).await?.subjects;
        let nuids = subjects.keys().filter_map(|subject| subject.get(before..));
        Ok(nuids.map(ToOwned::to_owned).collect())
    }

    async fn state(&self, subjects: Option<&str>) -> Result<State, ApiError> {
        #[derive(Deserialize)]
        struct Answer {
            state: State,
        }
        let call = format!("STREAM.INFO.{}", self.stream());
        let body = subjects.map_or(Value::Null, |filter| json!({ "subjects_filter": filter }));
        Ok(self.bus.api::<Answer>(&call, &body).await?.state)
    }
}

#[derive(Deserialize)]
struct State {
    first_seq: u64,
    last_seq: u64,
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

/// A walk over the descriptions of a bucket.
#[derive(Debug)]
pub struct Entries {
    walk: Walk,
}

impl Entries {
    /// The next one that is not deleted.
    pub async fn next(&mut self) -> Result<Option<Entry>, ApiError> {
        while let Some(stored) = self.walk.next().await? {
            if let Some(entry) = Entry::read(&stored).filter(|entry| !entry.info.deleted) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

impl Info {
    /// As which sequence its first chunk is stored; 1 where its writer did not say.
    pub fn first_sequence(&self) -> u64 {
        let first = self.metadata.get(FIRST);
        first.and_then(|first| first.parse().ok()).unwrap_or(1)
    }
}

/// Whether there is nothing under this sequence (any more).
const fn is_gone(code: u64) -> bool {
    matches!(code, code::NO_MESSAGE | code::SEQUENCE_NOT_FOUND | 10057)
}
