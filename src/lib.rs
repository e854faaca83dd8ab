//! Envicutor runs untrusted code for backend services: submissions over NATS JetStream, results as events.

pub mod config;
pub mod container;
pub mod docker;
pub mod submission;
