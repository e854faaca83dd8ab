//! What a client is told when something does not succeed. The variants follow what the caller can do: mend the submission
//! ([`ClientError::Rejected`], [`ClientError::OtherContent`]), publish or ask again ([`ClientError::Publish`],
//! [`ClientError::TimedOut`]), or see to the fleet (the rest). Publishing again under the same id is always safe.

use std::time::Duration;

use crate::{
    bus::{
        ConnectError, api::ApiError, events::EventError, publish::PublishError,
        registry::RegistryError, results::ResultError,
    },
    submission::{
        check::Rejected,
        encoding::EncodingError,
        names::{Digest, SubmissionId, Tenant},
    },
};

/// A request to the fleet that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection to begin with.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The submission is not valid; nothing was published.
    #[error(transparent)]
    Rejected(Box<Rejected>),
    /// The submission was not stored, or that is not known, after all tries.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// There is no result yet. The submission goes on; ask again.
    #[error("there is no result of {tenant}/{id} after {waited:?}; the submission goes on")]
    TimedOut {
        /// Whose.
        tenant: Tenant,
        /// Which.
        id: SubmissionId,
        /// For how long it was waited.
        waited: Duration,
    },
    /// The result that stands under this id is another submission's: ids are used once.
    #[error(
        "the id {id} was used before for another submission, whose result stands: choose another id"
    )]
    OtherContent {
        /// Which.
        id: SubmissionId,
        /// The digest of the submission whose result stands.
        standing: Digest,
    },
    /// No worker is there to answer.
    #[error("no worker answers: none is running, or none is connected to this NATS server")]
    NoWorker,
    /// The connection was closed, by [`Client::close`](super::Client::close).
    #[error("the connection to NATS is closed")]
    Closed,
    /// A result could not be read.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// Events could not be listened for or read.
    #[error("events cannot be listened for: {0}")]
    Events(String),
    /// The registry of workers could not be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A message could not be written or read.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
}

impl ClientError {
    /// A question to the workers.
    pub(super) fn of_info(error: ApiError) -> Self {
        match error {
            ApiError::NoResponders { .. } => Self::NoWorker,
            error => Self::Api(error),
        }
    }

    /// Whether it is the connection to NATS that is missing.
    pub fn is_connection(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::Closed
                | Self::Publish(PublishError::NoConnection)
                | Self::Api(ApiError::NotConnected)
                | Self::Result(ResultError::Api(ApiError::NotConnected))
                | Self::Registry(RegistryError::Api(ApiError::NotConnected))
        )
    }
}

impl From<EventError> for ClientError {
    fn from(error: EventError) -> Self {
        match error {
            EventError::Api(error) => Self::Api(error),
            EventError::Encoding(error) => Self::Encoding(error),
            error @ EventError::Publish(_) => Self::Events(error.to_string()),
        }
    }
}
