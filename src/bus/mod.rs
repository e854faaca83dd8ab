//! NATS: what a submission's way looks like on the wire. Everything that this fleet says to the server goes through here.
//!
//! | in the order of a submission's way | |
//! | --- | --- |
//! | [`subjects`] | every subject, stream and bucket, from one prefix |
//! | [`credentials`], [`connect`] | who a program is, and its connection |
//! | [`api`] | requests to JetStream with their errors told apart |
//! | [`definitions`], [`provision`] | the streams of `nats/definitions.json`, and bringing a server to that state |
//! | [`publish`] | a service publishes a submission and is told what became of it |
//! | [`wake`], [`queue`] (and `quarantine`) | a worker hears of work, takes it, renews it, hands it back, acknowledges it |
//! | [`events`] | what happens on the way, told without waiting |
//! | [`attempts`] | how each start ended |
//! | [`dead_letters`] | what could not be run |
//! | [`results`] | one result for each generation |
//! | [`registry`] | the workers there are |
//!
//! The invariant: nothing is ever created on read, and an acknowledgement that did not arrive is never taken for one.

pub mod api;
pub mod attempts;
pub mod connect;
pub mod credentials;
pub mod dead_letters;
pub mod definitions;
pub mod events;
mod kv;
pub mod provision;
pub mod publish;
mod quarantine;
pub mod queue;
pub mod registry;
pub mod results;
pub mod subjects;
pub mod wake;

pub use connect::{Bus, ConnectError};
pub use credentials::Role;
