//! Large files, by real workers: what a submission names by digest is what its program finds, what it brings forth is in the store,
//! and an earlier build stands for a later one. Whatever the store does meanwhile ends in the delivery promise
//! (`docs/delivery.md`): [`site::Site::end`] holds what is left against it.

#[path = "../container_bed/mod.rs"]
mod container_bed;
#[path = "../fleet/mod.rs"]
mod fleet;
#[path = "../blobs/server.rs"]
mod server;
#[path = "../site/mod.rs"]
mod site;

mod bed;
mod builds;
mod cli;
mod failures;
mod outputs;
mod staging;
mod store;
