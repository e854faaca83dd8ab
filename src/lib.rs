//! Envicutor runs untrusted code for backend services: submissions over NATS JetStream, results as events.

pub mod bench;
pub mod bus;
pub mod config;
pub mod container;
pub mod docker;
pub mod nats_server;
pub mod runtimes;
pub mod submission;
pub mod worker;

/// The README's Rust, compiled as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
