//! What one program of the fleet does at a time: a record in KV `leases`, taken, renewed and given back by compare-and-set.
//!
//! A lease spares work; it is no lock. Whoever lost one without noticing, because it stood still, goes on until it renews: what is
//! done under a lease must do no harm when two do it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    api::{ApiError, code},
    connect::Bus,
    kv::Bucket,
};

/// The leases of a fleet.
#[derive(Debug, Clone)]
pub struct Leases {
    bucket: Bucket,
}

/// Who has a lease, and when the last one was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    holder: String,
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    done_at: Option<OffsetDateTime>,
}

/// What came of asking for a lease.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Box<Lease>),
    /// Another one has it.
    Held {
        /// Who.
        holder: String,
    },
    /// It was done not long ago.
    Done,
}

/// A lease that is ours.
#[derive(Debug)]
pub struct Lease {
    bucket: Bucket,
    key: String,
    record: Record,
    revision: u64,
    holds: Duration,
}

impl Leases {
    /// The leases that this connection reaches.
    pub fn new(bus: &Bus) -> Self {
        Self {
            bucket: Bucket::new(bus, "leases"),
        }
    }

    /// Takes the lease `key` for `holder`, for the time that it `holds` unless it is renewed; not where another one has it, nor where
    /// what it is for was done within `every`.
    pub async fn take(
        &self,
        key: &str,
        holder: &str,
        holds: Duration,
        every: Duration,
    ) -> Result<Taken, ApiError> {
        let entry = self.bucket.get(key).await?;
        // What cannot be read is another version's: it is written over.
        let known = entry
            .value
            .and_then(|value| serde_json::from_slice::<Record>(&value).ok());
        let now = OffsetDateTime::now_utc();
        if let Some(held) = &known {
            if held.until > now {
                let holder = held.holder.clone();
                return Ok(Taken::Held { holder });
            }
            if held.done_at.is_some_and(|done_at| now - done_at < every) {
                return Ok(Taken::Done);
            }
        }
        let mut lease = Lease {
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            record: Record {
                holder: holder.to_owned(),
                until: now,
                done_at: known.and_then(|known| known.done_at),
            },
            revision: entry.revision,
            holds,
        };
        if lease.renew().await? {
            Ok(Taken::Ours(Box::new(lease)))
        } else {
            let holder = "another program".to_owned();
            Ok(Taken::Held { holder })
        }
    }
}

impl Lease {
    /// Holds it for as long again; false where it is another one's now.
    pub async fn renew(&mut self) -> Result<bool, ApiError> {
        self.write(OffsetDateTime::now_utc() + self.holds).await
    }

    /// Gives it back. Where what it is for `is_done`, nobody takes it for a while.
    pub async fn give_back(mut self, is_done: bool) -> Result<(), ApiError> {
        let now = OffsetDateTime::now_utc();
        if is_done {
            self.record.done_at = Some(now);
        }
        self.write(now).await.map(|_| ())
    }

    async fn write(&mut self, until: OffsetDateTime) -> Result<bool, ApiError> {
        self.record.until = until;
        let value = serde_json::to_vec(&self.record).map_err(|error| ApiError::Answer {
            subject: self.key.clone(),
            message: error.to_string(),
        })?;
        let written = self.bucket.update(&self.key, value.into(), self.revision);
        match written.await {
            Ok(revision) => {
                self.revision = revision;
                Ok(true)
            }
            Err(error) if error.code().is_some_and(code::is_lost_race) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
