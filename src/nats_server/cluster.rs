//! The files of a cluster: what [`files::init`] writes for one server, shared by all nodes, and for each node
//! what is its own. Which file holds what stands at the top of `nats/node.conf`.
//!
//! The invariant: users and permissions are in one place, `server.conf`; a node's file includes it and adds to it.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{
    ServerError,
    files::{self, Initialized},
};
use crate::{bus::credentials, config};

/// A node's own file, with placeholders.
const NODE_CONF: &str = include_str!("../../nats/node.conf");
/// What all nodes' `cluster` blocks include, with placeholders.
const ROUTES_CONF: &str = include_str!("../../nats/routes.conf");

/// Where a client finds a server that names no port.
const CLIENT_PORT: u16 = 4222;
/// Routes listen on the clients' port and this: 6222 beside 4222, as is usual.
const TO_ROUTE_PORT: u16 = 2_000;

/// Where a node listens: `HOST` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    host: String,
    port: u16,
}

/// It is no address of a node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HOST or HOST:PORT, with a port from 1 to 63535")]
pub struct NodeAddressError(String);

impl NodeAddress {
    /// The port that the other nodes connect to.
    pub const fn route_port(&self) -> u16 {
        self.port + TO_ROUTE_PORT
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for NodeAddress {
    type Err = NodeAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || NodeAddressError(text.to_owned());
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| refused())?),
            None => (text, CLIENT_PORT),
        };
        // What stands in quotes in the configuration, and in URLs: an IPv6 address would need brackets in some of these places.
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let port_fits = (1..=u16::MAX - TO_ROUTE_PORT).contains(&port);
        if host.is_empty() || !host.chars().all(valid) || !port_fits {
            return Err(refused());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// Makes `dir` ready for the servers of a cluster at `nodes`, an odd number from three on, and for the programs
/// (`envicutor.toml`). Nothing that is there is overwritten.
pub fn init(
    dir: &Path,
    nats: &config::Nats,
    nodes: &[NodeAddress],
) -> Result<Initialized, ServerError> {
    check(nodes)?;
    let prefix = &nats.prefix;
    let mut done = files::init(dir, nats)?;
    // With the nodes' addresses, the same whoever asks again: only the password must not change.
    let routes = routes_conf(prefix, nodes);
    done.write_missing(dir.join("routes.conf"), &routes)?;
    for (place, node) in nodes.iter().enumerate() {
        let conf = node_conf(&node_name(prefix, place), node);
        done.write_missing(node_file(dir, place), &conf)?;
    }
    let programs = programs_toml(dir, prefix, nodes);
    done.write_missing(dir.join("envicutor.toml"), &programs)?;
    Ok(done)
}

/// The configuration of the node at `place`, from 0.
pub fn node_file(dir: &Path, place: usize) -> PathBuf {
    dir.join(format!("node-{}.conf", place + 1))
}

/// The name of the node at `place`, from 0: also of the directory of its store.
pub fn node_name(prefix: &str, place: usize) -> String {
    format!("{prefix}-{}", place + 1)
}

fn check(nodes: &[NodeAddress]) -> Result<(), ServerError> {
    if nodes.len() < 3 || nodes.len().is_multiple_of(2) {
        return Err(ServerError::Nodes(format!(
            "expected three nodes (or five), got {}: with an even number, half of them could not outvote the other half",
            nodes.len()
        )));
    }
    for (place, node) in nodes.iter().enumerate() {
        if nodes[..place].contains(node) {
            return Err(ServerError::Nodes(format!("{node} is named twice")));
        }
    }
    Ok(())
}

fn node_conf(name: &str, node: &NodeAddress) -> String {
    NODE_CONF
        .replace("{name}", name)
        .replace("{host}", &node.host)
        .replace("{port}", &node.port.to_string())
        .replace("{route_port}", &node.route_port().to_string())
}

fn routes_conf(prefix: &str, nodes: &[NodeAddress]) -> String {
    let password = credentials::generate_password();
    let route = |node: &NodeAddress| {
        let port = node.route_port();
        format!("  \"nats-route://routes:{password}@{}:{port}\"", node.host)
    };
    let routes: Vec<_> = nodes.iter().map(route).collect();
    ROUTES_CONF
        .replace("{cluster}", prefix)
        .replace("{password}", &password)
        .replace("{routes}", &routes.join("\n"))
}

/// What the operator's programs need to know of the cluster.
fn programs_toml(dir: &Path, prefix: &str, nodes: &[NodeAddress]) -> String {
    let nats = toml::Table::from_iter([
        ("url".to_owned(), url(nodes).into()),
        (
            "credentials_file".to_owned(),
            files::credentials_file(dir).display().to_string().into(),
        ),
        ("prefix".to_owned(), prefix.into()),
        ("replicas".to_owned(), 3.into()),
    ]);
    let whole = toml::Table::from_iter([("nats".to_owned(), nats.into())]);
    format!("# For the operator's programs: --config with this file.\n{whole}")
}

/// `nats.url` of the whole cluster, without a user.
pub fn url(nodes: &[NodeAddress]) -> String {
    let urls: Vec<_> = nodes.iter().map(|node| format!("nats://{node}")).collect();
    urls.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn nodes(text: &str) -> Vec<NodeAddress> {
        let parse = |node: &str| node.parse().expect("an address");
        text.split(',').map(parse).collect()
    }

    #[test]
    fn an_address_has_a_host_and_perhaps_a_port() {
        let node: NodeAddress = "10.0.0.1".parse().expect("valid");
        assert_eq!(
            (node.to_string().as_str(), node.route_port()),
            ("10.0.0.1:4222", 6222)
        );
        let node: NodeAddress = "nats-1.internal:5000".parse().expect("valid");
        assert_eq!(node.route_port(), 7000);
        for bad in [
            "", ":4222", "a:", "a:0", "a:65000", "a b", "a\"", "::1", "a:b:1",
        ] {
            assert!(bad.parse::<NodeAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_node_has_its_own_file_and_all_share_users_and_routes() {
        let dir = tempfile::tempdir().expect("a directory");
        let three = nodes("10.0.0.1,10.0.0.2,10.0.0.3:5222");
        let done = init(dir.path(), &config::Nats::default(), &three).expect("done");
        assert_eq!((done.written.len(), done.kept.len()), (8, 0), "{done:?}");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("read");
        for there in [
            "server_name: \"envicutor-3\"",
            "listen: \"10.0.0.3:7222\"",
            "store_dir: \"envicutor-3\"",
        ] {
            assert!(read("node-3.conf").contains(there), "{there}");
        }
        for name in ["node-1.conf", "node-2.conf", "node-3.conf", "routes.conf"] {
            assert!(
                !read(name).contains("users:"),
                "{name} has users of its own"
            );
            assert!(
                !read(name).contains("{name}") && !read(name).contains("{route"),
                "{name}"
            );
        }
        let routes = read("routes.conf");
        assert_eq!(routes.matches("nats-route://routes:").count(), 3);
        assert!(routes.contains("@10.0.0.2:6222\""));
        let again = init(dir.path(), &config::Nats::default(), &three).expect("done");
        assert_eq!((again.written.len(), again.kept.len()), (0, 8));
        assert_eq!(read("routes.conf"), routes);
    }

    #[test]
    fn the_programs_are_told_of_every_node() {
        let dir = tempfile::tempdir().expect("a directory");
        let lab = config::Nats {
            prefix: "lab".into(),
            ..config::Nats::default()
        };
        init(dir.path(), &lab, &nodes("a,b,c")).expect("done");
        let file = dir.path().join("envicutor.toml");
        let config = Config::load(Some(&file), &std::collections::BTreeMap::new()).expect("valid");
        assert_eq!(config.nats.url, "nats://a:4222,nats://b:4222,nats://c:4222");
        assert_eq!(
            (config.nats.replicas, config.nats.prefix.as_str()),
            (3, "lab")
        );
    }

    #[test]
    fn what_is_no_cluster_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for few in ["a,b", "a,b,c,d", "a,b,a"] {
            assert!(
                init(dir.path(), &config::Nats::default(), &nodes(few)).is_err(),
                "{few}"
            );
        }
    }
}
