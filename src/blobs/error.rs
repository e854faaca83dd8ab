//! What can go wrong with a blob, told apart by what the caller does about it: wait for it, fetch it elsewhere, try again later, make
//! room, mend the configuration.

use std::{error::Error, io};

use crate::{
    bus::api::{ApiError, code},
    submission::{names::Digest, units::ByteSize},
};

/// What the stores' own errors are kept as.
pub type Source = Box<dyn Error + Send + Sync>;

/// A blob could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not there. It may be on its way, or collected.
    #[error("the blob {digest} is not in the store")]
    Missing {
        /// Which.
        digest: Digest,
    },
    /// What is there, or what was given to upload, is not what its digest and size say.
    #[error("the blob {digest} is corrupt: {problem}")]
    Corrupt {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        problem: String,
    },
    /// The store has no room.
    #[error(
        "the blob store is full: {message}. Make room (`envicutor blobs gc`), or raise its bound (blobs.tenant_bytes, for NATS)"
    )]
    Full {
        /// In the store's words.
        message: String,
    },
    /// The store does not answer, or not now. The same may succeed later.
    #[error("the blob store cannot be used at this moment: {source}")]
    Unavailable {
        /// Why.
        source: Source,
    },
    /// What is to be uploaded cannot be read.
    #[error("what is to be uploaded cannot be read: {source}")]
    Source {
        /// Why.
        source: io::Error,
    },
    /// It is larger than is taken here.
    #[error("{size_bytes} are over the {most} that are taken here")]
    TooLarge {
        /// Its size.
        size_bytes: ByteSize,
        /// The bound.
        most: ByteSize,
    },
    /// The store cannot be used as it is configured.
    #[error("configuration {key}: {problem}")]
    Config {
        /// The key, dotted.
        key: &'static str,
        /// What is expected.
        problem: String,
    },
}

impl BlobError {
    /// Whether the same may succeed in a moment, with nothing mended by anybody.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// A call that took too long.
    pub(super) fn timeout(what: &str, waited: std::time::Duration) -> Self {
        Self::Unavailable {
            source: format!("no answer to {what} within {waited:?}").into(),
        }
    }

    /// An error of a store, about the blob `digest`.
    pub(super) fn of(error: object_store::Error, digest: &Digest) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Missing {
                digest: digest.clone(),
            },
            error => Self::of_store(error),
        }
    }

    /// An error of a store that is about no blob.
    pub(super) fn of_store(error: object_store::Error) -> Self {
        if is_full(&error) {
            return Self::Full {
                message: error.to_string(),
            };
        }
        Self::Unavailable {
            source: error.into(),
        }
    }
}

/// Whether somewhere below `error` a store says that it has no room.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(api) = error.downcast_ref::<ApiError>() {
            return matches!(
                api,
                ApiError::Refused {
                    code: code::NOT_STORED,
                    ..
                }
            );
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return matches!(
                io.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
        }
        at = error.source();
    }
    false
}
