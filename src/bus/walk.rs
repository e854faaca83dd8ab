//! A walk through the messages of a stream that stay where they are, in the order of their sequences: in batches from any
//! replica, which is fast, and the end from the leader, so that a replica that is behind hides nothing.

use std::collections::VecDeque;

use async_nats::{Message, StatusCode};
use futures_util::StreamExt as _;
use serde_json::json;

use super::{
    api::{ApiError, Stored, read_direct_message},
    connect::Bus,
};

/// The messages that are asked for at a time.
const BATCH: usize = 64;
/// The bytes that are asked for at a time: what a walk holds in memory, but for one message.
const BATCH_BYTES: usize = 4 << 20;

/// A walk. It ends at a sequence that is known when it begins, so that what comes meanwhile is not part of it.
#[derive(Debug)]
pub struct Walk {
    bus: Bus,
    stream: String,
    subject: String,
    next: u64,
    last: u64,
    fetched: VecDeque<Stored>,
}

impl Walk {
    /// Over the messages of `stream` from the sequence `first` to `last`, both included, whose subject matches.
    pub fn new(bus: &Bus, stream: String, subject: String, first: u64, last: u64) -> Self {
        Self {
            bus: bus.clone(),
            stream,
            subject,
            next: first.max(1),
            last,
            fetched: VecDeque::new(),
        }
    }

    /// The next message; `None` when there is no more. After an error it may be called again.
    pub async fn next(&mut self) -> Result<Option<Stored>, ApiError> {
        if self.fetched.is_empty() && self.next <= self.last {
            self.fetched = self.fetch().await?.into();
        }
        if self.fetched.is_empty() && self.next <= self.last {
            let which = json!({ "seq": self.next, "next_by_subj": self.subject });
            let stored = self.bus.get_from_leader(&self.stream, &which).await?;
            self.fetched.extend(stored);
        }
        let stored = self.fetched.pop_front();
        let stored = stored.filter(|stored| stored.sequence <= self.last);
        match &stored {
            Some(stored) => self.next = stored.sequence + 1,
            None => self.next = self.last.saturating_add(1),
        }
        Ok(stored)
    }

    /// The next messages that a replica has: none where it has no more.
    async fn fetch(&self) -> Result<Vec<Stored>, ApiError> {
        let (stream, subject) = (&self.stream, &self.subject);
        batch(&self.bus, stream, subject, self.next, BATCH, BATCH_BYTES).await
    }
}

/// The messages of `stream` from the sequence `first` that match and that a replica has: `most` of them or `most_bytes`, or as many
/// as there are.
pub(super) async fn batch(
    bus: &Bus,
    stream: &str,
    subject: &str,
    first: u64,
    most: usize,
    most_bytes: usize,
) -> Result<Vec<Stored>, ApiError> {
    let call = format!("$JS.API.DIRECT.GET.{stream}");
    let inbox = bus.client.new_inbox();
    let answers = bus.client.subscribe(inbox.clone()).await;
    let mut answers = answers.map_err(|_| ApiError::NotConnected)?;
    let which = json!({
        "seq": first, "next_by_subj": subject, "batch": most, "max_bytes": most_bytes
    });
    let sent = bus
        .client
        .publish_with_reply(call.clone(), inbox, which.to_string().into())
        .await;
    sent.map_err(|_| ApiError::NotConnected)?;
    let mut fetched = Vec::new();
    loop {
        let answer = tokio::time::timeout(bus.request_timeout, answers.next()).await;
        let answer = answer.map_err(|_| ApiError::Timeout {
            subject: call.clone(),
            waited: bus.request_timeout,
        })?;
        let answer: Message = answer.ok_or(ApiError::NotConnected)?;
        match answer.status {
            // 204: that was the batch. 404: there is none.
            Some(status) if matches!(status.as_u16(), 204 | 404) => return Ok(fetched),
            Some(StatusCode::NO_RESPONDERS) => {
                return Err(ApiError::NoResponders { subject: call });
            }
            Some(status) => {
                return Err(ApiError::Refused {
                    code: u64::from(status.as_u16()),
                    description: answer.description.unwrap_or_default(),
                });
            }
            None => fetched.extend(read_direct_message(answer)),
        }
    }
}
