//! The workers there are: each puts what it is, has and runs; one that falls silent is forgotten by the bucket's age.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{api::ApiError, connect::Bus, kv::Bucket};
use crate::submission::{
    names::{RuntimeRef, Tenant},
    result::Isolation,
    units::ByteSize,
};

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Its id, `[A-Za-z0-9_-]{1,64}`.
    pub worker: String,
    /// Its host's name.
    pub host: String,
    /// The program's version.
    pub version: String,
    /// Whether it takes work.
    #[serde(default)]
    pub state: WorkerState,
    /// Submissions at a time.
    pub slots: usize,
    /// What it runs.
    pub running: Vec<Running>,
    /// Memory for all submissions together; 0 where an older version does not say.
    #[serde(default)]
    pub memory_bytes: ByteSize,
    /// What it gives.
    pub isolation: Isolation,
    /// The runtimes whose images it has.
    pub runtimes: Vec<RuntimeRef>,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it said this.
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
}

/// Whether a worker takes work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It does.
    #[default]
    Ready,
    /// An operator told it not to.
    Cordoned,
    /// It finishes what runs, and ends.
    Draining,
    /// It cannot run anything: its Docker Engine fails.
    Unhealthy,
    /// A later version's word.
    #[serde(other)]
    Unknown,
}

/// A submission that a worker runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Whose.
    pub tenant: Tenant,
    /// Which, as its subject has it.
    pub id: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// The memory that the worker holds for it; 0 where an older version does not say.
    #[serde(default)]
    pub memory_bytes: ByteSize,
}

/// The registry could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No key can be so.
    #[error("{0:?} is not a valid worker id: expected [A-Za-z0-9_-]{{1,64}}")]
    WorkerId(String),
    /// It has no JSON form.
    #[error("a heartbeat cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// The workers of a fleet.
#[derive(Debug, Clone)]
pub struct Registry {
    bucket: Bucket,
}

impl Registry {
    /// The registry that this connection reaches.
    pub fn new(bus: &Bus) -> Self {
        Self {
            bucket: Bucket::new(bus, "workers"),
        }
    }

    /// Says what a worker is, has and runs.
    pub async fn put(&self, heartbeat: &Heartbeat) -> Result<(), RegistryError> {
        let key = key(&heartbeat.worker)?;
        let value = serde_json::to_vec(heartbeat)?;
        self.bucket.put(key, value.into()).await?;
        Ok(())
    }

    /// Forgets a worker: it left in good order.
    pub async fn delete(&self, worker: &str) -> Result<(), RegistryError> {
        Ok(self.bucket.delete(key(worker)?).await?)
    }

    /// Every worker that said something within the bucket's age, by id. What cannot be read is another version's and left out.
    pub async fn list(&self) -> Result<Vec<Heartbeat>, RegistryError> {
        let entries = self.bucket.list().await?;
        let mut workers: Vec<Heartbeat> = entries
            .iter()
            .filter_map(|entry| serde_json::from_slice(&entry.body).ok())
            .collect();
        workers.sort_by(|a, b| a.worker.cmp(&b.worker));
        Ok(workers)
    }
}

/// A worker's id is held to the rule for ids, so that it is one token of a key.
fn key(worker: &str) -> Result<&str, RegistryError> {
    let valid = worker.parse::<crate::submission::names::SubmissionId>();
    valid
        .map(|_| worker)
        .map_err(|_| RegistryError::WorkerId(worker.to_owned()))
}
