//! What can go wrong with runtimes: the operator's definitions, the Engine, or the making of an image. Each message says
//! what to do; an image that could not be made carries the last lines of its log.

use std::{path::PathBuf, time::Duration};

use crate::{
    docker::is_full,
    egress::EgressError,
    runtimes::images::ImageError,
    submission::{names::RuntimeRef, units::ByteSize},
};

/// A runtime that cannot be defined or prepared.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A directory or file of definitions cannot be read.
    #[error("the runtime definitions in {path} cannot be read: {source}. Is runtimes.dir right?")]
    Read {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A definition is no TOML, or has a field that is unknown, missing or of another type.
    #[error("{file} is not a runtime definition: {source}")]
    Syntax {
        /// The file.
        file: String,
        /// Where, and what is expected; names the field.
        source: Box<toml::de::Error>,
    },
    /// A field of a definition holds what it may not.
    #[error("{file}: {field}: {problem}")]
    Field {
        /// The file.
        file: String,
        /// The field, dotted.
        field: String,
        /// What is expected.
        problem: String,
    },
    /// There is no such runtime.
    #[error("there is no runtime {0}; `envicutor runtime ls` shows the ones there are")]
    Unknown(RuntimeRef),
    /// The Engine refused or did not answer.
    #[error("the Docker Engine could not {step}: {source}")]
    Engine {
        /// What was asked of it.
        step: &'static str,
        /// Its answer.
        source: bollard::errors::Error,
    },
    /// The working directory cannot be used.
    #[error(
        "{path} cannot be used to prepare images: {source}. It must be a writable directory on a local disk"
    )]
    WorkDir {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no base image, and none could be made.
    #[error(
        "there is no base image {image} and none could be made: {problem}. Load one into Docker and name it in runtimes.base_image, or cure this:\n{log}"
    )]
    Base {
        /// The image that was wanted.
        image: String,
        /// The last thing that failed.
        problem: String,
        /// The last lines of the log.
        log: String,
    },
    /// The script or the packages of a runtime failed.
    #[error(
        "the image of {runtime} could not be made: its installation ended with exit code {code}. The end of its log:\n{log}"
    )]
    Install {
        /// The runtime.
        runtime: RuntimeRef,
        /// The exit code.
        code: i64,
        /// The last lines of the log.
        log: String,
    },
    /// It wrote more than it may.
    #[error(
        "the image of {runtime} could not be made: its installation wrote {written}, and may write {most} (installer.disk_bytes). The end of its log:\n{log}"
    )]
    Disk {
        /// The runtime.
        runtime: RuntimeRef,
        /// What it had written.
        written: ByteSize,
        /// What it may.
        most: ByteSize,
        /// The last lines of the log.
        log: String,
    },
    /// The way out of an installation.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// An image in the object store.
    #[error(transparent)]
    Stored(#[from] ImageError),
    /// The image that a definition names cannot be used.
    #[error("the image {image} cannot be used: {problem}")]
    Image {
        /// Its name.
        image: String,
        /// Why.
        problem: String,
    },
    /// It took longer than allowed.
    #[error("{what} was not ready within {} s (runtimes.prepare_timeout_us). The end of its log:\n{log}", after.as_secs())]
    Timeout {
        /// What was prepared or waited for.
        what: String,
        /// How long it was given.
        after: Duration,
        /// The last lines of the log.
        log: String,
    },
}

impl RuntimeError {
    /// Whether it is this machine that fails, its Engine or its disk: then the fault is neither the runtime's nor the submission's,
    /// and work is handed back uncounted.
    pub fn is_outage(&self) -> bool {
        use bollard::errors::Error;
        match self {
            Self::Engine { source, .. } => {
                let is_away = matches!(
                    source,
                    Error::RequestTimeoutError
                        | Error::IOError { .. }
                        | Error::HyperResponseError { .. }
                        | Error::HyperLegacyError { .. }
                        | Error::HttpClientError { .. }
                        | Error::SocketNotFoundError(_)
                );
                is_away || is_full(&source.to_string())
            }
            Self::Stored(error) => error.is_outage(),
            Self::WorkDir { .. } | Self::Egress(EgressError::Listen { .. }) => true,
            Self::Base { log, .. } | Self::Install { log, .. } | Self::Timeout { log, .. } => {
                is_full(log)
            }
            Self::Read { .. }
            | Self::Syntax { .. }
            | Self::Field { .. }
            | Self::Unknown(_)
            | Self::Disk { .. }
            | Self::Egress(_)
            | Self::Image { .. } => false,
        }
    }
}

/// Makes an error of the Engine's answer to `step`; for `map_err`.
pub(super) fn engine(step: &'static str) -> impl FnOnce(bollard::errors::Error) -> RuntimeError {
    move |source| RuntimeError::Engine { step, source }
}

/// Whether the Engine says that it has no such image or container.
pub(super) fn is_missing(error: &bollard::errors::Error) -> bool {
    matches!(
        error,
        bollard::errors::Error::DockerResponseServerError {
            status_code: 404,
            ..
        }
    )
}
