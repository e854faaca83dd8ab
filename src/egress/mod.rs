//! The way out of an installation: a proxy for plain HTTP and `CONNECT`, on a unix socket that the installation's container has
//! and nothing else of the outside.
//!
//! | in the order of a request's way | |
//! | --- | --- |
//! | [`source`] | what the runtime's definition names |
//! | `connection` | one connection, one request |
//! | `request` | its head: parsed strictly, rebuilt |
//! | `dial` | the host's name is resolved, and the address that was looked at is connected to |
//! | `address` | which addresses are never reached |
//! | `meter` | how much there may be |
//!
//! The invariant: no byte leaves but to a host that the definition names, at an address that is anybody's on the internet or in a
//! network that the configuration names, on port 80 or 443. No host's name stands in the program.

mod address;
mod connection;
mod dial;
mod meter;
mod request;
pub mod source;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UnixListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use self::{
    address::Networks,
    dial::{Net, Rules, System},
    meter::Meter,
    source::Source,
};
use crate::{
    blobs,
    config::{self, Config},
};

/// What tells of each request: a line.
pub type Told = Arc<dyn Fn(String) + Send + Sync>;

/// The way out cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// No such preset.
    #[error(
        "egress: {name:?} is no list of hosts: name them in egress.presets.{name} of the configuration, or put the hosts themselves into the definition"
    )]
    NoPreset {
        /// Its name.
        name: String,
    },
    /// A preset has what is no host.
    #[error("egress.presets.{preset}: {host:?} is no name of a host")]
    Host {
        /// Its name.
        preset: String,
        /// What stands there.
        host: String,
    },
    /// The socket.
    #[error("the egress proxy cannot listen on {path}: {source}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What every connection of an installation shares.
struct Shared {
    rules: Rules,
    meter: Meter,
    net: Box<dyn Net>,
    idle: Duration,
    head_bytes: usize,
}

/// The hosts that `sources` name, with `apt` for those of the base image's own apt sources.
pub fn hosts(
    sources: &[Source],
    config: &config::Egress,
    apt: &[String],
) -> Result<Vec<String>, EgressError> {
    let mut hosts = BTreeSet::new();
    for source in sources {
        match source {
            Source::Apt => hosts.extend(apt.iter().cloned()),
            Source::Host(host) => {
                hosts.insert(host.clone());
            }
            Source::Preset(name) => {
                let preset = config.presets.get(name);
                let preset = preset.ok_or_else(|| EgressError::NoPreset { name: name.clone() })?;
                for host in &preset.0 {
                    let named = source::host(host).ok_or_else(|| EgressError::Host {
                        preset: name.clone(),
                        host: host.clone(),
                    })?;
                    hosts.insert(named);
                }
            }
        }
    }
    Ok(hosts.into_iter().collect())
}

/// The hosts of the `http` and `https` sources in a file of apt's, of either form (`deb [options] URI suite …`, `URIs: …`).
pub fn apt_hosts(file: &str) -> BTreeSet<String> {
    let lines = file
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'));
    let words = lines.flat_map(str::split_whitespace);
    let hosts = words.filter_map(|word| {
        let (scheme, rest) = word.split_once("://")?;
        if !matches!(scheme, "http" | "https") {
            return None;
        }
        let authority = rest.split('/').next()?;
        let host = authority.rsplit('@').next()?;
        source::host(host.split(':').next()?)
    });
    hosts.collect()
}

/// The hosts of the fleet itself, which no installation reaches whatever their addresses are: NATS, the Docker Engine, the object
/// store.
fn fleet_hosts(config: &Config) -> Vec<String> {
    let docker = config.container.docker_host.as_deref();
    let store = blobs::endpoints(&config.blobs);
    let urls = config.nats.url.split(',').chain(docker);
    let urls = urls.chain(store.iter().map(String::as_str));
    let hosts = urls.filter_map(|url| {
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("nats", url.trim()));
        if scheme == "unix" {
            return None;
        }
        let authority = rest.split('/').next()?.rsplit('@').next()?;
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        (!host.is_empty()).then(|| host.to_owned())
    });
    hosts.collect()
}

/// A proxy that serves on its socket until it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// Serves `hosts` on a socket at `path`; `told` gets a line for each request.
    pub fn start(
        config: &Config,
        hosts: Vec<String>,
        path: &Path,
        told: Told,
    ) -> Result<Self, EgressError> {
        let failed = |source| EgressError::Listen {
            path: path.to_owned(),
            source,
        };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let shared = Shared::new(config, hosts, Box::new(System));
        let shared = Arc::new(shared);
        let connections = config.egress.connections;
        let serving = serve(Arc::clone(&shared), listener, connections, told);
        Ok(Self {
            shared,
            serving: tokio::spawn(serving),
        })
    }

    /// Requests and bytes so far.
    pub fn used(&self) -> (u64, u64) {
        self.shared.meter.used()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // With it every connection is dropped.
        self.serving.abort();
    }
}

impl Shared {
    fn new(config: &Config, hosts: Vec<String>, net: Box<dyn Net>) -> Self {
        let egress = &config.egress;
        Self {
            rules: Rules {
                hosts,
                networks: Networks {
                    allowed: egress.allow_networks.clone(),
                    denied: egress.deny_networks.clone(),
                },
                fleet: fleet_hosts(config),
                timeout: egress.connect_timeout_us.duration(),
            },
            meter: Meter::new(egress.max_bytes, egress.max_requests),
            net,
            idle: egress.idle_timeout_us.duration(),
            head_bytes: usize::try_from(egress.head_bytes.0).unwrap_or(usize::MAX),
        }
    }
}

/// Serves `listener`, so many connections at a time: further ones wait.
async fn serve(shared: Arc<Shared>, listener: UnixListener, at_a_time: usize, told: Told) {
    let places = Arc::new(Semaphore::new(at_a_time));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the egress proxy could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (shared, told) = (Arc::clone(&shared), Arc::clone(&told));
        connections.spawn(async move {
            let _place = place;
            if let Some(served) = connection::serve(&shared, stream).await {
                let line = match &served.outcome {
                    Ok(said) => format!("egress: {}: {said}", served.what),
                    Err(refused) => format!(
                        "egress: {} refused ({}): {}",
                        served.what, refused.status, refused.reason
                    ),
                };
                told(line);
            }
        });
    }
}
