//! Envicutor runs untrusted code for backend services: submissions over NATS JetStream, results as events.
//!
//! | in the order of a submission's way | |
//! | --- | --- |
//! | [`submission`] | the words of the contract: messages, limits, validation. No I/O |
//! | [`client`] | what a service uses: publish, wait, watch |
//! | [`operations`] | what an operator does with what is over: dead letters, replays |
//! | [`bus`] | NATS: subjects, streams, queues, results |
//! | [`blobs`] | the object store: files, large outputs, artifacts by their content |
//! | [`worker`] | pulls, runs, settles, acks |
//! | [`runtimes`], [`docker`] | definitions and their images; the Engine |
//! | [`egress`] | what an installation of a runtime may reach |
//! | [`installer`] | takes runtimes to install from the stream, makes them, tries them, registers them |
//! | [`container`] | the outer wall: containers, their pool, the agent's protocol |
//! | [`standalone`], [`nats_server`] | everything on one machine |
//! | [`cli`], [`config`], [`logging`] | the command line and what it reads |
//! | [`doctor`] | what this machine allows, and what would allow more |
//! | [`mod@bench`] | the fleet beside plain fork and exec |
//! | [`faults`] | a fleet under faults, and whether it kept its promise |
//! | `fail_point` | where tests stop a worker; nothing in a build for use |

#[macro_use]
mod fail_point;

pub mod bench;
pub mod blobs;
pub mod bus;
pub mod cli;
pub mod client;
pub mod config;
pub mod container;
pub mod docker;
pub mod doctor;
pub mod egress;
pub mod faults;
pub mod installer;
pub mod logging;
pub mod nats_server;
pub mod operations;
pub mod runtimes;
pub mod standalone;
pub mod submission;
pub mod worker;

pub use client::Client;

/// The README's Rust, compiled as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
