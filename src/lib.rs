//! Envicutor runs untrusted code for backend services: submissions over NATS JetStream, results as events.

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
