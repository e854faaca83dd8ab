//! A service publishes a submission: stored, or refused there and then with the reason. No `Nats-Msg-Id` is sent, so an
//! acknowledgement never means "a duplicate": an id that is queued or running is refused by its subject.

use async_nats::HeaderMap;
use bytes::Bytes;

use super::{
    api::{ApiError, code, header},
    connect::Bus,
};
use crate::submission::{
    encoding::Encoding,
    names::{Lane, SubmissionId, Tenant},
};

/// The largest submission, in bytes, headers included; what the queue's `max_msg_size` says.
pub const MAX_SUBMISSION_BYTES: usize = 512 << 10;

/// A submission that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its place in the tenant's queue.
    pub sequence: u64,
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
    /// The id is taken for as long as the earlier submission is queued or runs.
    #[error("{id} is still queued or running: wait for its result, or choose another id")]
    StillQueued {
        /// Which.
        id: SubmissionId,
    },
    /// The tenant has too much queued.
    #[error("the queue of {tenant} is full ({description}): try again later")]
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
    /// Whether the same publish may succeed later.
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::QueueFull { .. } | Self::Unknown(_) | Self::NoConnection | Self::Refused(_)
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
        match self.publish_stored(&subject, headers, body).await {
            Ok(ack) => Ok(Published {
                sequence: ack.sequence,
            }),
            Err(error) => Err(told(error, tenant, lane, id, size)),
        }
    }
}

/// What the publisher is told.
fn told(
    error: ApiError,
    tenant: &Tenant,
    lane: Lane,
    id: &SubmissionId,
    size: usize,
) -> PublishError {
    match error {
        ApiError::NoResponders { .. } => PublishError::NoSuchQueue {
            tenant: tenant.clone(),
            lane,
        },
        ApiError::NotConnected => PublishError::NoConnection,
        ApiError::Timeout { .. } => PublishError::Unknown(error),
        ApiError::TooLarge
        | ApiError::Refused {
            code: code::MESSAGE_TOO_LARGE,
            ..
        } => PublishError::TooLarge { size },
        // One code for whatever could not be stored; only the words tell why.
        ApiError::Refused {
            code: code::NOT_STORED,
            description,
        } if description.contains("per subject") => PublishError::StillQueued { id: id.clone() },
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
