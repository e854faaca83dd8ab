//! Images in the object store: out of the Engine that made them, into every other one. A layer is stored once, under the digest of its
//! compressed bytes, however many images have it.
//!
//! | | |
//! | --- | --- |
//! | `export` | an image out of the Engine: its configuration and each of its layers |
//! | `pace` | how much of a processor that takes at most |
//! | `load` | an image into the Engine, whole and checked or not at all |
//! | `shelf` | which images were loaded here, and which of them go when there are too many |
//!
//! The invariant: an Engine is given nothing that was not seen to be what the catalogue names, and the catalogue names nothing
//! that the store does not have.

mod export;
mod load;
mod pace;
mod shelf;

use std::io;

pub use self::{export::export, load::load, pace::Pace, shelf::Loaded};
use crate::blobs::BlobError;

/// The most that an image's configuration takes, in bytes. The Engine's own are a few KiB.
const CONFIG_BYTES: u64 = 1 << 20;

/// The most layers of an image: what the Engine allows.
const LAYERS: usize = 127;

/// An image could not be stored, or not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The object store.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// The Engine.
    #[error("the Docker Engine could not {step}: {source}")]
    Engine {
        /// What was asked of it.
        step: &'static str,
        /// Its answer.
        source: bollard::errors::Error,
    },
    /// The disk, or a stream that broke.
    #[error("an image could not be passed on: {0}")]
    Io(#[from] io::Error),
    /// What the Engine gives is no image that can be stored.
    #[error("the Docker Engine's archive of {image} cannot be stored: {problem}")]
    Archive {
        /// The image's id.
        image: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What the store has is not what the catalogue names.
    #[error("the stored image {image} is not loaded: {problem}")]
    Refused {
        /// The image's id.
        image: String,
        /// Why.
        problem: String,
    },
}

impl ImageError {
    /// Whether the same may succeed in a moment.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Store(error) => error.is_outage(),
            Self::Engine { .. } | Self::Io(_) => true,
            Self::Archive { .. } | Self::Refused { .. } => false,
        }
    }
}

fn engine(step: &'static str) -> impl FnOnce(bollard::errors::Error) -> ImageError {
    move |source| ImageError::Engine { step, source }
}
