//! Configuration: defaults < file (TOML) < environment (`ENVICUTOR__NATS__URL`) < flags. Every limit, timeout and size of a
//! fleet is here with its default; an unknown key is refused by name.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::submission::{
    catalogue::Ceilings,
    limits::Limits,
    names::Tenant,
    result::Isolation,
    units::{ByteSize, Micros},
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
    /// The containers of a worker.
    pub container: Container,
    /// The runtimes and their images.
    pub runtimes: Runtimes,
    /// What no submission may exceed.
    pub ceilings: FleetCeilings,
    /// The client's waiting.
    pub client: Client,
}

/// The data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataDir(pub PathBuf);

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
    /// How long dead letters stand.
    pub dead_letter_age_us: Micros,
    /// The most bytes of dead letters; past it failing messages wait.
    pub dead_letter_bytes: ByteSize,
    /// How long events stand.
    pub event_age_us: Micros,
    /// The most bytes of events, in the server's memory.
    pub event_bytes: ByteSize,
    /// How long to try to connect at start.
    pub connect_timeout_us: Micros,
    /// How long to wait for the answer to a request.
    pub request_timeout_us: Micros,
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
            dead_letter_age_us: Micros(30 * 24 * 3_600_000_000),
            dead_letter_bytes: ByteSize(1 << 30),
            event_age_us: Micros(600_000_000),
            event_bytes: ByteSize(128 << 20),
            connect_timeout_us: Micros(5_000_000),
            request_timeout_us: Micros(5_000_000),
            server: None,
            server_port: 0,
        }
    }
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// Its id, `[A-Za-z0-9_-]{1,64}`; absent: the host name and a random part.
    pub id: Option<String>,
    /// Submissions at a time; absent: one for each processor.
    pub slots: Option<usize>,
    /// Memory for all submissions together; absent: three quarters of the machine's.
    pub memory_bytes: Option<ByteSize>,
    /// Starts of a generation before it is dead-lettered.
    pub max_attempts: u64,
    /// Deliveries of a message before it is dead-lettered, whatever came of them: a backstop.
    pub max_deliveries: u64,
    /// The longest wait before a failed attempt is tried again.
    pub retry_max_us: Micros,
    /// How often the queues are looked at while no wake comes: what finds redeliveries.
    pub sweep_us: Micros,
    /// Pulls of the interactive lane for each one of the batch lane, while both have work.
    pub interactive_weight: u32,
    /// How often the worker tells the registry that it is alive; it is forgotten after three times this.
    pub heartbeat_us: Micros,
    /// How long a drain lets running submissions finish before it hands them back.
    pub drain_grace_us: Micros,
    /// The last lines of a submission's log that a dead letter keeps.
    pub log_tail_lines: usize,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            id: None,
            slots: None,
            memory_bytes: None,
            max_attempts: 3,
            max_deliveries: 50,
            retry_max_us: Micros(30_000_000),
            sweep_us: Micros(1_000_000),
            interactive_weight: 4,
            heartbeat_us: Micros(10_000_000),
            drain_grace_us: Micros(30_000_000),
            log_tail_lines: 50,
        }
    }
}

/// The containers of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Container {
    /// The least isolation that the worker accepts.
    pub isolation: Isolation,
    /// The Docker Engine: `unix:///path` or `http://host:port`; absent: `DOCKER_HOST`, else the default socket.
    pub docker_host: Option<String>,
    /// The container runtime that the Engine uses; absent: its default.
    pub oci_runtime: Option<String>,
    /// Started containers that wait for work, at most, over all runtimes; absent: two for each slot.
    pub pool_size: Option<usize>,
    /// How long a started container waits for work before it is removed.
    pub pool_idle_us: Micros,
    /// Processors that a container may use.
    pub cpus: f64,
    /// Memory of a container beyond the stage's limit: the agent and the kernel's own for it.
    pub overhead_bytes: ByteSize,
    /// The size of `/tmp` and of `/dev/shm`, each.
    pub tmp_bytes: ByteSize,
    /// The files that `/tmp` and `/dev/shm` may hold, each.
    pub tmp_inodes: u64,
    /// The first host uid that stages run as; each container has one of its own.
    pub uid_first: u32,
    /// How many uids from there belong to this worker. Two workers of one host need ranges that do not overlap.
    pub uid_count: u32,
    /// How long a container may take from its creation until its agent has connected.
    pub start_timeout_us: Micros,
    /// How long any other call of the Engine may take.
    pub call_timeout_us: Micros,
}

impl Default for Container {
    fn default() -> Self {
        Self {
            isolation: Isolation::Container,
            docker_host: None,
            oci_runtime: None,
            pool_size: None,
            pool_idle_us: Micros(300_000_000),
            cpus: 1.0,
            overhead_bytes: ByteSize(8 << 20),
            tmp_bytes: ByteSize(64 << 20),
            tmp_inodes: 4_096,
            uid_first: 700_000,
            uid_count: 10_000,
            start_timeout_us: Micros(60_000_000),
            call_timeout_us: Micros(60_000_000),
        }
    }
}

/// The runtimes and their images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtimes {
    /// A directory of `<name>.toml` besides the ones that come with the program.
    pub dir: Option<PathBuf>,
    /// The base image: pulled where a registry has it, else bootstrapped from Debian's packages.
    pub base_image: String,
    /// The Debian suite of a bootstrapped base.
    pub suite: String,
    /// The runtimes to prepare when a worker starts; absent: none, each is prepared when it is first used.
    pub preload: Vec<String>,
    /// How long the base image may take to pull or bootstrap, and a runtime's image to build, each.
    pub prepare_timeout_us: Micros,
}

impl Default for Runtimes {
    fn default() -> Self {
        Self {
            dir: None,
            base_image: "debian:bookworm-slim".into(),
            suite: "bookworm".into(),
            preload: Vec::new(),
            prepare_timeout_us: Micros(1_800_000_000),
        }
    }
}

/// The fleet's ceilings; see [`Ceilings`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FleetCeilings(pub Ceilings);

impl Default for FleetCeilings {
    fn default() -> Self {
        Self(Ceilings {
            limits: Limits {
                cpu_time_us: Micros(60_000_000),
                extra_time_us: Micros(10_000_000),
                wall_time_us: Micros(120_000_000),
                memory_bytes: ByteSize(1 << 30),
                stack_bytes: ByteSize(1 << 30),
                processes: 512,
                open_files: 4_096,
                file_size_bytes: ByteSize(1 << 30),
                disk_bytes: ByteSize(1 << 30),
                inodes: 65_536,
                output_bytes: ByteSize(16 << 20),
            },
            default_total_time_us: Micros(600_000_000),
            total_time_us: Micros(1_800_000_000),
            tests: 1_000,
            files: 1_000,
            arguments: 256,
            argument_bytes: ByteSize(64 << 10),
        })
    }
}

/// The client's waiting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// How often a refused or unanswered publish is tried again.
    pub publish_tries: u32,
    /// How long `wait` waits for a result.
    pub wait_timeout_us: Micros,
    /// How often `wait` looks for a standing result besides listening.
    pub wait_poll_us: Micros,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            publish_tries: 5,
            wait_timeout_us: Micros(1_800_000_000),
            wait_poll_us: Micros(3_000_000),
        }
    }
}

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
                .with_list_parse_key("runtimes.preload"),
        );
        for (key, value) in flags {
            builder = builder.set_override(key, value.as_str())?;
        }
        let config: Self = builder.build()?.try_deserialize()?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what would only fail later.
    fn check(&self) -> Result<(), ConfigError> {
        let require = |holds: bool, key, problem: &str| {
            if holds {
                Ok(())
            } else {
                Err(ConfigError::Value {
                    key,
                    problem: problem.to_owned(),
                })
            }
        };
        let token = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        require(
            !self.nats.prefix.is_empty() && self.nats.prefix.chars().all(token),
            "nats.prefix",
            "expected [a-z0-9_-]+",
        )?;
        require(
            !self.nats.tenants.is_empty(),
            "nats.tenants",
            "expected one tenant or more",
        )?;
        require(
            matches!(self.nats.replicas, 1 | 3 | 5),
            "nats.replicas",
            "expected 1, 3 or 5",
        )?;
        require(
            self.nats.ack_wait_us.0 >= 1_000_000,
            "nats.ack_wait_us",
            "expected 1 s or more",
        )?;
        require(
            self.worker.slots != Some(0),
            "worker.slots",
            "expected 1 or more",
        )?;
        require(
            self.worker.max_attempts > 0,
            "worker.max_attempts",
            "expected 1 or more",
        )?;
        require(
            self.worker.interactive_weight > 0,
            "worker.interactive_weight",
            "expected 1 or more",
        )?;
        require(
            self.container.cpus > 0.0,
            "container.cpus",
            "expected more than 0",
        )?;
        require(
            self.container.uid_first > 0,
            "container.uid_first",
            "expected 1 or more: stages never run as root",
        )?;
        require(
            self.container.uid_count > 0,
            "container.uid_count",
            "expected 1 or more",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
