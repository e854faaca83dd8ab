//! The way to a host: its name is resolved here, each address is looked at, and the very address that was looked at is
//! connected to. Between the look and the connection no name is resolved, so that a name cannot mean another address by then.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{net::TcpStream, time::timeout};

use super::{
    address::{self, Networks},
    request::Refused,
};

/// Addresses of one name that are tried.
const TRIES: usize = 4;

/// Names and addresses, as the machine has them, or as a test says.
pub(super) trait Net: Send + Sync {
    /// The addresses of a name.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;

    /// A connection to exactly this address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;

    /// The addresses of this machine.
    fn own(&self) -> Vec<IpAddr>;
}

/// This machine's.
pub(super) struct System;

impl Net for System {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            let mut addresses: Vec<IpAddr> = found.map(|it| it.ip()).collect();
            addresses.dedup();
            Ok(addresses)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address))
    }

    fn own(&self) -> Vec<IpAddr> {
        let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
        let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        own_v4(&v4).into_iter().chain(own_v6(&v6)).collect()
    }
}

/// What an installation may reach, and which addresses it may not.
pub(super) struct Rules {
    /// In lower case.
    pub(super) hosts: Vec<String>,
    pub(super) networks: Networks,
    /// The hosts of the fleet: its servers' and its object store's names or addresses.
    pub(super) fleet: Vec<String>,
    pub(super) timeout: Duration,
}

impl Rules {
    /// A connection to `host`, and the address that it leads to.
    pub(super) async fn dial(
        &self,
        net: &dyn Net,
        host: &str,
        port: u16,
    ) -> Result<(TcpStream, IpAddr), Refused> {
        if !self.hosts.iter().any(|it| it == host) {
            let reason = format!("{host} is none of the hosts that the runtime's egress names");
            return Err(Refused::new(403, reason));
        }
        let addresses = self.resolve(net, host).await?;
        let own = self.own(net).await;
        let mut refused = None;
        let mut failed = None;
        for ip in addresses.into_iter().take(TRIES) {
            if let Some(reason) = address::refusal(ip, &own, &self.networks) {
                refused = Some((ip, reason));
                continue;
            }
            match timeout(self.timeout, net.connect(SocketAddr::new(ip, port))).await {
                Ok(Ok(stream)) => return Ok((stream, ip)),
                Ok(Err(error)) => failed = Some(error.to_string()),
                Err(_) => failed = Some(format!("no answer within {:?}", self.timeout)),
            }
        }
        Err(match (failed, refused) {
            (Some(problem), _) => {
                Refused::new(502, format!("{host} cannot be connected to: {problem}"))
            }
            (None, Some((ip, reason))) => Refused::new(
                403,
                format!(
                    "{host} resolves to {ip}, which is not connected to: it is {reason} (egress.allow_networks)"
                ),
            ),
            (None, None) => Refused::new(502, format!("{host} has no address")),
        })
    }

    async fn resolve(&self, net: &dyn Net, host: &str) -> Result<Vec<IpAddr>, Refused> {
        let problem = match timeout(self.timeout, net.resolve(host)).await {
            Ok(Ok(addresses)) => return Ok(addresses),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.timeout),
        };
        Err(Refused::new(
            502,
            format!("{host} cannot be resolved: {problem}"),
        ))
    }

    /// The fleet's own addresses now. A server whose name does not resolve cannot be reached by it either.
    async fn own(&self, net: &dyn Net) -> Vec<IpAddr> {
        let mut own = net.own();
        for host in &self.fleet {
            match host.trim_matches(['[', ']']).parse() {
                Ok(address) => own.push(address),
                Err(_) => own.extend(self.resolve(net, host).await.unwrap_or_default()),
            }
        }
        own
    }
}

/// The local addresses in the kernel's table of routes: a line with the address, and below it `/32 host LOCAL`.
fn own_v4(table: &str) -> Vec<IpAddr> {
    let mut last = None;
    let mut found = Vec::new();
    for line in table.lines() {
        if let Some(address) = line.trim().strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.trim_end().ends_with("/32 host LOCAL") {
            found.extend(last.filter(|address| !found.contains(address)));
        }
    }
    found
}

/// The addresses in the kernel's list of interfaces: 32 hexadecimal digits at the beginning of a line.
fn own_v6(list: &str) -> Vec<IpAddr> {
    let digits = list
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let numbers = digits.filter_map(|digits| u128::from_str_radix(digits, 16).ok());
    numbers.map(|number| IpAddr::V6(number.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_own_addresses_are_read() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.2.0\n        /24 link UNICAST\n     |-- 10.1.2.3\n        /32 host LOCAL\n";
        assert_eq!(
            own_v4(table),
            ["10.1.2.3".parse::<IpAddr>().expect("an address")]
        );
        let list = "fe800000000000000000000000000001 02 40 20 80 eth0\n";
        assert_eq!(
            own_v6(list),
            ["fe80::1".parse::<IpAddr>().expect("an address")]
        );
        assert!(
            System
                .own()
                .contains(&"127.0.0.1".parse().expect("an address"))
        );
    }
}
