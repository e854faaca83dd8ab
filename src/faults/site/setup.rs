//! How the fleet of a run is configured, provisioned and connected to.

use std::{net::SocketAddr, path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    SiteError,
    servers::Servers,
    tag::{Tag, UIDS},
};
use crate::{
    bus::{
        Bus, Role,
        provision::{self, Outcome},
        registry::Registry,
    },
    config::{Config, Nats},
    faults::plan::Plan,
    submission::{names::Tenant, units::Micros},
};

/// How long the workers may take to be there the first time: images may have to be made.
const FIRST_START: Duration = Duration::from_mins(25);

/// Between two looks whether they are.
const POLL: Duration = Duration::from_millis(200);

/// Connections that the clients share.
const CLIENTS: usize = 4;

/// The configuration of the whole fleet.
pub(super) fn config(plan: &Plan, dir: &Path) -> Config {
    let mut config = plan.config.clone();
    dir.clone_into(&mut config.data_dir.0);
    config.nats.credentials_file = None;
    config.nats.tenants = vec![Tenant::default_tenant()];
    config.nats.replicas = plan.servers;
    // As long as a server may take to be back; a supervisor would start the worker again.
    config.nats.connect_timeout_us = config.nats.connect_timeout_us.max(Micros(30_000_000));
    config.worker.slots = Some(plan.slots);
    // A worker that lives for seconds needs no slot beyond those that it uses.
    config.container.pool_size = config.container.pool_size.or(Some(plan.slots));
    config.runtimes.preload = vec!["bash".to_owned()];
    // It would run programs of its own beside the run's.
    config.runtimes.measure_after_us = Micros(3_600_000_000);
    config
}

/// The configuration of the workers of a place.
pub(super) fn config_of_place(config: &Config, tag: &Tag, place: usize, url: String) -> Config {
    let mut config = config.clone();
    config.nats.url = url;
    let container = &mut config.container;
    // Beyond those of a fleet that works with the same configuration beside this one.
    container.uid_first = tag.uid(container.uid_first + container.uid_count, place);
    container.uid_count = UIDS;
    config
}

/// Makes every stream.
pub(super) async fn provision(operator: &Bus, config: &Config) -> Result<(), SiteError> {
    for report in provision::apply(operator, config).await? {
        if let Outcome::Refused(reasons) = report.outcome {
            return Err(SiteError::Refused {
                object: report.object,
                reasons: reasons.join("; "),
            });
        }
    }
    Ok(())
}

/// A connection as `role` to the servers at these addresses.
pub(super) async fn connect(
    servers: &Servers,
    addresses: &[SocketAddr],
    config: &Nats,
    role: Role,
    name: &str,
) -> Result<Bus, SiteError> {
    let config = Nats {
        url: servers.url(role, addresses),
        ..config.clone()
    };
    Ok(Bus::connect(&config, role, name).await?)
}

/// Services' connections by way of these addresses.
pub(super) async fn clients(
    servers: &Servers,
    addresses: &[SocketAddr],
    config: &Nats,
) -> Result<Vec<Bus>, SiteError> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(servers, addresses, config, Role::Service, "client").await?);
    }
    Ok(clients)
}

/// A service's connection at each server.
pub(super) async fn witnesses(servers: &Servers, config: &Nats) -> Result<Vec<Bus>, SiteError> {
    let mut witnesses = Vec::new();
    for address in servers.addresses() {
        let address = std::slice::from_ref(address);
        witnesses.push(connect(servers, address, config, Role::Service, "witness").await?);
    }
    Ok(witnesses)
}

/// Waits until so many of the run's workers have said that they are there.
pub(super) async fn wait_for_workers(
    operator: &Bus,
    tag: &Tag,
    count: usize,
) -> Result<(), SiteError> {
    let began = Instant::now();
    loop {
        let workers = Registry::new(operator).list().await?;
        let there = workers.iter().filter(|worker| tag.is_of(&worker.worker));
        let there = there.count();
        if there >= count {
            return Ok(());
        }
        if began.elapsed() > FIRST_START {
            return Err(SiteError::NoWorkers { there, count });
        }
        sleep(POLL).await;
    }
}
