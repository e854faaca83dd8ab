//! How each started attempt of a submission's generation ended: what decides whether it is tried once more. An attempt that
//! started without an end here is one whose worker was lost.

use serde::{Deserialize, Serialize};

use super::{api::ApiError, connect::Bus, kv::Bucket};
use crate::submission::{
    dead_letter::Attempt,
    names::{SubmissionId, Tenant},
    result::FailureCode,
};

/// JetStream's codes for "another one was first", on one node and on a cluster.
const LOST_RACE: [u64; 2] = [10071, 10164];

/// How often a lost race is run again. Two workers at a time are the most there should be.
const TRIES: u32 = 16;

/// What the bucket holds under `<tenant>.<id>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The generation that the attempts are of.
    pub generation: u64,
    /// Every ended attempt, in the order in which the ends were noted.
    pub attempts: Vec<Attempt>,
    /// What the last of them failed for.
    #[serde(default)]
    pub last_code: Option<FailureCode>,
    /// Starts that were handed back by a worker that drained or whose Engine was away: they ended, and do not count.
    #[serde(default)]
    pub handed_back: u64,
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
        /// `<tenant>.<id>`.
        key: String,
    },
    /// It is no record.
    #[error("the attempts of {key} cannot be read: {source}")]
    Unreadable {
        /// `<tenant>.<id>`.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
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
    pub async fn read(&self, tenant: &Tenant, id: &SubmissionId) -> Result<Revised, AttemptsError> {
        let key = key(tenant, id);
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
        id: &SubmissionId,
        record: &Record,
        revision: u64,
    ) -> Result<u64, AttemptsError> {
        let key = key(tenant, id);
        let value = serde_json::to_vec(record).map_err(|source| AttemptsError::Unreadable {
            key: key.clone(),
            source,
        })?;
        match self.bucket.update(&key, value.into(), revision).await {
            Err(error) if error.code().is_some_and(|code| LOST_RACE.contains(&code)) => {
                Err(AttemptsError::Changed { key })
            }
            written => Ok(written?),
        }
    }

    /// Notes that an attempt of `generation` ended, and returns all ended attempts of it. One that is noted already (same worker,
    /// same start) is not noted twice. Attempts of an older generation are forgotten; where a newer generation is noted, nothing
    /// is written.
    pub async fn note(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        generation: u64,
        attempt: &Attempt,
    ) -> Result<Vec<Attempt>, AttemptsError> {
        let mut tries = 0;
        loop {
            let Revised { record, revision } = self.read(tenant, id).await?;
            let mut record = record
                .filter(|record| record.generation >= generation)
                .unwrap_or(Record {
                    generation,
                    ..Record::default()
                });
            let noted = |noted: &Attempt| {
                noted.worker == attempt.worker && noted.started_at == attempt.started_at
            };
            if record.generation > generation || record.attempts.iter().any(noted) {
                return Ok(record.attempts);
            }
            record.attempts.push(attempt.clone());
            match self.update(tenant, id, &record, revision).await {
                Ok(_) => return Ok(record.attempts),
                Err(AttemptsError::Changed { .. }) if tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets the submission's attempts: after its result is stored.
    pub async fn delete(&self, tenant: &Tenant, id: &SubmissionId) -> Result<(), AttemptsError> {
        Ok(self.bucket.delete(&key(tenant, id)).await?)
    }
}

/// Tenant and id are valid tokens of a key by their own rules.
fn key(tenant: &Tenant, id: &SubmissionId) -> String {
    format!("{tenant}.{id}")
}
