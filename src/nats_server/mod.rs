//! A `nats-server` of our own: found or obtained, given its configuration and passwords, started, and stopped with us. What
//! `envicutor up`, `envicutor run` and the tests use; a fleet of several machines runs its own servers from the same files.
//!
//! The invariant: one server for each data directory, and none that outlives its owner: not a crash either.

pub mod binary;
pub mod cluster;
pub mod files;
mod process;

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    bus::{
        Bus, ConnectError, Role,
        api::ApiError,
        credentials::{Credentials, CredentialsError},
    },
    config,
};
use binary::BinaryError;
pub(crate) use process::signal;
use process::{Process, Stopped};

/// How long a server may take until it answers. It reads its whole store first.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// How long it may take to end after SIGTERM, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a data directory that another holds is tried again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two looks at a lock, or at a server that starts or stops.
const POLL: Duration = Duration::from_millis(20);

/// The lines of its log that an error shows.
const LOG_LINES: usize = 10;

/// A server could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no program to start.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// Another instance has the data directory.
    #[error(
        "another envicutor uses the data directory {0}: stop it, or name another with --data-dir"
    )]
    InUse(PathBuf),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a cluster that can work.
    #[error("--cluster: {0}")]
    Nodes(String),
    /// The passwords cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// It could not be started.
    #[error("{program} could not be started: {source}")]
    Spawn {
        /// What.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A server of an earlier run does not end.
    #[error(
        "the nats-server of an earlier run (process {pid}) still uses {dir} and does not end: stop it"
    )]
    Stale {
        /// Its process.
        pid: u32,
        /// Its directory.
        dir: PathBuf,
    },
    /// It ended at once.
    #[error("the nats-server ended at once; the end of its log {log}:\n{tail}")]
    Died {
        /// Where it logs.
        log: PathBuf,
        /// The last lines.
        tail: String,
    },
    /// It does not answer.
    #[error(
        "the nats-server does not answer after {START_TIMEOUT:?} ({reason}); the end of its log {log}:\n{tail}"
    )]
    Silent {
        /// The last error.
        reason: String,
        /// Where it logs.
        log: PathBuf,
        /// The last lines.
        tail: String,
    },
}

/// A running server. Dropping it kills the server; [`NatsServer::stop`] ends it in good order.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    dir: PathBuf,
    address: String,
    credentials: Credentials,
    // Held for as long as the server runs.
    _lock: File,
}

impl NatsServer {
    /// Starts the server of a data directory: its store, configuration and credentials live in `<data_dir>/nats`. Of the
    /// configuration only `server`, `server_port` and `prefix` count.
    pub async fn start(config: &config::Nats, data_dir: &Path) -> Result<Self, ServerError> {
        let dir = data_dir.join("nats");
        files::create_private_dir(&dir)?;
        // The server has another working directory.
        let dir = dir
            .canonicalize()
            .map_err(|source| ServerError::File { path: dir, source })?;
        let lock = lock(&dir, data_dir).await?;
        let program = binary::obtain(config.server.as_deref(), &dir).await?;
        process::end_stale(&dir).await?;
        let credentials = files::write_for_own_server(&dir, config)?;
        files::forget_urls(&dir);
        let process = Process::start(&program, &dir, config.server_port)?;
        let mut server = Self {
            process,
            dir,
            address: String::new(),
            credentials,
            _lock: lock,
        };
        server.address = server.wait_until_it_listens().await?;
        server.wait_until_it_answers().await?;
        files::write_urls(&server.dir, |role| server.url(role))?;
        Ok(server)
    }

    /// Where a program with this role connects: user and password included.
    pub fn url(&self, role: Role) -> String {
        // Those of our own server are complete.
        let password = self.credentials.password(role).unwrap_or_default();
        format!("nats://{role}:{password}@{}", self.address)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the server has ended, for whatever reason. May be dropped while it waits.
    pub async fn ended(&mut self) {
        self.process.ended().await;
    }

    /// Ends the server and waits for it: SIGTERM, and SIGKILL if that does not do.
    pub async fn stop(mut self) {
        files::forget_urls(&self.dir);
        if self.process.stop(STOP_TIMEOUT).await == Stopped::Killed {
            tracing::warn!("the nats-server did not end within {STOP_TIMEOUT:?} and was killed");
        }
    }

    /// The address that it listens on, `127.0.0.1:<port>`.
    async fn wait_until_it_listens(&mut self) -> Result<String, ServerError> {
        let started = std::time::Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if let Some(address) = files::read_ports(&self.dir, self.process.pid()) {
                return Ok(address);
            }
            if self.process.has_ended() {
                return Err(ServerError::Died {
                    log: files::log(&self.dir),
                    tail: files::log_tail(&self.dir, LOG_LINES),
                });
            }
            tokio::time::sleep(POLL).await;
        }
        Err(self.silent("it has no port yet"))
    }

    async fn wait_until_it_answers(&mut self) -> Result<(), ServerError> {
        let config = config::Nats {
            url: self.url(Role::Operator),
            credentials_file: None,
            ..config::Nats::default()
        };
        let connected = Bus::connect(&config, Role::Operator, "envicutor-start").await;
        let bus = connected.map_err(|error: ConnectError| self.silent(&error.to_string()))?;
        let answer = bus
            .api::<serde_json::Value>("INFO", &serde_json::Value::Null)
            .await;
        bus.close().await;
        answer
            .map(drop)
            .map_err(|error: ApiError| self.silent(&error.to_string()))
    }

    fn silent(&self, reason: &str) -> ServerError {
        ServerError::Silent {
            reason: reason.to_owned(),
            log: files::log(&self.dir),
            tail: files::log_tail(&self.dir, LOG_LINES),
        }
    }
}

/// Where to connect to the server that another program runs for this data directory; `None` where none runs.
pub fn running_url(data_dir: &Path, role: Role) -> Option<String> {
    let dir = data_dir.join("nats");
    let lock = File::open(files::lock(&dir)).ok()?;
    // Whoever can lock it is alone.
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => files::read_url(&dir, role),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// The process of the server that another program runs for this data directory.
pub fn running_pid(data_dir: &Path) -> Option<u32> {
    let pid = std::fs::read_to_string(files::pid(&data_dir.join("nats"))).ok()?;
    pid.trim().parse().ok()
}

/// Locks the data directory. One that is held is tried for [`LOCK_TIMEOUT`]: [`running_url`] holds it for a moment to see whether
/// it can, and so does a process that was just forked from its last owner, until it has become another program.
async fn lock(dir: &Path, data_dir: &Path) -> Result<File, ServerError> {
    let path = files::lock(dir);
    let failed = |source| ServerError::File {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(failed)?;
    let tried = tokio::time::Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tried.elapsed() < LOCK_TIMEOUT => {
                tokio::time::sleep(POLL).await;
            }
            Err(TryLockError::WouldBlock) => return Err(ServerError::InUse(data_dir.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}
