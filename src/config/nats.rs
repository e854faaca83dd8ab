//! `nats`: the connection, and what is provisioned there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::submission::{
    names::Tenant,
    units::{ByteSize, Micros},
};

/// The connection to NATS, and what is provisioned there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nats {
    /// `nats://[user:password@]host:port`, several separated by commas.
    pub url: String,
    /// A file with generated credentials (`envicutor nats init` writes it); the user is picked by the program's role.
    /// Not read where the URL holds a user.
    pub credentials_file: Option<PathBuf>,
    /// The first token of every subject, and the prefix of stream and bucket names where it is not `envicutor`.
    pub prefix: String,
    /// The tenants that `nats apply` provisions and workers serve.
    pub tenants: Vec<Tenant>,
    /// Copies of each stream: 1, or 3 on a cluster.
    pub replicas: usize,
    /// How long a delivery may go without a renewal before it is given to another worker.
    pub ack_wait_us: Micros,
    /// The most messages that a tenant's queue holds.
    pub queue_messages: i64,
    /// The most bytes that a tenant's queue holds.
    pub queue_bytes: ByteSize,
    /// How long results stand.
    pub result_age_us: Micros,
    /// The most bytes of results; past it the oldest go.
    pub result_bytes: ByteSize,
    /// How long a submission that is over is kept, so that it can be replayed.
    pub history_age_us: Micros,
    /// The most bytes of such submissions; past it the oldest go.
    pub history_bytes: ByteSize,
    /// How long dead letters stand.
    pub dead_letter_age_us: Micros,
    /// The most bytes of dead letters; past it failing messages wait.
    pub dead_letter_bytes: ByteSize,
    /// How long events stand.
    pub event_age_us: Micros,
    /// The most bytes of events: in the servers' memory on a cluster, else in a file.
    pub event_bytes: ByteSize,
    /// How long to try to connect at start.
    pub connect_timeout_us: Micros,
    /// How long one server may take to accept a connection before another one is tried.
    pub server_timeout_us: Micros,
    /// How long a connection may be silent before the server is pinged; with three pings unanswered it is given up.
    pub ping_us: Micros,
    /// How long to wait for the answer to a request.
    pub request_timeout_us: Micros,
    /// How long to wait for the answer to a pull, or a reading that may be repeated at no cost.
    pub read_timeout_us: Micros,
    /// How long to ask again while a cluster has no leader for what is asked, or there is no connection. Longer than an election,
    /// which takes up to ten seconds.
    pub outage_timeout_us: Micros,
    /// The `nats-server` that `up` and `run` start; absent: from the PATH, else obtained into the data directory.
    pub server: Option<PathBuf>,
    /// The port of the server that `up` starts; 0 picks a free one.
    pub server_port: u16,
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".into(),
            credentials_file: None,
            prefix: "envicutor".into(),
            tenants: vec![Tenant::default_tenant()],
            replicas: 1,
            ack_wait_us: Micros(10_000_000),
            queue_messages: 100_000,
            queue_bytes: ByteSize(1 << 30),
            result_age_us: Micros(7 * 24 * 3_600_000_000),
            result_bytes: ByteSize(4 << 30),
            history_age_us: Micros(7 * 24 * 3_600_000_000),
            history_bytes: ByteSize(1 << 30),
            dead_letter_age_us: Micros(30 * 24 * 3_600_000_000),
            dead_letter_bytes: ByteSize(1 << 30),
            event_age_us: Micros(600_000_000),
            event_bytes: ByteSize(128 << 20),
            connect_timeout_us: Micros(5_000_000),
            server_timeout_us: Micros(2_000_000),
            ping_us: Micros(1_000_000),
            request_timeout_us: Micros(5_000_000),
            read_timeout_us: Micros(2_000_000),
            outage_timeout_us: Micros(20_000_000),
            server: None,
            server_port: 0,
        }
    }
}
