//! A KV bucket, as far as it is needed: read from the leader, write with or without the expected revision, delete, list. Keys
//! live for the bucket's age; a per-key TTL would be dropped by the next put.

use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;

use super::{
    api::{ApiError, Stored, code, header, header_of, read_direct_message},
    connect::Bus,
    outage::sit_out,
};

/// What a deletion leaves behind until the bucket's age.
const OPERATION: &str = "KV-Operation";

/// A bucket.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    bus: Bus,
    name: String,
}

/// A key's value, and the revision that the next write expects.
pub(super) struct Entry {
    pub(super) value: Option<Bytes>,
    pub(super) revision: u64,
}

/// A key, whatever it holds.
pub(super) struct Key {
    pub(super) name: String,
    pub(super) is_deleted: bool,
}

impl Bucket {
    pub(super) fn new(bus: &Bus, name: &str) -> Self {
        Self {
            name: bus.names.bucket(name),
            bus: bus.clone(),
        }
    }

    fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// The value of `key` as the leader has it.
    pub(super) async fn get(&self, key: &str) -> Result<Entry, ApiError> {
        let which = json!({ "last_by_subj": self.subject(key) });
        let stored = self.bus.get_from_leader(&self.stream(), &which).await?;
        Ok(match stored {
            Some(stored) => Entry {
                revision: stored.sequence,
                value: (!is_deleted(&stored)).then_some(stored.body),
            },
            None => Entry {
                value: None,
                revision: 0,
            },
        })
    }

    /// Writes `key`, whatever it holds.
    pub(super) async fn put(&self, key: &str, value: Bytes) -> Result<u64, ApiError> {
        let ack = self
            .bus
            .publish_stored(&self.subject(key), HeaderMap::new(), value)
            .await?;
        Ok(ack.sequence)
    }

    /// Writes `key` where its revision is still `revision`. An outage is sat out; a write that was not answered may be the one that
    /// is in our way then.
    pub(super) async fn update(
        &self,
        key: &str,
        value: Bytes,
        revision: u64,
    ) -> Result<u64, ApiError> {
        let patience = self.bus.outage_timeout;
        let written = sit_out(patience, || self.update_once(key, value.clone(), revision)).await;
        match written {
            Err(error) if error.code().is_some_and(code::is_lost_race) => {
                let entry = self.get(key).await?;
                let is_ours = entry.value == Some(value);
                if is_ours {
                    Ok(entry.revision)
                } else {
                    Err(error)
                }
            }
            written => written,
        }
    }

    async fn update_once(&self, key: &str, value: Bytes, revision: u64) -> Result<u64, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::EXPECTED_SEQUENCE, revision.to_string());
        let ack = self
            .bus
            .publish_stored(&self.subject(key), headers, value)
            .await?;
        Ok(ack.sequence)
    }

    /// Deletes `key`.
    pub(super) async fn delete(&self, key: &str) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "PURGE");
        headers.insert("Nats-Rollup", "sub");
        self.bus
            .publish_stored(&self.subject(key), headers, Bytes::new())
            .await?;
        Ok(())
    }

    /// Deletes `key`, and keeps what it held before in its history.
    pub(super) async fn mark_deleted(&self, key: &str) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        self.bus
            .publish_stored(&self.subject(key), headers, Bytes::new())
            .await?;
        Ok(())
    }

    /// What `key` held, the oldest first: `None` where it was deleted. As much as the bucket keeps.
    pub(super) async fn history(&self, key: &str) -> Result<Vec<(u64, Option<Bytes>)>, ApiError> {
        let mut entries = Vec::new();
        let mut next = 1;
        loop {
            let which = json!({ "seq": next, "next_by_subj": self.subject(key) });
            let Some(stored) = self.bus.get_from_leader(&self.stream(), &which).await? else {
                return Ok(entries);
            };
            next = stored.sequence + 1;
            entries.push((
                stored.sequence,
                (!is_deleted(&stored)).then_some(stored.body),
            ));
        }
    }

    /// The last value of every key that has one, at most 1,024: by one request, with no consumer left behind.
    pub(super) async fn list(&self) -> Result<Vec<Stored>, ApiError> {
        let mut entries = self.list_all().await?;
        entries.retain(|entry| !is_deleted(entry));
        Ok(entries)
    }

    /// Every key, those that were deleted and are remembered too.
    pub(super) async fn keys(&self) -> Result<Vec<Key>, ApiError> {
        let head = self.subject("");
        let keys = self.list_all().await?.into_iter().filter_map(|entry| {
            Some(Key {
                name: entry.subject.strip_prefix(&head)?.to_owned(),
                is_deleted: is_deleted(&entry),
            })
        });
        Ok(keys.collect())
    }

    /// The last message of every key, marks of deletion among them.
    async fn list_all(&self) -> Result<Vec<Stored>, ApiError> {
        let call = format!("$JS.API.DIRECT.GET.{}", self.stream());
        let timeout = || ApiError::Timeout {
            subject: call.clone(),
            waited: self.bus.request_timeout,
        };
        let inbox = self.bus.client.new_inbox();
        if !self.bus.stands_within(self.bus.request_timeout).await {
            return Err(ApiError::NotConnected);
        }
        let mut answers = self
            .bus
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|_| ApiError::NotConnected)?;
        let which = json!({ "multi_last": [self.subject(">")] }).to_string();
        let sent = self
            .bus
            .client
            .publish_with_reply(call.clone(), inbox, which.into())
            .await;
        sent.map_err(|_| ApiError::NotConnected)?;
        let mut entries = Vec::new();
        loop {
            let answer = tokio::time::timeout(self.bus.request_timeout, answers.next()).await;
            let answer = answer
                .map_err(|_| timeout())?
                .ok_or(ApiError::NotConnected)?;
            match answer.status.map(|status| status.as_u16()) {
                // 204: that was all. 404: there was nothing.
                Some(204 | 404) => return Ok(entries),
                Some(_) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                    return Err(ApiError::NoResponders { subject: call });
                }
                Some(status) => {
                    return Err(ApiError::Refused {
                        code: u64::from(status),
                        description: answer.description.unwrap_or_default(),
                    });
                }
                None => entries.extend(read_direct_message(answer)),
            }
        }
    }
}

fn is_deleted(stored: &Stored) -> bool {
    header_of(&stored.headers, OPERATION).is_some()
        || stored.headers.get("Nats-Marker-Reason").is_some()
}
