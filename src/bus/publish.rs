//! A service publishes a submission, an operator has one run again: stored, or refused there and then with the reason.
//!
//! With a service's submission no `Nats-Msg-Id` is sent, so an acknowledgement never means "a duplicate": an id that is queued or
//! running is refused by its subject. A replay sends one, of its generation: a publish that arrives late is not stored again.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{
    api::{ApiError, Stored, code, header},
    connect::Bus,
};
use crate::submission::{
    encoding::Encoding,
    names::{Digest, Lane, SubmissionId, Tenant},
};

/// The largest submission, in bytes, headers included; what the queue's `max_msg_size` says.
pub const MAX_SUBMISSION_BYTES: usize = 512 << 10;

/// What a publisher is told to wait at least before it tries a full queue again. Room comes as fast as submissions end, which
/// nobody knows ahead: long enough that the tries of many publishers are no load of their own.
pub const QUEUE_FULL_WAIT: Duration = Duration::from_secs(5);

/// Before another try of a publish that passed for another reason.
const PASSING_WAIT: Duration = Duration::from_secs(1);

/// A submission that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its place in the tenant's queue.
    pub sequence: u64,
}

/// A submission that is to run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Republication {
    /// Whose.
    pub tenant: Tenant,
    /// Where it is to be queued.
    pub lane: Lane,
    /// Which.
    pub id: SubmissionId,
    /// The generation that it makes: one more than the last.
    pub generation: u64,
    /// As the service published it, or as it was edited.
    pub body: Vec<u8>,
    /// The `Content-Type` as it came.
    pub content_type: Option<String>,
    /// The headers that it has besides; see [`kept_headers`]. The generation's own go before them.
    pub headers: BTreeMap<String, String>,
}

/// A submission that is not stored, or of which that is not known.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There is no such tenant.
    #[error(
        "there is no queue for the tenant {tenant} and the lane {lane}: the operator adds a tenant to nats.tenants and runs `envicutor nats apply`"
    )]
    NoSuchQueue {
        /// Which.
        tenant: Tenant,
        /// Which.
        lane: Lane,
    },
    /// The id is taken for as long as the earlier submission is queued or runs. It was seen in the queue.
    #[error("{id} is still queued or running: wait for its result, or choose another id")]
    StillQueued {
        /// Which.
        id: SubmissionId,
        /// Whether what is queued is this body: an earlier try of the same publish, perhaps.
        is_same: bool,
    },
    /// The server says that the id is queued, and does not have it: what it was asked to store it may never store, where it is
    /// about to lose its place. Publishing it again under the same id is safe.
    #[error(
        "it is not known whether the submission was stored: the NATS server counts {id} as queued and does not have it. Publish it again with the same id"
    )]
    NotSeen {
        /// Which.
        id: SubmissionId,
    },
    /// The tenant has too much queued.
    #[error(
        "the queue of {tenant} is full ({description}): nothing was stored. Try again in {} s, and wait longer each time",
        QUEUE_FULL_WAIT.as_secs()
    )]
    QueueFull {
        /// Whose.
        tenant: Tenant,
        /// In the server's words.
        description: String,
    },
    /// The body is too large.
    #[error("the submission has {size} bytes, the most is {MAX_SUBMISSION_BYTES}")]
    TooLarge {
        /// Of the body, in bytes.
        size: usize,
    },
    /// The tenant's queue has no leader at this moment. Publishing it again is safe.
    #[error(
        "the queue of {tenant} has no leader at this moment: the submission was not stored. Publish it again"
    )]
    NoLeader {
        /// Whose.
        tenant: Tenant,
    },
    /// Nothing was heard: it may be stored. Publishing it again under the same id is safe.
    #[error(
        "it is not known whether the submission was stored: {0}. Publish it again with the same id"
    )]
    Unknown(#[source] ApiError),
    /// There is no connection. Publishing it again under the same id is safe.
    #[error(
        "not connected to a NATS server: the submission may not be stored. Publish it again with the same id"
    )]
    NoConnection,
    /// The server says something else.
    #[error("the submission was not stored: {0}")]
    Refused(#[source] ApiError),
}

impl PublishError {
    /// How long to wait at least before the same publish is tried again; `None` where that is in vain.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { .. } => Some(QUEUE_FULL_WAIT),
            error if error.is_passing() => Some(PASSING_WAIT),
            _ => None,
        }
    }

    /// Whether the same publish may succeed later.
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::QueueFull { .. }
                | Self::NoLeader { .. }
                | Self::NotSeen { .. }
                | Self::Unknown(_)
                | Self::NoConnection
                | Self::Refused(_)
        )
    }
}

impl Bus {
    /// Publishes a submission into its tenant's queue and waits until it is stored. `headers` are sent besides `Content-Type`.
    pub async fn publish_submission(
        &self,
        tenant: &Tenant,
        lane: Lane,
        id: &SubmissionId,
        body: Bytes,
        encoding: Encoding,
        mut headers: HeaderMap,
    ) -> Result<Published, PublishError> {
        let size = body.len();
        if size > MAX_SUBMISSION_BYTES {
            return Err(PublishError::TooLarge { size });
        }
        headers.insert(header::CONTENT_TYPE, encoding.content_type());
        let subject = self.names.submission(tenant, lane, id.as_str());
        match self.publish_stored(&subject, headers, body.clone()).await {
            Ok(ack) => Ok(Published {
                sequence: ack.sequence,
            }),
            Err(ApiError::NoResponders { .. }) => Err(self.nobody(tenant, lane, &subject).await),
            Err(error) if is_taken(&error) => {
                // A service may ask for no more than this: where the headers of what is queued cannot be read, it connects anew.
                let stream = self.names.submissions_stream(tenant);
                let queued = self.get_last(&stream, &subject).await;
                Err(taken(queued, id, &body))
            }
            Err(error) => Err(told(error, tenant, size)),
        }
    }

    /// Why nobody takes a submission: no stream has its subject, or the one that has it has no leader.
    async fn nobody(&self, tenant: &Tenant, lane: Lane, subject: &str) -> PublishError {
        #[derive(Deserialize)]
        struct Names {
            streams: Option<Vec<String>>,
        }
        let which = json!({ "subject": subject });
        // Who leads the streams may not know yet that it has lost its cluster: that it answers says nothing for this server.
        let names = self.read_api::<Names>("STREAM.NAMES", &which).await;
        let tenant = tenant.clone();
        match names {
            Ok(Names { streams }) if streams.as_ref().is_none_or(Vec::is_empty) => {
                self.is_of_use();
                PublishError::NoSuchQueue { tenant, lane }
            }
            _ => PublishError::NoLeader { tenant },
        }
    }

    /// Publishes a submission's next generation and waits until it is stored. Whether it is this call that stored it: not where an
    /// earlier one of the same generation was.
    pub async fn publish_again(&self, again: &Republication) -> Result<bool, PublishError> {
        let Republication {
            tenant,
            lane,
            id,
            generation,
            ..
        } = again;
        let size = again.body.len();
        let mut headers = HeaderMap::new();
        for (name, value) in &again.headers {
            // What came in a header fits one.
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
            {
                headers.insert(name, value);
            }
        }
        if let Some(content_type) = &again.content_type {
            headers.insert(header::CONTENT_TYPE, content_type.as_str());
        }
        headers.insert(header::GENERATION, generation.to_string());
        headers.insert(header::MESSAGE_ID, format!("{tenant}.{id}.{generation}"));
        let subject = self.names.submission(tenant, *lane, id.as_str());
        let stored = self.publish_stored(&subject, headers, again.body.clone().into());
        match stored.await {
            Ok(ack) => Ok(!ack.duplicate),
            Err(ApiError::NoResponders { .. }) => Err(self.nobody(tenant, *lane, &subject).await),
            Err(error) if is_taken(&error) => {
                // As JSON: no headers of what is queued break the connection.
                let stream = self.names.submissions_stream(tenant);
                let which = json!({ "last_by_subj": subject });
                let queued = self.get_from_leader(&stream, &which).await;
                Err(taken(queued, id, &again.body))
            }
            Err(error) => Err(told(error, tenant, size)),
        }
    }
}

/// The headers of a submission that its dead letter and its replays keep: ours and the trace's.
pub fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let kept =
        |name: &str| name.starts_with("Envicutor-") || matches!(name, "traceparent" | "tracestate");
    let pairs = headers.iter().filter(|(name, _)| kept(name.as_ref()));
    pairs
        .filter_map(|(name, values)| Some((name.to_string(), values.first()?.as_str().to_owned())))
        .collect()
}

/// The digest of the body that the service published: a replay may carry another body, and names the first one's. The header
/// counts for a replay alone.
pub fn submission_digest(generation: u64, named: Option<&str>, body: &[u8]) -> Digest {
    let named = named.filter(|_| generation > 0);
    named
        .and_then(|digest| digest.parse().ok())
        .unwrap_or_else(|| Digest::of(body))
}

/// Whether it is refused since there is a message of this subject. One code stands for whatever could not be stored; only the words
/// tell why.
fn is_taken(error: &ApiError) -> bool {
    matches!(error, ApiError::Refused { code: code::NOT_STORED, description } if description.contains("per subject"))
}

/// What it means that a subject has its one message, by what is `queued` under it. The leader of a queue counts what it has asked the
/// others to store, and after it has lost them too; so only a message that is there is one (nats-server 2.15: `inflight` of a
/// stream, in `checkMsgHeadersPreClusteredProposal`). One that has left the queue meanwhile is not seen either: published again,
/// it is found to be done.
fn taken(queued: Result<Option<Stored>, ApiError>, id: &SubmissionId, body: &[u8]) -> PublishError {
    let id = id.clone();
    match queued {
        Ok(Some(queued)) => PublishError::StillQueued {
            id,
            is_same: queued.body == body,
        },
        Ok(None) => PublishError::NotSeen { id },
        Err(error) => PublishError::Unknown(error),
    }
}

/// What the publisher is told.
fn told(error: ApiError, tenant: &Tenant, size: usize) -> PublishError {
    match error {
        ApiError::NotConnected => PublishError::NoConnection,
        ApiError::Timeout { .. } | ApiError::Unavailable { .. } => PublishError::Unknown(error),
        ApiError::TooLarge
        | ApiError::Refused {
            code: code::MESSAGE_TOO_LARGE,
            ..
        } => PublishError::TooLarge { size },
        ApiError::Refused {
            code: code::NOT_STORED,
            description,
        } if description.contains("maximum") => PublishError::QueueFull {
            tenant: tenant.clone(),
            description,
        },
        error => PublishError::Refused(error),
    }
}
