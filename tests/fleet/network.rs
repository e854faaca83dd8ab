//! A network of namespaces for the nodes of a cluster: each node has a line to this machine, where the programs are, and another one
//! to a switch, where the other nodes are. Either can be unplugged. Made and removed by the test; needs root.

use std::{
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
};

use super::cluster::NODES;

/// The subnets of the lines to this machine are made from here: addresses that are set aside for tests of networks.
const FIRST: [u8; 2] = [198, 18];

/// Where clients find a node.
pub const CLIENT_PORT: u16 = 4222;

/// How many networks this process made. The kernel takes a namespace apart some time after it was removed, and its ends of the lines
/// with it: no network has the names or the addresses of the one before it.
static MADE: AtomicU16 = AtomicU16::new(0);

/// The namespaces of one cluster.
pub struct Network {
    /// What the names of everything begin with.
    name: String,
    /// What the addresses of the lines to this machine begin with: 16 of them are ours.
    base: u16,
}

impl Network {
    /// Makes the namespaces. What an earlier test was killed over is removed first.
    pub fn make() -> Self {
        remove_stale();
        let (pid, made) = (
            std::process::id(),
            MADE.fetch_add(1, Ordering::Relaxed) % 10,
        );
        let network = Self {
            // A line's name has 15 bytes at most, and a process id up to 7 digits.
            name: format!("envc{pid}x{made}"),
            base: (u16::try_from(pid % 4096).expect("small") * 10 + made) % 4096 * 16,
        };
        network.build();
        network
    }

    fn build(&self) {
        let switch = self.switch();
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for node in 0..NODES {
            let (ns, line, port) = (self.ns(node), self.line(node), format!("p{node}"));
            ip(&["netns", "add", &ns]);
            ip(&["-n", &ns, "link", "set", "lo", "up"]);
            // To this machine.
            ip(&[
                "link", "add", &line, "type", "veth", "peer", "name", "clients", "netns", &ns,
            ]);
            ip(&[
                "addr",
                "add",
                &format!("{}/30", self.address_of(node, 1)),
                "dev",
                &line,
            ]);
            ip(&["link", "set", &line, "up"]);
            ip(&[
                "-n",
                &ns,
                "addr",
                "add",
                &format!("{}/30", self.address(node)),
                "dev",
                "clients",
            ]);
            ip(&["-n", &ns, "link", "set", "clients", "up"]);
            // To the other nodes.
            ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "nodes",
                "netns", &ns,
            ]);
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
            ip(&[
                "-n",
                &ns,
                "addr",
                "add",
                &format!("{}/24", Self::address_among_nodes(node)),
                "dev",
                "nodes",
            ]);
            ip(&["-n", &ns, "link", "set", "nodes", "up"]);
        }
    }

    /// Where this machine finds a node.
    pub fn address(&self, node: usize) -> String {
        self.address_of(node, 2)
    }

    fn address_of(&self, node: usize, end: u16) -> String {
        let host = self.base + u16::try_from(node).expect("small") * 4 + end;
        let [third, fourth] = host.to_be_bytes();
        format!("{}.{}.{third}.{fourth}", FIRST[0], FIRST[1])
    }

    /// Where the other nodes find it.
    pub fn address_among_nodes(node: usize) -> String {
        format!("10.99.0.{}", node + 1)
    }

    /// What a node's server is started behind.
    pub fn before(&self, node: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.ns(node)]
            .map(str::to_owned)
            .to_vec()
    }

    /// Parts a node from the other nodes. Programs still reach it.
    pub fn part(&self, node: usize) {
        ip(&["-n", &self.ns(node), "link", "set", "nodes", "down"]);
    }

    /// Parts a node from everything.
    pub fn isolate(&self, node: usize) {
        self.part(node);
        ip(&["-n", &self.ns(node), "link", "set", "clients", "down"]);
    }

    /// Plugs everything in again.
    pub fn mend(&self, node: usize) {
        for line in ["nodes", "clients"] {
            ip(&["-n", &self.ns(node), "link", "set", line, "up"]);
        }
    }

    fn ns(&self, node: usize) -> String {
        format!("{}n{node}", self.name)
    }

    fn switch(&self) -> String {
        format!("{}s", self.name)
    }

    fn line(&self, node: usize) -> String {
        format!("{}c{node}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let names = (0..NODES).map(|node| self.ns(node)).chain([self.switch()]);
        names.for_each(|name| remove(&name));
    }
}

/// Removes the namespaces of test processes that are no more.
fn remove_stale() {
    let listed = Command::new("ip")
        .args(["netns", "list"])
        .output()
        .expect("ip runs");
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let Some(rest) = name.strip_prefix("envc") else {
            continue;
        };
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !pid.is_empty() && !std::path::Path::new("/proc").join(&pid).exists() {
            remove(name);
        }
    }
}

/// With it go its ends of the lines, and so the lines.
fn remove(name: &str) {
    let removed = Command::new("ip").args(["netns", "del", name]).status();
    if !removed.is_ok_and(|status| status.success()) {
        eprintln!("the network namespace {name} is left");
    }
}

fn ip(args: &[&str]) {
    let done = Command::new("ip")
        .args(args)
        .output()
        .expect("ip runs: the package iproute2");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {}: {said}", args.join(" "));
}
