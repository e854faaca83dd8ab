//! How each started attempt of a submission's generation ended: what decides whether it is tried once more. An attempt that
//! started without an end here is one whose worker was lost.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    api::{ApiError, code},
    connect::Bus,
    kv::Bucket,
    outage::Outage,
};
use crate::submission::{
    dead_letter::Attempt,
    names::{Lane, SubmissionId, Tenant},
    result::FailureCode,
};

/// What the bucket holds under `<tenant>.<lane>.<id>`: one id can be in both lanes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The generation that the attempts are of.
    pub generation: u64,
    /// The message's sequence in its queue: an id that is published anew much later begins anew.
    #[serde(default)]
    pub sequence: u64,
    /// Every ended attempt, in the order in which the ends were noted.
    pub attempts: Vec<Attempt>,
    /// What the last of them failed for.
    #[serde(default)]
    pub last_code: Option<FailureCode>,
    /// How many of them lost their worker.
    #[serde(default)]
    pub workers_lost: u64,
    /// A start that has not ended. Noted from the second delivery on: the first start is told by its event alone.
    #[serde(default)]
    pub running: Option<Start>,
    /// Starts that were handed back by a worker that drained or whose Engine was away: they ended, and do not count.
    #[serde(default)]
    pub handed_back: u64,
    /// Deliveries that were handed back, started or not, and do not count either.
    #[serde(default)]
    pub uncounted: u64,
}

/// An attempt that runs, or whose worker was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The worker's id.
    pub worker: String,
    /// The worker's host name.
    pub host: String,
    /// When it started, by the worker's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// A record with the revision that the next update expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revised {
    /// The record; absent where there is none.
    pub record: Option<Record>,
    /// 0 where nothing was ever there.
    pub revision: u64,
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AttemptsError {
    /// Another worker wrote it meanwhile.
    #[error("the attempts of {key} were changed by another worker: read them again")]
    Changed {
        /// `<tenant>.<lane>.<id>`.
        key: String,
    },
    /// It is no record.
    #[error("the attempts of {key} cannot be read: {source}")]
    Unreadable {
        /// `<tenant>.<lane>.<id>`.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Outage for AttemptsError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_outage())
    }
}

/// The attempts of a fleet.
#[derive(Debug, Clone)]
pub struct Attempts {
    bucket: Bucket,
}

impl Attempts {
    /// The attempts that this connection reaches.
    pub fn new(bus: &Bus) -> Self {
        Self {
            bucket: Bucket::new(bus, "attempts"),
        }
    }

    /// What is noted, as the leader has it.
    pub async fn read(
        &self,
        tenant: &Tenant,
        lane: Lane,
        id: &SubmissionId,
    ) -> Result<Revised, AttemptsError> {
        let key = key(tenant, lane, id);
        let entry = self.bucket.get(&key).await?;
        let record = match entry.value {
            Some(value) => Some(
                serde_json::from_slice(&value)
                    .map_err(|source| AttemptsError::Unreadable { key, source })?,
            ),
            None => None,
        };
        Ok(Revised {
            record,
            revision: entry.revision,
        })
    }

    /// Writes the record where its revision is still `revision`, and returns the new one.
    pub async fn update(
        &self,
        tenant: &Tenant,
        lane: Lane,
        id: &SubmissionId,
        record: &Record,
        revision: u64,
    ) -> Result<u64, AttemptsError> {
        let key = key(tenant, lane, id);
        let value = serde_json::to_vec(record).map_err(|source| AttemptsError::Unreadable {
            key: key.clone(),
            source,
        })?;
        match self.bucket.update(&key, value.into(), revision).await {
            Err(error) if error.code().is_some_and(code::is_lost_race) => {
                Err(AttemptsError::Changed { key })
            }
            written => Ok(written?),
        }
    }

    /// Forgets the submission's attempts.
    pub async fn delete(
        &self,
        tenant: &Tenant,
        lane: Lane,
        id: &SubmissionId,
    ) -> Result<(), AttemptsError> {
        Ok(self.bucket.delete(&key(tenant, lane, id)).await?)
    }
}

/// Each part is a valid token of a key by its own rules.
fn key(tenant: &Tenant, lane: Lane, id: &SubmissionId) -> String {
    format!("{tenant}.{lane}.{id}")
}
