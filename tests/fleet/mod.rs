//! The test fleet: real servers, each with a port and directory of its own, ended with the test that started them.

#![allow(dead_code)] // each test file uses its own part

pub mod messages;
pub mod nats;
