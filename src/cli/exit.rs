//! How a command ends: the exit codes of the contract, and an error for people.

use std::{io, process::ExitCode};

use crate::{
    client::ClientError,
    config::ConfigError,
    installer::InstallerError,
    nats_server::ServerError,
    operations::OperationError,
    runtimes::error::RuntimeError,
    standalone::StandaloneError,
    submission::{
        names::{SubmissionId, Tenant},
        result::{Outcome, SubmissionResult, Verdict},
    },
    worker::WorkerError,
};

/// The exit codes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Finished and ok; or the command did what was asked.
    Ok = 0,
    /// Finished, not ok; or a check found a difference.
    NotOk = 1,
    /// Wrong usage, or the submission was rejected.
    Usage = 2,
    /// The fleet could not run it, or the command could not do what was asked.
    Failed = 3,
    /// No connection to NATS.
    NoConnection = 4,
    /// There is no result within the time.
    TimedOut = 5,
    /// By a signal.
    Interrupted = 130,
}

impl Exit {
    /// What a result says.
    pub const fn of(result: &SubmissionResult) -> Self {
        match (result.outcome, result.verdict) {
            (Outcome::Finished, Some(Verdict::Ok)) => Self::Ok,
            (Outcome::Finished, _) => Self::NotOk,
            (Outcome::Rejected, _) => Self::Usage,
            (Outcome::Failed | Outcome::Cancelled | Outcome::Expired, _) => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments are wrong.
    #[error("{0}")]
    Usage(String),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The fleet was asked in vain.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An operation was not done.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The one-machine fleet could not be had.
    #[error(transparent)]
    Standalone(#[from] StandaloneError),
    /// A worker cannot start or go on.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// An installer cannot start.
    #[error(transparent)]
    Installer(#[from] InstallerError),
    /// The server's files could not be written.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The runtimes cannot be read.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A file could not be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Our own output could not be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
    /// No result stands.
    #[error(
        "there is no result of {tenant}/{id}: it is not finished, was never published, or is too long ago"
    )]
    NoResult {
        /// Whose.
        tenant: Tenant,
        /// Which.
        id: SubmissionId,
    },
    /// Something that cannot be shown.
    #[error("it cannot be shown: {0}")]
    Show(String),
    /// By a signal.
    #[error("interrupted")]
    Interrupted,
    /// Anything else; the sentence says what.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// The exit code that tells this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::File { .. } => Exit::Usage,
            Self::Client(error) => of_client(error),
            Self::Operation(error) => of_operation(error),
            Self::Worker(WorkerError::Connect(_)) | Self::Installer(InstallerError::Connect(_)) => {
                Exit::NoConnection
            }
            Self::NoResult { .. } => Exit::TimedOut,
            Self::Interrupted => Exit::Interrupted,
            // Whoever read our output has seen enough of it.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Standalone(_)
            | Self::Worker(_)
            | Self::Installer(_)
            | Self::Server(_)
            | Self::Runtime(_)
            | Self::Output(_)
            | Self::Show(_)
            | Self::Failed(_) => Exit::Failed,
        }
    }
}

fn of_operation(error: &OperationError) -> Exit {
    match error {
        error if error.is_connection() => Exit::NoConnection,
        OperationError::NoLetter(_)
        | OperationError::NoBatch { .. }
        | OperationError::StillQueued { .. }
        | OperationError::OtherResult { .. }
        | OperationError::Expired(_)
        | OperationError::Edit(_) => Exit::Usage,
        _ => Exit::Failed,
    }
}

fn of_client(error: &ClientError) -> Exit {
    use crate::bus::publish::PublishError as Refusal;
    match error {
        error if error.is_connection() => Exit::NoConnection,
        ClientError::Rejected(_)
        | ClientError::Pack(_)
        | ClientError::NoFile { .. }
        | ClientError::Changed { .. }
        | ClientError::Place(_)
        | ClientError::OtherContent { .. }
        | ClientError::Publish(
            Refusal::NoSuchQueue { .. } | Refusal::StillQueued { .. } | Refusal::TooLarge { .. },
        ) => Exit::Usage,
        ClientError::TimedOut { .. } => Exit::TimedOut,
        _ => Exit::Failed,
    }
}
