//! What can go wrong with an operation: of one submission, so that the others go on, or of the fleet, so that none does.

use std::time::Duration;

use crate::{
    bus::{
        api::{ApiError, code},
        dead_letters::DeadLetterError,
        outage::Outage as _,
        publish::PublishError,
        replays::ReplaysError,
        results::ResultError,
    },
    submission::{
        edit::EditError,
        names::{SubmissionId, Tenant},
        result::Outcome,
        units::{ByteSize, Micros},
    },
};

/// An operation that was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is none.
    #[error(
        "there is no dead letter {0}: it was replayed or removed, or is older than dead letters stand"
    )]
    NoLetter(u64),
    /// There is none.
    #[error("there is no batch {batch}{others}")]
    NoBatch {
        /// What was asked for.
        batch: SubmissionId,
        /// The ones that are not finished, for people.
        others: String,
    },
    /// It is not over.
    #[error("generation {generation} of {tenant}/{id} is queued or running: wait for its result")]
    StillQueued {
        /// Whose.
        tenant: Tenant,
        /// Which.
        id: SubmissionId,
        /// The generation that is there.
        generation: u64,
    },
    /// Its id has a result that a replay would replace, and which is no failure of this submission.
    #[error("{what}: a replay would replace that result, and does so only with --replace")]
    OtherResult {
        /// What stands.
        what: String,
    },
    /// Nothing is known of it.
    #[error("nothing is known of {tenant}/{id}: it was never published, or is too long ago")]
    Unknown {
        /// Whose.
        tenant: Tenant,
        /// Which.
        id: SubmissionId,
    },
    /// It was published, but its body is gone.
    #[error(
        "the body of {tenant}/{id} is not kept any more: bodies are kept for {} and up to {bytes} in all (nats.history_age_us, nats.history_bytes)",
        days(*age)
    )]
    NotKept {
        /// Whose.
        tenant: Tenant,
        /// Which.
        id: SubmissionId,
        /// For how long, as the server has it.
        age: Micros,
        /// How much of it, as the server has it.
        bytes: ByteSize,
    },
    /// Somebody else made this generation, and it is gone again.
    #[error(
        "generation {generation} of {tenant}/{id} was published a moment ago and is gone: look at its result"
    )]
    Gone {
        /// Whose.
        tenant: Tenant,
        /// Which.
        id: SubmissionId,
        /// Which.
        generation: u64,
    },
    /// It would be over before it starts.
    #[error(
        "its expires_at {0} is over, so that it would not run: give it another one with --set expires_at=…, or none with --set expires_at=null"
    )]
    Expired(String),
    /// There are no more numbers.
    #[error("the generation {0} is the last one that there can be")]
    LastGeneration(u64),
    /// The edits do not fit the submission.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The next generation was not stored.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A letter could not be read or removed.
    #[error(transparent)]
    Letter(#[from] DeadLetterError),
    /// A result could not be read.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// The record of a batch could not be read or written.
    #[error(transparent)]
    Batch(#[from] ReplaysError),
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// To try again: a few times, and then it is this submission's alone.
    Again,
    /// To try again for as long as patience lasts, and then to stop.
    Room,
    /// To try again a few times, and then to stop: no other submission would fare better.
    Server,
    /// To tell it of this submission and to go on.
    Tell,
    /// To stop.
    Stop,
}

impl OperationError {
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::StillQueued { .. } | Self::Publish(PublishError::NoSuchQueue { .. }) => {
                Remedy::Again
            }
            Self::Publish(PublishError::QueueFull { .. }) => Remedy::Room,
            Self::Publish(
                PublishError::Unknown(_)
                | PublishError::NotSeen { .. }
                | PublishError::NoConnection
                | PublishError::NoLeader { .. },
            )
            | Self::Result(ResultError::Unknown { .. } | ResultError::Subscribe(_)) => {
                Remedy::Server
            }
            Self::Publish(PublishError::Refused(error))
            | Self::Letter(DeadLetterError::Api(error))
            | Self::Result(ResultError::Api(error))
            | Self::Batch(ReplaysError::Api(error))
            | Self::Api(error) => of_api(error),
            Self::Batch(_) => Remedy::Stop,
            _ => Remedy::Tell,
        }
    }

    /// Whether it is the connection to NATS that is missing.
    pub fn is_connection(&self) -> bool {
        matches!(
            self,
            Self::Publish(PublishError::NoConnection)
                | Self::Api(ApiError::NotConnected)
                | Self::Letter(DeadLetterError::Api(ApiError::NotConnected))
                | Self::Result(ResultError::Api(ApiError::NotConnected))
                | Self::Batch(ReplaysError::Api(ApiError::NotConnected))
        )
    }
}

fn of_api(error: &ApiError) -> Remedy {
    // A server that has just come back knows its streams a moment later.
    if error.is_outage() || error.code() == Some(code::STREAM_NOT_FOUND) {
        Remedy::Server
    } else {
        Remedy::Tell
    }
}

/// What a submission's own result is, for people.
pub(super) fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Finished => "finished",
        Outcome::Rejected => "rejected",
        Outcome::Failed => "failed",
        Outcome::Cancelled => "cancelled",
        Outcome::Expired => "expired",
    }
}

/// Days where it is so many, else as times are written.
fn days(age: Micros) -> String {
    const DAY: Duration = Duration::from_hours(24);
    let seconds = age.duration().as_secs();
    if seconds >= 2 * DAY.as_secs() && seconds.is_multiple_of(DAY.as_secs()) {
        format!("{} days", seconds / DAY.as_secs())
    } else {
        age.to_string()
    }
}
