//! The connection to the Docker Engine, and how it says that its disk is full.

use bollard::{API_DEFAULT_VERSION, Docker};

use crate::submission::units::Micros;

/// The Engine cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error(
    "the Docker Engine at {host} cannot be used: {source}. Start it, or name another with container.docker_host or DOCKER_HOST"
)]
pub struct DockerError {
    host: String,
    source: bollard::errors::Error,
}

/// Connects to the Engine at `host` (`unix:///path` or `http://host:port`; absent: `DOCKER_HOST`, else the default socket)
/// and agrees on an API version. No call takes longer than `timeout`, but for the ones that stream.
pub async fn connect(host: Option<&str>, timeout: Micros) -> Result<Docker, DockerError> {
    let named = host
        .map(str::to_owned)
        .or_else(|| std::env::var("DOCKER_HOST").ok());
    let host = named.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    let seconds = timeout.duration().as_secs().max(1);
    let connected = match host.strip_prefix("unix://") {
        Some(path) => Docker::connect_with_unix(path, seconds, API_DEFAULT_VERSION),
        None => Docker::connect_with_http(&host, seconds, API_DEFAULT_VERSION),
    };
    let failed = |source| DockerError {
        host: host.clone(),
        source,
    };
    connected
        .map_err(failed)?
        .negotiate_version()
        .await
        .map_err(failed)
}

/// Whether the Engine, or a program that it ran, says that a disk is full.
pub(crate) fn is_full(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["no space left on device", "disk quota exceeded"]
        .iter()
        .any(|sign| message.contains(sign))
}
