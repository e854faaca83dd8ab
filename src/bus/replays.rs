//! How far each batch of replays is, kept in KV `replays` so that one that was interrupted can be gone on with.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    api::{ApiError, code},
    connect::Bus,
    kv::Bucket,
};
use crate::submission::names::SubmissionId;

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReplaysError {
    /// Somebody else goes on with it.
    #[error("the batch {0} is being replayed by another command")]
    Changed(SubmissionId),
    /// It is no record of this version.
    #[error("the record of the batch {batch} cannot be read or written: {source}")]
    Unreadable {
        /// Which.
        batch: SubmissionId,
        /// Why.
        source: serde_json::Error,
    },
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// The batches of a fleet.
#[derive(Debug, Clone)]
pub struct Replays {
    bucket: Bucket,
}

impl Replays {
    /// The batches that this connection reaches.
    pub fn new(bus: &Bus) -> Self {
        Self {
            bucket: Bucket::new(bus, "replays"),
        }
    }

    /// What is kept of a batch, and the revision that the next update expects; `None` where nothing is.
    pub async fn read<T: DeserializeOwned>(
        &self,
        batch: &SubmissionId,
    ) -> Result<Option<(T, u64)>, ReplaysError> {
        let entry = self.bucket.get(batch.as_str()).await?;
        let Some(value) = entry.value else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&value).map_err(|source| unreadable(batch, source))?;
        Ok(Some((record, entry.revision)))
    }

    /// Keeps a batch where its revision is still `revision`, 0 for a new one, and returns the new one.
    pub async fn update(
        &self,
        batch: &SubmissionId,
        record: &impl Serialize,
        revision: u64,
    ) -> Result<u64, ReplaysError> {
        let value = serde_json::to_vec(record).map_err(|source| unreadable(batch, source))?;
        let updated = self.bucket.update(batch.as_str(), value.into(), revision);
        match updated.await {
            Err(error) if error.code().is_some_and(code::is_lost_race) => {
                Err(ReplaysError::Changed(batch.clone()))
            }
            updated => Ok(updated?),
        }
    }

    /// The batches that are kept, at most 1,024. What cannot be read is another version's and left out.
    pub async fn list<T: DeserializeOwned>(&self) -> Result<Vec<T>, ReplaysError> {
        let entries = self.bucket.list().await?;
        let records = entries
            .iter()
            .filter_map(|entry| serde_json::from_slice(&entry.body).ok());
        Ok(records.collect())
    }
}

fn unreadable(batch: &SubmissionId, source: serde_json::Error) -> ReplaysError {
    ReplaysError::Unreadable {
        batch: batch.clone(),
        source,
    }
}
