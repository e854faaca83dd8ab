//! A cluster of three real nats-servers for one test, from the files that `envicutor nats init --cluster` writes:
//! `Cluster::start().await`, then kill, stop, hang, or restart its nodes, and ask who leads what.
//!
//! Nodes are numbered from 0. Dropping the cluster kills every server, by its process id; a test that dies takes them with it.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use envicutor::{
    bus::{Bus, Role, credentials::Credentials, provision},
    config::Config,
    nats_server::{
        cluster::{self, NodeAddress},
        files,
    },
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{
    eventually, nats_server,
    network::{self, Network},
    signal,
};

/// The servers of a cluster.
pub const NODES: usize = 3;

/// How long an election, and what a server that comes back has missed, may take.
pub const ELECTION: Duration = Duration::from_mins(1);

/// How long a cluster may need until every copy is whole again. Mostly seconds. But nats-server 2.15.1 was seen to refuse to a server
/// that had been parted what its leader sent ("Expected first catchup entry to be a snapshot"), every two seconds for as long as
/// was looked. The leader sends a snapshot once it has made one: within two minutes, and five tries of 15 s where a server is behind
/// (`monitorStream`). Submissions go on meanwhile, on the two others.
pub const HEALED: Duration = Duration::from_mins(6);

/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(100);

/// Three servers that are one, with everything that the configuration asks for in three copies.
pub struct Cluster {
    /// What every program of this cluster is configured with, but for its URL.
    config: Config,
    credentials: Credentials,
    addresses: Vec<NodeAddress>,
    /// Of the nodes that run, hung or not.
    servers: [Option<Child>; NODES],
    program: PathBuf,
    /// What stands before the server's command line: where it runs in a network namespace.
    before: Vec<Vec<String>>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// A cluster on loopback with the default configuration.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// A cluster on loopback with another configuration.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let cluster = Self::start_empty(change).await;
        cluster.apply().await;
        cluster.healthy().await;
        cluster
    }

    /// A cluster on loopback without any stream.
    pub async fn start_empty(change: impl FnOnce(&mut Config)) -> Self {
        let address = |port| format!("127.0.0.1:{port}");
        let addresses = free_ports().into_iter().map(address).collect();
        Self::start_at(addresses, None, change).await
    }

    /// A cluster whose nodes are in the namespaces of a network.
    pub async fn start_in(network: &Network, change: impl FnOnce(&mut Config)) -> Self {
        let address = |node| format!("{}:{}", network.address(node), network::CLIENT_PORT);
        let cluster =
            Self::start_at((0..NODES).map(address).collect(), Some(network), change).await;
        cluster.apply().await;
        cluster.healthy().await;
        cluster
    }

    async fn start_at(
        addresses: Vec<String>,
        network: Option<&Network>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("envc-")
            .tempdir()
            .expect("a temporary directory");
        let mut config = Config::default();
        config.nats.replicas = NODES;
        config.nats.credentials_file = None;
        change(&mut config);
        let parse = |address: &String| address.parse().expect("an address");
        let addresses: Vec<NodeAddress> = addresses.iter().map(parse).collect();
        let nats_dir = dir.path().join("nats");
        cluster::init(&nats_dir, &config.nats, &addresses).expect("the files are written");
        let credentials = Credentials::load(&files::credentials_file(&nats_dir));
        let mut cluster = Self {
            config,
            credentials: credentials.expect("credentials"),
            addresses,
            servers: [const { None }; NODES],
            program: nats_server().await,
            before: Vec::new(),
            dir,
        };
        if let Some(network) = network {
            cluster.before = (0..NODES).map(|node| network.before(node)).collect();
            cluster.route_over(network);
        }
        for node in 0..NODES {
            cluster.start_node(node);
        }
        cluster.meta_leader().await;
        cluster
    }

    /// Has the nodes reach each other where programs do not.
    fn route_over(&self, network: &Network) {
        let files = (0..NODES).map(|node| cluster::node_file(&self.dir(), node));
        for file in files.chain([self.dir().join("routes.conf")]) {
            let mut text = std::fs::read_to_string(&file).expect("read");
            for node in 0..NODES {
                let port = self.addresses[node].route_port();
                let (among_programs, among_nodes) =
                    (network.address(node), Network::address_among_nodes(node));
                text = text.replace(
                    &format!("{among_programs}:{port}"),
                    &format!("{among_nodes}:{port}"),
                );
            }
            std::fs::write(&file, text).expect("written");
        }
    }

    /// Where the files of the servers are.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("nats")
    }

    /// A directory that goes with the cluster.
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// `nats.url` of the whole cluster for a role.
    pub fn url(&self, role: Role) -> String {
        let urls: Vec<_> = (0..NODES).map(|node| self.url_of(node, role)).collect();
        urls.join(",")
    }

    /// The URL of one node for a role.
    pub fn url_of(&self, node: usize, role: Role) -> String {
        self.url_at(&self.addresses[node].to_string(), role)
    }

    /// The URL of an address that leads to a node, such as a proxy's.
    pub fn url_at(&self, address: &str, role: Role) -> String {
        format!(
            "nats://{role}:{}@{address}",
            self.credentials.password(role).expect("generated")
        )
    }

    /// `HOST:PORT` of a node.
    pub fn address(&self, node: usize) -> String {
        self.addresses[node].to_string()
    }

    /// The whole configuration, connecting to the whole cluster as `role`.
    pub fn config(&self, role: Role) -> Config {
        let mut config = self.config.clone();
        self.dir.path().clone_into(&mut config.data_dir.0);
        config.nats.url = self.url(role);
        config
    }

    /// A new connection to the whole cluster as `role`.
    pub async fn bus(&self, role: Role) -> Bus {
        let bus = Bus::connect(&self.config(role).nats, role, "test").await;
        bus.expect("connected")
    }

    /// A new connection to one node as the operator.
    async fn bus_of(&self, node: usize) -> Bus {
        let mut config = self.config.nats.clone();
        config.url = self.url_of(node, Role::Operator);
        let bus = Bus::connect(&config, Role::Operator, "test").await;
        bus.expect("connected")
    }

    /// Provisions what the configuration asks for.
    pub async fn apply(&self) -> Vec<provision::Report> {
        let bus = self.bus(Role::Operator).await;
        let reports = provision::apply(&bus, &self.config).await;
        reports.expect("provisioned")
    }

    /// The worker program, to be started with this cluster's configuration: environment only, nothing else is set.
    pub fn worker(&self, id: &str, slots: usize) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_envicutor-worker"));
        command
            .env("ENVICUTOR__DATA_DIR", self.dir.path())
            .env("ENVICUTOR__NATS__URL", self.url(Role::Worker))
            .env(
                "ENVICUTOR__NATS__ACK_WAIT_US",
                self.config.nats.ack_wait_us.0.to_string(),
            )
            .env(
                "ENVICUTOR__NATS__REPLICAS",
                self.config.nats.replicas.to_string(),
            )
            .env("ENVICUTOR__WORKER__ID", id)
            .env("ENVICUTOR__WORKER__SLOTS", slots.to_string())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    // ---- the nodes ----

    /// Starts the server of a node that does not run.
    pub fn start_node(&mut self, node: usize) {
        assert!(self.servers[node].is_none(), "node {node} runs already");
        let dir = self.dir();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(node));
        let log = log.expect("its log can be written");
        let mut line: Vec<String> = self.before.get(node).cloned().unwrap_or_default();
        // The server ends when this thread's process does, however that comes about.
        line.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned));
        let mut command = Command::new(&line[0]);
        let started = command
            .args(&line[1..])
            .arg(&self.program)
            .arg("--config")
            .arg(cluster::node_file(&dir, node))
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.servers[node] = Some(started.expect("the server starts"));
    }

    /// Kills the server of a node by SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self, node: usize) {
        let mut server = self.servers[node].take().expect("it runs");
        server.kill().await.expect("killed");
    }

    /// Ends the server of a node by SIGTERM, as an upgrade would, and waits until it is gone.
    pub async fn stop(&mut self, node: usize) {
        let mut server = self.servers[node].take().expect("it runs");
        signal(&server, "TERM").await;
        let ended = tokio::time::timeout(ELECTION, server.wait()).await;
        ended
            .expect("it ends in time")
            .expect("it can be waited for");
    }

    /// Ends the server of a node by SIGTERM and starts it again.
    pub async fn restart(&mut self, node: usize) {
        self.stop(node).await;
        self.start_node(node);
    }

    /// Hangs the server of a node: it keeps its connections and says nothing more.
    pub async fn hang(&self, node: usize) {
        signal(self.server(node), "STOP").await;
    }

    /// Lets the server of a node go on.
    pub async fn go_on(&self, node: usize) {
        signal(self.server(node), "CONT").await;
    }

    /// Whether the server of a node was started and not ended.
    pub fn runs(&self, node: usize) -> bool {
        self.servers[node].is_some()
    }

    fn server(&self, node: usize) -> &Child {
        self.servers[node].as_ref().expect("it runs")
    }

    /// Where the server of a node logs.
    pub fn log(&self, node: usize) -> PathBuf {
        self.dir().join(format!("node-{}.log", node + 1))
    }

    // ---- who leads ----

    /// The node that leads a stream, once there is one.
    pub async fn leader(&self, stream: &str) -> usize {
        self.leader_by(&format!("STREAM.INFO.{stream}")).await
    }

    /// The node that leads a consumer, once there is one.
    pub async fn consumer_leader(&self, stream: &str, consumer: &str) -> usize {
        self.leader_by(&format!("CONSUMER.INFO.{stream}.{consumer}"))
            .await
    }

    async fn leader_by(&self, call: &str) -> usize {
        let bus = self.bus(Role::Operator).await;
        let find = async {
            loop {
                let info = bus.api::<Value>(call, &Value::Null).await;
                let name = info
                    .ok()
                    .and_then(|info| Some(info["cluster"]["leader"].as_str()?.to_owned()));
                if let Some(node) = name.and_then(|name| self.node_named(&name)) {
                    return node;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let found = tokio::time::timeout(super::slowly(ELECTION), find).await;
        bus.close().await;
        found.unwrap_or_else(|_| panic!("{call} names no leader that runs"))
    }

    /// The node whose server has this name, where it runs.
    fn node_named(&self, name: &str) -> Option<usize> {
        let prefix = &self.config.nats.prefix;
        let node = (0..NODES).find(|node| cluster::node_name(prefix, *node) == name)?;
        self.runs(node).then_some(node)
    }

    /// Waits until the cluster has a leader for what is not a stream's.
    async fn meta_leader(&self) {
        let nats = self.config(Role::Operator).nats;
        eventually("the cluster has a leader", ELECTION, || async {
            let Ok(bus) = Bus::connect(&nats, Role::Operator, "test").await else {
                return false;
            };
            let names = bus
                .api::<Value>("STREAM.NAMES", &json!({ "subject": "nobody" }))
                .await;
            bus.close().await;
            names.is_ok()
        })
        .await;
    }

    /// Waits until every server that runs is connected to the others, and every stream and consumer has a leader and as many
    /// copies that miss nothing as servers run.
    pub async fn healthy(&self) {
        let running: Vec<_> = (0..NODES).filter(|node| self.runs(*node)).collect();
        let last = std::sync::Mutex::new(String::new());
        let healthy = async {
            while let Err(why) = self.is_healthy(&running).await {
                *last.lock().expect("no panic") = why;
                tokio::time::sleep(POLL).await;
            }
        };
        let limit = super::slowly(HEALED);
        let is_healthy = tokio::time::timeout(limit, healthy).await.is_ok();
        assert!(
            is_healthy,
            "the cluster is not healthy after {limit:?}: {}",
            last.lock().expect("no panic")
        );
    }

    async fn is_healthy(&self, running: &[usize]) -> Result<(), String> {
        // Through each node, so that each is known to have found its place.
        for node in running {
            let bus = self.bus_of(*node).await;
            let checked = self.check_through(&bus, running.len()).await;
            bus.close().await;
            checked.map_err(|why| format!("through node {node}: {why}"))?;
        }
        Ok(())
    }

    async fn check_through(&self, bus: &Bus, copies: usize) -> Result<(), String> {
        let list = bus.api::<Value>("STREAM.LIST", &Value::Null).await;
        let list = list.map_err(|error| error.to_string())?;
        if list["missing"]
            .as_array()
            .is_some_and(|missing| !missing.is_empty())
        {
            return Err(format!("nobody answers for {}", list["missing"]));
        }
        for stream in list["streams"].as_array().into_iter().flatten() {
            self.has_copies(stream, copies)?;
            let name = stream["config"]["name"].as_str().expect("a name");
            let consumers = bus
                .api::<Value>(&format!("CONSUMER.LIST.{name}"), &Value::Null)
                .await;
            let consumers = consumers.map_err(|error| format!("{name}: {error}"))?;
            if consumers["missing"]
                .as_array()
                .is_some_and(|missing| !missing.is_empty())
            {
                return Err(format!("nobody answers for {}", consumers["missing"]));
            }
            for consumer in consumers["consumers"].as_array().into_iter().flatten() {
                self.has_copies(consumer, copies)?;
            }
        }
        Ok(())
    }

    fn has_copies(&self, info: &Value, copies: usize) -> Result<(), String> {
        if info["config"]["num_replicas"] == json!(1) {
            return Ok(());
        }
        let cluster = &info["cluster"];
        let leader = cluster["leader"]
            .as_str()
            .and_then(|name| self.node_named(name));
        let peers = cluster["replicas"].as_array().into_iter().flatten();
        let current =
            peers.filter(|peer| peer["current"] == json!(true) && peer["offline"] != json!(true));
        let names: BTreeSet<_> = current
            .filter_map(|peer| self.node_named(peer["name"].as_str()?))
            .chain(leader)
            .collect();
        if leader.is_none() || names.len() < copies {
            let what = info["config"]["name"].as_str().unwrap_or("?");
            return Err(format!("{what} has not {copies} copies: {cluster}"));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A server that hangs ends by SIGKILL too. What the logs say is for the reader of a failed test.
        if std::thread::panicking() {
            for node in 0..NODES {
                let log = std::fs::read_to_string(self.log(node)).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n");
                eprintln!("--- the end of node {node}'s log\n{tail}");
            }
        }
    }
}

/// Ports that nobody uses now, each with its route's port.
fn free_ports() -> Vec<u16> {
    let mut held = Vec::new();
    while held.len() < NODES {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let route = TcpListener::bind(("127.0.0.1", port.saturating_add(2_000)));
        if let Some(route) = route.ok().filter(|_| port < u16::MAX - 2_000) {
            held.push((port, listener, route));
        }
    }
    held.iter().map(|(port, ..)| *port).collect()
}
