//! `egress`: what an installation of a runtime may reach, and how much of it.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

use crate::submission::units::{ByteSize, Micros};

/// The way out of installations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Networks that are not global and may be reached all the same: `["10.1.2.0/24"]`. None of loopback, link-local, multicast
    /// and the fleet's own addresses.
    pub allow_networks: Vec<IpNet>,
    /// Networks that are never reached, global or allowed though they are: the fleet's own, where its machines have addresses that
    /// anybody on the internet can reach.
    pub deny_networks: Vec<IpNet>,
    /// Names for lists of hosts, for the `egress` of runtimes.
    pub presets: BTreeMap<String, Hosts>,
    /// Bytes that an installation may receive and send, together.
    pub max_bytes: ByteSize,
    /// Requests that an installation may make.
    pub max_requests: u64,
    /// Connections of an installation at a time.
    pub connections: usize,
    /// The size of a request's, or an answer's, head.
    pub head_bytes: ByteSize,
    /// How long a name may take to resolve, and a host to accept a connection.
    pub connect_timeout_us: Micros,
    /// How long a connection may be silent.
    pub idle_timeout_us: Micros,
}

/// A list of hosts; in the environment separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Hosts(pub Vec<String>);

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            List(Vec<String>),
            Text(String),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::List(hosts) => hosts,
            Written::Text(text) => text.split(',').map(|it| it.trim().to_owned()).collect(),
        }))
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            allow_networks: Vec::new(),
            deny_networks: Vec::new(),
            presets: BTreeMap::new(),
            max_bytes: ByteSize(8 << 30),
            max_requests: 20_000,
            connections: 64,
            head_bytes: ByteSize(16 << 10),
            connect_timeout_us: Micros(10_000_000),
            idle_timeout_us: Micros(60_000_000),
        }
    }
}
