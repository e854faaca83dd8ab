//! What can go wrong with a container. All of it is ours or the operator's, never the submission's: what a program does
//! wrong is in `Finished`.

use std::{io, path::PathBuf, time::Duration};

use super::{host::Finding, oci_runtime::INSTALL_GVISOR};
use crate::{docker::is_full, submission::result::FailureCode};

/// A container could not be had or used.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The Engine is not there.
    #[error("the Docker Engine cannot be reached to {doing}: {source}. Is it running?")]
    Unreachable {
        /// What was asked of it.
        doing: &'static str,
        /// What the connection says.
        source: bollard::errors::Error,
    },
    /// The Engine is there and does not answer.
    #[error(
        "the Docker Engine did not {doing} within {waited:?} (container.call_timeout_us). Is it hung or overloaded?"
    )]
    Unanswered {
        /// What was asked of it.
        doing: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// The Engine answered with an error.
    #[error("the Docker Engine could not {doing}: {source}")]
    Refused {
        /// What was asked of it.
        doing: &'static str,
        /// What it says.
        source: bollard::errors::Error,
    },
    /// The Engine has no such image.
    #[error("the Docker Engine has no image {image}. Prepare the runtime again")]
    ImageMissing {
        /// Its id.
        image: String,
    },
    /// The image asks for what a sandbox cannot give.
    #[error("the image {image} cannot be used: {problem}")]
    ImageUnusable {
        /// Its id.
        image: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A runtime's root file system could not be worked on.
    #[error("the root file system {name} of the runtimes' volume cannot be prepared: {problem}")]
    Root {
        /// Its name: the digits of its image's id.
        name: String,
        /// What is known.
        problem: String,
    },
    /// Another worker works on a runtime's root file system, and does not end.
    #[error(
        "the container {container}, by which another worker prepares a root file system, is still there after {waited:?} \
         (container.fill_timeout_us). If that worker is gone, remove it by `docker rm -f {container}`"
    )]
    RootHeld {
        /// The container.
        container: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The agent of a slot was not given its cgroup.
    #[error("the cgroup of container {container} cannot be given to its agent: {problem}")]
    Delegation {
        /// The container's id.
        container: String,
        /// What is known.
        problem: String,
    },
    /// The configured isolation cannot be given.
    #[error(
        "this host does not allow isolation `sandbox`: {problem}. {}. container.isolation = \"auto\" would take isolation \
         `container` instead",
        what_to_do(missing)
    )]
    NoSandbox {
        /// What failed.
        problem: Box<ContainerError>,
        /// What was found to be missing.
        missing: Vec<Finding>,
    },
    /// The container's agent never connected.
    #[error("the agent of container {name} did not connect: {problem}")]
    NoAgent {
        /// The container's name.
        name: String,
        /// What is known.
        problem: String,
    },
    /// The agent says that it failed.
    #[error("the agent failed to {step} ({object}): {error}")]
    AgentFailed {
        /// What it was doing.
        step: String,
        /// On what.
        object: String,
        /// The system's error.
        error: String,
    },
    /// The agent said something that the protocol does not allow here.
    #[error("the agent broke the protocol: {0}")]
    Protocol(String),
    /// The socket closed while something was expected of the agent.
    #[error(
        "the agent is gone: its socket closed {0}. Was the container removed, or its agent killed?"
    )]
    AgentGone(&'static str),
    /// The agent neither ended a stage in time nor took its input.
    #[error("the agent did not {doing} within {waited:?}")]
    AgentOverdue {
        /// What was expected of it.
        doing: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// The Engine knows no such container runtime.
    #[error(
        "the Docker Engine has no runtime {wanted:?} (container.oci_runtime); it has {known}. Name one of these, or register it; \
         gVisor by `{INSTALL_GVISOR}`"
    )]
    NoRuntime {
        /// `container.oci_runtime`.
        wanted: String,
        /// Those that it has.
        known: String,
    },
    /// Every uid is in use.
    #[error("all {count} uids from {first} on are in use by containers. Raise container.uid_count")]
    NoUid {
        /// `container.uid_first`.
        first: u32,
        /// `container.uid_count`.
        count: u32,
    },
    /// A file of this machine.
    #[error("cannot {step} {}: {source}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// What was to be streamed in.
    #[error("a file cannot be read into the sandbox: {source}")]
    Feed {
        /// The system's error.
        source: io::Error,
    },
    /// What came out of it.
    #[error("what comes out of the sandbox cannot be written to the worker's directory: {source}")]
    Spool {
        /// The system's error.
        source: io::Error,
    },
    /// The path of a socket would be too long for the kernel.
    #[error(
        "the directory {} is too long by {excess} bytes for the sockets in it. Choose a shorter data_dir",
        path.display()
    )]
    PathTooLong {
        /// The worker's directory.
        path: PathBuf,
        /// By how much.
        excess: usize,
    },
    /// Another live worker has the directory.
    #[error(
        "the directory {} belongs to another worker that is alive. Give this one another worker.id",
        path.display()
    )]
    DirectoryHeld {
        /// The worker's directory.
        path: PathBuf,
    },
    /// A bug of the worker's: the container is not in a state for this.
    #[error("the worker has {what} for a container that is {state}")]
    Misused {
        /// What was asked of it.
        what: &'static str,
        /// The state that it is in.
        state: &'static str,
    },
    /// The containers were closed.
    #[error("the worker is closing its containers")]
    Closed,
}

impl ContainerError {
    /// The reason that a dead letter gives.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::ImageMissing { .. } | Self::ImageUnusable { .. } => FailureCode::Image,
            Self::AgentFailed { .. }
            | Self::Protocol(_)
            | Self::AgentGone(_)
            | Self::AgentOverdue { .. } => FailureCode::Agent,
            Self::Misused { .. } => FailureCode::Internal,
            _ => FailureCode::Container,
        }
    }

    /// Whether it is this machine that fails, its Engine or its disk (or this worker is closing): no submission could have run, so
    /// that none may be charged with an attempt. What this cannot tell, a probe does.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Unanswered { .. }
            | Self::RootHeld { .. }
            | Self::NoUid { .. }
            | Self::File { .. }
            | Self::Spool { .. }
            | Self::Closed => true,
            Self::Refused { source, .. } => is_full(&source.to_string()),
            Self::Root { problem, .. } => is_full(problem),
            _ => false,
        }
    }
}

/// The command for each thing that is missing.
pub(super) fn what_to_do(missing: &[Finding]) -> String {
    let commands: Vec<String> = missing
        .iter()
        .map(|it| match &it.command {
            Some(command) => format!("{}: `{command}`", it.name),
            None => format!("{}: {}", it.name, it.found),
        })
        .collect();
    if commands.is_empty() {
        return "Nothing that is known to forbid it was found; see `envicutor doctor`".to_owned();
    }
    format!("Missing: {}", commands.join("; "))
}

/// Names the step and the path of a failed file operation.
pub(super) trait Naming<T> {
    fn naming(self, step: &'static str, path: impl Into<PathBuf>) -> Result<T, ContainerError>;
}

impl<T> Naming<T> for io::Result<T> {
    fn naming(self, step: &'static str, path: impl Into<PathBuf>) -> Result<T, ContainerError> {
        self.map_err(|source| ContainerError::File {
            step,
            path: path.into(),
            source,
        })
    }
}
