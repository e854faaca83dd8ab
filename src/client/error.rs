//! What a client is told when something does not succeed. The variants follow what the caller can do: mend the submission
//! ([`ClientError::Rejected`], [`ClientError::OtherContent`]), publish or ask again ([`ClientError::Publish`],
//! [`ClientError::TimedOut`]), or see to the fleet (the rest). Publishing again under the same id is always safe.

use std::{path::PathBuf, time::Duration};

use super::{pack::PackError, place::PlaceError};
use crate::{
    blobs::BlobError,
    bus::{
        ConnectError, api::ApiError, events::EventError, installations::InstallationError,
        orders::OrderError, outage::Outage, publish::PublishError, registry::RegistryError,
        results::ResultError, withdraw::WithdrawError,
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
    /// The object store did not take or give a content; nothing was published.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// A file or directory of this machine cannot be read; nothing was published.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// What was named as a content is none.
    #[error("{path} is not a file (a directory goes as a project, by `Submission::project`)")]
    NoFile {
        /// What was named.
        path: PathBuf,
    },
    /// A file changed while it was sent.
    #[error("{path} changed while it was sent: try again")]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// A file that came back is not written.
    #[error(transparent)]
    Place(#[from] PlaceError),
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
    /// A worker was told something and did not acknowledge it.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A submission was not cancelled, or that is not known: ask again.
    #[error(transparent)]
    Withdraw(#[from] WithdrawError),
    /// What became of an installation could not be read.
    #[error(transparent)]
    Installation(#[from] InstallationError),
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

    /// How long to wait at least before the same is tried again, where that may help. Wait longer each time, with jitter.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Publish(error) => error.retry_after(),
            _ => None,
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
                | Self::Order(OrderError::Api(ApiError::NotConnected))
                | Self::Withdraw(WithdrawError::Api(ApiError::NotConnected))
                | Self::Installation(InstallationError::Api(ApiError::NotConnected))
        )
    }
}

impl Outage for ClientError {
    fn is_outage(&self) -> bool {
        match self {
            Self::Publish(error) => error.is_passing(),
            Self::Result(error) => error.is_outage(),
            Self::Store(error) => error.is_outage(),
            Self::Api(error) | Self::Registry(RegistryError::Api(error)) => error.is_outage(),
            _ => false,
        }
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
