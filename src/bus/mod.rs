//! NATS: what a submission's way looks like on the wire. Everything that this fleet says to the server goes through here.
//!
//! | in the order of a submission's way | |
//! | --- | --- |
//! | [`subjects`] | every subject, stream and bucket, from one prefix |
//! | [`credentials`], [`connect`] (and `link`) | who a program is, and its connection |
//! | [`api`], [`outage`], [`walk`] | requests to JetStream with their errors told apart; those that pass by themselves; many messages in their order |
//! | [`definitions`], [`provision`] | the streams of `nats/definitions.json`, and bringing a server to that state |
//! | [`publish`] | a service publishes a submission and is told what became of it |
//! | [`wake`], [`queue`] (and `quarantine`) | a worker hears of work, takes it, renews it, hands it back, acknowledges it |
//! | [`events`] | what happens on the way, told without waiting |
//! | [`attempts`] | how each start ended |
//! | [`dead_letters`], [`history`] | what could not be run; what is over |
//! | [`objects`] | buckets of blobs |
//! | [`leases`] | what one program of the fleet does at a time |
//! | [`replays`] | how far a batch of replays is |
//! | [`results`] | one result for each generation |
//! | [`waiting`], [`withdraw`] | what nobody took yet; a submission that ends without a run: cancelled, expired |
//! | [`installations`], [`runtimes`] | runtimes to install, and what became of it; the ones that are installed |
//! | [`registry`], [`orders`] | the workers there are; what an operator tells one of them |
//!
//! The invariant: nothing is ever created on read, and an acknowledgement that did not arrive is never taken for one.

pub mod api;
pub mod attempts;
pub mod connect;
pub mod credentials;
pub mod dead_letters;
pub mod definitions;
pub mod events;
pub mod history;
pub mod installations;
mod kv;
pub mod leases;
mod link;
pub mod objects;
pub mod orders;
pub mod outage;
pub mod provision;
pub mod publish;
mod quarantine;
pub mod queue;
pub mod registry;
pub mod replays;
pub mod results;
pub mod runtimes;
pub mod subjects;
pub mod waiting;
pub mod wake;
pub mod walk;
pub mod withdraw;

pub use connect::{Bus, ConnectError};
pub use credentials::Role;
