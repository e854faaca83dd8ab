//! Envicutor runs untrusted code for backend services: submissions over NATS JetStream, results as events.
//!
//! | in the order of a submission's way | |
//! | --- | --- |
//! | [`submission`] | the words of the contract: messages, limits, validation. No I/O |
//! | [`client`] | what a service uses: publish, wait, watch |
//! | [`bus`] | NATS: subjects, streams, queues, results |
//! | [`worker`] | pulls, runs, settles, acks |
//! | [`runtimes`], [`docker`] | definitions and their images; the Engine |
//! | [`container`] | the outer wall: containers, their pool, the agent's protocol |
//! | [`standalone`], [`nats_server`] | everything on one machine |
//! | [`cli`], [`config`], [`logging`] | the command line and what it reads |
//! | [`mod@bench`] | the fleet beside plain fork and exec |

pub mod bench;
pub mod bus;
pub mod cli;
pub mod client;
pub mod config;
pub mod container;
pub mod docker;
pub mod logging;
pub mod nats_server;
pub mod runtimes;
pub mod standalone;
pub mod submission;
pub mod worker;

pub use client::Client;

/// The README's Rust, compiled as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
