//! The submissions that are over, as they were published: what one is replayed from whose message is gone from the queue.
//!
//! Whoever ends a submission keeps it, without waiting, so that neither a publisher nor a result is slower for it; the oldest go
//! first, by age and by bytes. It is no part of the delivery: nothing that a worker decides is read here.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{ApiError, Stored, generation_of, header, header_of},
    connect::Bus,
    publish::{kept_headers, submission_digest},
    subjects::Address,
    walk::Walk,
};
use crate::submission::{
    names::{Digest, Lane, SubmissionId, Tenant},
    units::{ByteSize, Micros},
};

/// A submission that is over.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Where it was queued.
    pub lane: Lane,
    /// 0, and one more for each replay.
    pub generation: u64,
    /// Of the body that its service published.
    pub digest: Digest,
    /// As published, as far as they are kept.
    pub headers: HeaderMap,
    /// As published.
    pub body: Bytes,
}

/// What is kept of a fleet's submissions.
#[derive(Debug, Clone)]
pub struct History {
    bus: Bus,
}

/// Keeps a submission that is over: to be called before its message leaves the queue. It may be lost, and is told in the log
/// where that is known.
pub async fn keep(bus: &Bus, address: &Address, headers: &HeaderMap, body: Bytes) {
    let mut kept: HeaderMap = kept_headers(headers)
        .iter()
        .filter_map(|(name, value)| {
            let name: HeaderName = name.parse().ok()?;
            Some((name, value.parse::<HeaderValue>().ok()?))
        })
        .collect();
    if let Some(content_type) = header_of(headers, header::CONTENT_TYPE) {
        kept.insert(header::CONTENT_TYPE, content_type);
    }
    let Address {
        tenant,
        lane,
        raw_id,
    } = address;
    let subject = bus.names.history(tenant, *lane, raw_id);
    if let Err(error) = bus.client.publish_with_headers(subject, kept, body).await {
        tracing::debug!(%tenant, id = raw_id, %error, "a submission is not kept for replays");
    }
}

impl History {
    /// The history that this connection reaches.
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// What was kept last under an id that `wanted` holds of; `None` where nothing is kept that it holds of.
    pub async fn last(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        wanted: impl Fn(&Kept) -> bool,
    ) -> Result<Option<Kept>, ApiError> {
        let stream = self.bus.names.history_stream();
        let subject = self.bus.names.history_in_any_lane(tenant, id.as_str());
        let which = json!({ "last_by_subj": subject });
        let Some(last) = self.bus.get_from_leader(&stream, &which).await? else {
            return Ok(None);
        };
        let end = last.sequence;
        if let Some(found) = self.read(last).filter(&wanted) {
            return Ok(Some(found));
        }
        let mut earlier = Walk::new(&self.bus, stream, subject, 1, end.saturating_sub(1));
        let mut found = None;
        while let Some(stored) = earlier.next().await? {
            found = self.read(stored).filter(&wanted).or(found);
        }
        Ok(found)
    }

    /// For how long and up to how many bytes in all they are kept, as the server has it.
    pub async fn bounds(&self) -> Result<(Micros, ByteSize), ApiError> {
        #[derive(Deserialize)]
        struct Info {
            config: Config,
        }
        #[derive(Deserialize)]
        struct Config {
            max_age: u64,
            max_bytes: i64,
        }
        let call = format!("STREAM.INFO.{}", self.bus.names.history_stream());
        let Info { config } = self.bus.api(&call, &Value::Null).await?;
        let bytes = u64::try_from(config.max_bytes).unwrap_or(u64::MAX);
        Ok((Micros(config.max_age / 1_000), ByteSize(bytes)))
    }

    fn read(&self, stored: Stored) -> Option<Kept> {
        let generation = generation_of(&stored.headers)?;
        let named = header_of(&stored.headers, header::DIGEST);
        Some(Kept {
            lane: self.bus.names.address(&stored.subject)?.lane,
            generation,
            digest: submission_digest(generation, named, &stored.body),
            headers: stored.headers,
            body: stored.body,
        })
    }
}
