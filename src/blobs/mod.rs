//! The object store: files, large outputs and artifacts, each under the digest of its content, so that a message holds a name and
//! a worker streams bytes.
//!
//! | in the order of a blob's life | |
//! | --- | --- |
//! | [`Store`] | the fleet's store, by `blobs.url`: NATS, a directory, S3, … |
//! | [`Blobs`] | one tenant's blobs: claim, put, get, and the small entries of the compile cache |
//! | `upload`, `download` | streams in and out, with digest and size checked on the way |
//! | `shelf` | where an upload of a blob lies, and how it is kept from the collector |
//! | [`NatsObjects`] | `object_store` over a bucket of JetStream |
//! | [`collect`] | removes what nothing refers to |
//! | [`cache`] | a worker's cache of blobs on its disk |
//! | [`BlobError`] | what can go wrong, told apart by what one does about it |
//!
//! The invariants: nothing is visible under a digest that has not been seen whole with that digest; whoever reads is told at the end
//! whether it was; and no tenant's name leads to another tenant's bytes.

pub mod cache;
pub mod collect;
mod download;
mod error;
mod nats;
mod shelf;
mod store;
mod tenant;
mod upload;

pub use self::{
    download::Chunks,
    error::{BlobError, Source},
    nats::NatsObjects,
    shelf::Upload,
    store::{Store, endpoints},
    tenant::{Blobs, Progress, Put, Uploads},
};
