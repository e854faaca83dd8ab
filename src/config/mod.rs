//! Configuration: defaults < file (TOML) < environment (`ENVICUTOR__NATS__URL`) < flags. Every limit, timeout and size of a
//! fleet is here with its default, a file for each section; an unknown key is refused by name.

mod blobs;
mod ceilings;
mod check;
mod client;
mod container;
mod egress;
mod installer;
mod nats;
mod runtimes;
mod worker;

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use self::{
    blobs::Blobs,
    ceilings::FleetCeilings,
    client::Client,
    container::{Cgroups, Container, IsolationChoice},
    egress::{Egress, Hosts},
    installer::Installer,
    nats::Nats,
    runtimes::Runtimes,
    worker::Worker,
};

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where everything of this machine is kept: the NATS server's data, credentials, the agent, sockets.
    pub data_dir: DataDir,
    /// The connection to NATS, and what is provisioned there.
    pub nats: Nats,
    /// A worker.
    pub worker: Worker,
    /// The object store.
    pub blobs: Blobs,
    /// The containers of a worker.
    pub container: Container,
    /// The runtimes and their images.
    pub runtimes: Runtimes,
    /// The installation of runtimes.
    pub installer: Installer,
    /// What an installation may reach.
    pub egress: Egress,
    /// What no submission may exceed.
    pub ceilings: FleetCeilings,
    /// The client's waiting and sending.
    pub client: Client,
}

/// The data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataDir(pub PathBuf);

impl Default for DataDir {
    /// `$XDG_DATA_HOME/envicutor`, `$HOME/.local/share/envicutor`, or `/var/lib/envicutor` where there is no home.
    fn default() -> Self {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        let data = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(home);
        Self(data.unwrap_or_else(|| "/var/lib".into()).join("envicutor"))
    }
}

/// Configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file, variable or flag holds something else than expected.
    #[error("the configuration cannot be read: {0}")]
    Read(#[from] config::ConfigError),
    /// A value is out of its bounds.
    #[error("configuration {key}: {problem}")]
    Value {
        /// The key, dotted.
        key: &'static str,
        /// What is expected.
        problem: String,
    },
}

impl Config {
    /// The configuration in force: defaults, `file`, the environment, and `flags` (dotted keys and values), in this order.
    pub fn load(
        file: Option<&std::path::Path>,
        flags: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let mut builder =
            config::Config::builder().add_source(config::Config::try_from(&Self::default())?);
        if let Some(file) = file {
            builder = builder.add_source(config::File::from(file).format(config::FileFormat::Toml));
        }
        builder = builder.add_source(
            config::Environment::with_prefix("ENVICUTOR")
                .prefix_separator("__")
                .separator("__")
                .try_parsing(true)
                .list_separator(",")
                .with_list_parse_key("nats.tenants")
                .with_list_parse_key("runtimes.preload")
                .with_list_parse_key("egress.allow_networks")
                .with_list_parse_key("egress.deny_networks"),
        );
        for (key, value) in flags {
            builder = builder.set_override(key, value.as_str())?;
        }
        let config: Self = builder.build()?.try_deserialize()?;
        check::check(&config)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::units::{ByteSize, Micros};

    fn load(toml: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("envicutor.toml");
        std::fs::write(&file, toml).expect("written");
        Config::load(Some(&file), &BTreeMap::new())
    }

    #[test]
    fn a_file_replaces_single_defaults() {
        let config =
            load("[nats]\nack_wait_us = \"5s\"\n[ceilings.limits]\nmemory_bytes = \"2GiB\"")
                .expect("valid");
        assert_eq!(config.nats.ack_wait_us, Micros(5_000_000));
        assert_eq!(config.ceilings.0.limits.memory_bytes, ByteSize(2 << 30));
        assert_eq!(config.ceilings.0.limits.processes, 512);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = load("[worker]\nslotz = 3")
            .expect_err("refused")
            .to_string();
        assert!(error.contains("slotz"), "{error}");
    }

    #[test]
    fn flags_go_before_the_file() {
        let flags = BTreeMap::from([("worker.slots".to_owned(), "7".to_owned())]);
        assert_eq!(
            Config::load(None, &flags).expect("valid").worker.slots,
            Some(7)
        );
    }
}
