//! The result of a submission: settled once for each generation by compare-and-set, read by id, listened for.
//!
//! The invariant: [`Results::settle`] says "stored" or "standing" only for what it saw in the leader's state: its own
//! acknowledgement, or the message itself. Whoever gets neither must not acknowledge the submission.

use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::{
    api::{ApiError, Stored, code, generation_of, header, header_of},
    connect::Bus,
    outage::{Backoff, Outage},
};
use crate::submission::{
    encoding::{Encoding, EncodingError},
    names::Tenant,
    result::SubmissionResult,
};

/// Between two tries to settle: doubled from this up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// The longest wait between two tries to settle.
const RETRY_MOST: Duration = Duration::from_secs(2);

/// A result to be stored.
#[derive(Debug, Clone)]
pub struct Settlement<'a> {
    /// Whose.
    pub tenant: &'a Tenant,
    /// The id as the submission's subject has it.
    pub raw_id: &'a str,
    /// Which generation.
    pub generation: u64,
    /// The encoding of `body`.
    pub encoding: Encoding,
    /// The encoded [`SubmissionResult`].
    pub body: Bytes,
}

/// What a settlement came to. Both mean that a result of this generation or a later one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Ours, under this sequence.
    Stored(u64),
    /// Another one was first: it, and its sequence.
    Standing(Box<SubmissionResult>, u64),
}

/// A result that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The result.
    pub result: SubmissionResult,
    /// Its sequence in RESULTS.
    pub sequence: u64,
}

/// A result could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// Tried until the time was up; it may or may not be stored.
    #[error(
        "it is not known whether the result of {tenant}/{id} is stored, after {tried:?}: {last}"
    )]
    Unknown {
        /// Whose.
        tenant: Tenant,
        /// Which.
        id: String,
        /// For how long it was tried.
        tried: Duration,
        /// The last error.
        last: ApiError,
    },
    /// No message can be so large.
    #[error(
        "the result of {tenant}/{id} has {size} bytes, more than the server takes in one message"
    )]
    TooLarge {
        /// Whose.
        tenant: Tenant,
        /// Which.
        id: String,
        /// Its size in bytes.
        size: usize,
    },
    /// What stands is no result that this version can read.
    #[error("the result that stands under {subject} cannot be read: {source}")]
    Unreadable {
        /// Where.
        subject: String,
        /// Why.
        source: EncodingError,
    },
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The result subject cannot be listened to.
    #[error("a result cannot be listened for: {0}")]
    Subscribe(String),
}

impl Outage for ResultError {
    fn is_outage(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::Api(error) => error.is_outage(),
            Self::TooLarge { .. } | Self::Unreadable { .. } | Self::Subscribe(_) => false,
        }
    }
}

/// The results of a fleet.
#[derive(Debug, Clone)]
pub struct Results {
    bus: Bus,
}

/// What stands under a result's subject, as far as a settlement cares.
enum Found {
    /// Nothing, or what this settlement replaces: the sequence to expect.
    Replaceable(u64),
    /// Our own bytes.
    Ours(u64),
    /// A result of this generation or a later one.
    Other(Box<SubmissionResult>, u64),
}

impl Results {
    /// The results that this connection reaches.
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// Stores the result, unless one of this generation or a later one stands. Tries for `patience`; any refusal and any lost
    /// answer means "look, then decide".
    pub async fn settle(
        &self,
        settlement: &Settlement<'_>,
        patience: Duration,
    ) -> Result<Settled, ResultError> {
        let started = Instant::now();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        // The first generation most likely finds nothing; a replay most likely finds the one before.
        let mut expected = if settlement.generation == 0 {
            Ok(0)
        } else {
            self.look(settlement).await
        };
        loop {
            let last = match expected {
                Ok(sequence) => match self.publish(settlement, sequence).await {
                    Ok(stored) => return Ok(Settled::Stored(stored)),
                    Err(error) => error,
                },
                Err(Looked::Stands(settled)) => return Ok(settled),
                Err(Looked::Failed(ResultError::Api(error))) => error,
                Err(Looked::Failed(error)) => return Err(error),
            };
            give_up_on(settlement, &last)?;
            let wait = backoff.next_wait();
            if started.elapsed() + wait > patience {
                // The last word is what stands, not what an answer said.
                return match self.look(settlement).await {
                    Err(Looked::Stands(settled)) => Ok(settled),
                    _ => Err(ResultError::Unknown {
                        tenant: settlement.tenant.clone(),
                        id: settlement.raw_id.to_owned(),
                        tried: started.elapsed(),
                        last,
                    }),
                };
            }
            tracing::debug!(%last, "a settlement was not acknowledged: what stands is looked at");
            expected = self.look(settlement).await;
            if !matches!(expected, Err(Looked::Stands(_))) {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// The sequence to expect, or why there is none.
    async fn look(&self, settlement: &Settlement<'_>) -> Result<u64, Looked> {
        match self.find(settlement).await {
            Ok(Found::Replaceable(sequence)) => Ok(sequence),
            Ok(Found::Ours(sequence)) => Err(Looked::Stands(Settled::Stored(sequence))),
            Ok(Found::Other(result, sequence)) => {
                Err(Looked::Stands(Settled::Standing(result, sequence)))
            }
            Err(error) => Err(Looked::Failed(error)),
        }
    }

    /// Publishes, with the expectation and nothing else: a `Nats-Msg-Id` would be answered differently on a cluster, and the
    /// expectation's `-Subject` header turns the check off.
    async fn publish(&self, settlement: &Settlement<'_>, expected: u64) -> Result<u64, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, settlement.encoding.content_type());
        headers.insert(header::GENERATION, settlement.generation.to_string());
        headers.insert(header::EXPECTED_SEQUENCE, expected.to_string());
        let subject = self.bus.names.settle(settlement.tenant, settlement.raw_id);
        fail_point!(Settle, settlement.raw_id, ApiError::NotConnected);
        let ack = self
            .bus
            .publish_stored(&subject, headers, settlement.body.clone())
            .await?;
        fail_point!(Stored, settlement.raw_id, ApiError::NotConnected);
        Ok(ack.sequence)
    }

    async fn find(&self, settlement: &Settlement<'_>) -> Result<Found, ResultError> {
        let Some(stored) = self
            .get_from_leader(settlement.tenant, settlement.raw_id)
            .await?
        else {
            return Ok(Found::Replaceable(0));
        };
        if stored.body == settlement.body {
            return Ok(Found::Ours(stored.sequence));
        }
        let sequence = stored.sequence;
        let is_signed = stored.headers.get(header::GENERATION).is_some();
        match decode(&stored) {
            Ok(result) if result.generation >= settlement.generation => {
                Ok(Found::Other(Box::new(result), sequence))
            }
            // Another version's, perhaps: never replaced by an equal or older generation.
            Err(error)
                if is_signed
                    && generation_of(&stored.headers)
                        .is_none_or(|g| g >= settlement.generation) =>
            {
                Err(error)
            }
            // An older generation; or no result at all. A service can have the server's own answers sent to any subject.
            Ok(_) | Err(_) => Ok(Found::Replaceable(sequence)),
        }
    }

    async fn get_from_leader(
        &self,
        tenant: &Tenant,
        raw_id: &str,
    ) -> Result<Option<Stored>, ApiError> {
        let subject = self.bus.names.result(tenant, raw_id);
        let stream = self.bus.names.results_stream();
        self.bus
            .get_from_leader(&stream, &json!({ "last_by_subj": subject }))
            .await
    }

    /// The result that stands, from the leader: what a decision is built on.
    pub async fn standing(
        &self,
        tenant: &Tenant,
        raw_id: &str,
    ) -> Result<Option<Standing>, ResultError> {
        let stored = self.get_from_leader(tenant, raw_id).await?;
        read_standing(stored)
    }

    /// The result that stands, from any replica: fast, and on a cluster perhaps a moment old.
    pub async fn read(&self, tenant: &Tenant, id: &str) -> Result<Option<Standing>, ResultError> {
        let subject = self.bus.names.result(tenant, id);
        let stored = self
            .bus
            .get_last(&self.bus.names.results_stream(), &subject)
            .await?;
        read_standing(stored)
    }

    /// Listens for the result of one submission. What stands already is not told: read it after this, on the same connection, and
    /// nothing is missed in between.
    pub async fn subscribe(
        &self,
        tenant: &Tenant,
        raw_id: &str,
    ) -> Result<ResultListener, ResultError> {
        // While there is no connection the client's queue may be full.
        let subscriber = self
            .bus
            .client
            .subscribe(self.bus.names.result(tenant, raw_id));
        let subscriber = timeout(self.bus.request_timeout, subscriber)
            .await
            .map_err(|_| ApiError::NotConnected)?;
        let subscriber = subscriber.map_err(|error| ResultError::Subscribe(error.to_string()))?;
        Ok(ResultListener { subscriber })
    }
}

/// Why there is no sequence to expect.
enum Looked {
    Stands(Settled),
    Failed(ResultError),
}

/// Hears of one submission's results.
#[derive(Debug)]
pub struct ResultListener {
    subscriber: Subscriber,
}

impl ResultListener {
    /// The next result; `None` once the connection is closed for good. One may be missed while the connection is broken. May be
    /// dropped while it waits.
    pub async fn next(&mut self) -> Option<Result<SubmissionResult, ResultError>> {
        let message = self.subscriber.next().await?;
        let headers = message.headers.unwrap_or_default();
        Some(decode_body(&message.subject, &headers, &message.payload))
    }
}

/// An error that no second try mends.
fn give_up_on(settlement: &Settlement<'_>, error: &ApiError) -> Result<(), ResultError> {
    if *error == ApiError::TooLarge || error.code() == Some(code::MESSAGE_TOO_LARGE) {
        return Err(ResultError::TooLarge {
            tenant: settlement.tenant.clone(),
            id: settlement.raw_id.to_owned(),
            size: settlement.body.len(),
        });
    }
    Ok(())
}

/// What stands, where it is a result. What is none was not stored by a worker, and counts for nothing.
fn read_standing(stored: Option<Stored>) -> Result<Option<Standing>, ResultError> {
    let Some(stored) = stored else {
        return Ok(None);
    };
    match decode(&stored) {
        Ok(result) => Ok(Some(Standing {
            result,
            sequence: stored.sequence,
        })),
        Err(error) if stored.headers.get(header::GENERATION).is_some() => Err(error),
        Err(_) => Ok(None),
    }
}

fn decode(stored: &Stored) -> Result<SubmissionResult, ResultError> {
    decode_body(&stored.subject, &stored.headers, &stored.body)
}

fn decode_body(
    subject: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<SubmissionResult, ResultError> {
    Encoding::of_content_type(header_of(headers, header::CONTENT_TYPE))
        .and_then(|encoding| encoding.decode(body))
        .map_err(|source| ResultError::Unreadable {
            subject: subject.to_owned(),
            source,
        })
}
