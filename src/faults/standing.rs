//! Reads what the streams hold at the end: every result and every dead letter, message by message from the leaders, and what is
//! left in the queues.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::{
    evidence::{Letter, Standing},
    history::Seen,
};
use crate::{
    bus::{
        Bus,
        api::{ApiError, Stored},
        dead_letters::{self, DeadLetterError, DeadLetters},
    },
    submission::{
        encoding::EncodingError,
        names::{Digest, Lane, Tenant},
    },
};

/// The streams could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// The server could not be asked.
    #[error("the streams cannot be read: {0}")]
    Api(#[from] ApiError),
    /// A letter is none.
    #[error(transparent)]
    Letter(#[from] DeadLetterError),
    /// A result is none.
    #[error("the result {subject} cannot be read: {source}")]
    Result {
        /// Under which subject.
        subject: String,
        /// Why.
        source: EncodingError,
    },
}

/// What `STREAM.INFO` says.
#[derive(Debug, Deserialize)]
struct StreamInfo {
    state: State,
}

#[derive(Debug, Deserialize)]
struct State {
    messages: u64,
    last_seq: u64,
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

/// What `CONSUMER.INFO` says.
#[derive(Debug, Deserialize)]
struct ConsumerInfo {
    delivered: Delivered,
    num_ack_pending: u64,
}

#[derive(Debug, Deserialize)]
struct Delivered {
    consumer_seq: u64,
}

/// Everything that the streams hold. Needs the operator's rights.
pub(super) async fn read(bus: &Bus) -> Result<Standing, StandingError> {
    let mut standing = Standing {
        results: results(bus).await?,
        letters: letters(bus).await?,
        ..Standing::default()
    };
    let tenant = Tenant::default_tenant();
    let stream = bus.names.submissions_stream(&tenant);
    let state = state(bus, &stream).await?;
    standing.stored = state.last_seq;
    standing.queued = state.subjects.into_keys().collect();
    for lane in Lane::ALL {
        let call = format!("CONSUMER.INFO.{stream}.{lane}");
        let info: ConsumerInfo = bus.api(&call, &json!(null)).await?;
        standing.unacknowledged += info.num_ack_pending;
        standing.deliveries += info.delivered.consumer_seq;
    }
    Ok(standing)
}

/// How many messages the queue holds.
pub(super) async fn queued(bus: &Bus) -> Result<u64, ApiError> {
    let stream = bus.names.submissions_stream(&Tenant::default_tenant());
    Ok(state(bus, &stream).await?.messages)
}

async fn state(bus: &Bus, stream: &str) -> Result<State, ApiError> {
    let call = format!("STREAM.INFO.{stream}");
    let info: StreamInfo = bus.api(&call, &json!({ "subjects_filter": ">" })).await?;
    Ok(info.state)
}

async fn results(bus: &Bus) -> Result<Vec<Seen>, StandingError> {
    let stream = bus.names.results_stream();
    let mut results = Vec::new();
    let mut from = 1;
    while let Some(stored) = next(bus, &stream, from).await? {
        from = stored.sequence + 1;
        let seen = Seen::read(&stored.headers, &stored.body, stored.sequence);
        results.push(seen.map_err(|source| StandingError::Result {
            subject: stored.subject,
            source,
        })?);
    }
    Ok(results)
}

async fn next(bus: &Bus, stream: &str, from: u64) -> Result<Option<Stored>, ApiError> {
    let which = json!({ "seq": from, "next_by_subj": ">" });
    bus.get_from_leader(stream, &which).await
}

async fn letters(bus: &Bus) -> Result<Vec<Letter>, StandingError> {
    let all = DeadLetters::new(bus);
    let mut letters = Vec::new();
    let mut from = 1;
    while let Some(dead_letters::Letter { sequence, letter }) = all.next(from).await? {
        from = sequence + 1;
        letters.push(Letter {
            id: letter.id.to_string(),
            generation: letter.generation,
            code: letter.reason.code,
            content: Digest::of(&letter.submission.body),
            attempts: letter.attempts.len(),
            sequence,
        });
    }
    Ok(letters)
}
