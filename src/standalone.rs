//! The fleet on one machine, in one process and its child: a `nats-server`, provisioned, and a worker. What `envicutor up`
//! keeps running, and `envicutor run` starts for one submission.
//!
//! The invariant: one fleet for each data directory. The server's lock sees to it; a lock of its own (`up.lock`) tells a fleet
//! that stays, which others may use, from one that ends with its submission.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{
        Bus, ConnectError, Role,
        provision::{self, Outcome, ProvisionError},
    },
    client::{Client, ClientError},
    config::Config,
    nats_server::{self, NatsServer, ServerError},
    submission::names::{Lane, SubmissionId, Tenant},
    worker::{Worker, WorkerError},
};

/// Between two questions whether the worker answers yet.
const READY_POLL: Duration = Duration::from_millis(20);

/// The fleet could not be started, or did not stay.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// The data directory cannot be used.
    #[error("the data directory {dir} cannot be used: {source}")]
    DataDir {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The connection to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The streams and buckets.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The data directory holds streams that this configuration would have to lose data of.
    #[error("{object} in {dir} does not fit the configuration: {reasons}")]
    Refused {
        /// Which stream or bucket.
        object: String,
        /// The data directory.
        dir: PathBuf,
        /// Why.
        reasons: String,
    },
    /// The worker.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The worker does not answer.
    #[error("the worker does not answer: {0}")]
    NotReady(#[source] Box<ClientError>),
    /// The server ended by itself.
    #[error("the nats-server ended; its log is in {0}")]
    ServerEnded(PathBuf),
    /// The worker ended by itself.
    #[error("the worker ended")]
    WorkerEnded,
    /// The worker met a bug of ours.
    #[error("the worker ended: {0}")]
    WorkerPanicked(#[from] JoinError),
}

/// A running fleet. [`Standalone::stop`] ends it in good order; dropping it kills the server.
#[derive(Debug)]
pub struct Standalone {
    config: Config,
    server: NatsServer,
    /// Absent once it was seen to have ended.
    worker: Option<JoinHandle<Result<(), WorkerError>>>,
    shutdown: CancellationToken,
    // Held for as long as others may use this fleet.
    _stays: Option<File>,
}

impl Standalone {
    /// Starts the fleet of `config.data_dir`. What is missing on this machine is obtained; images are made when they are first
    /// used.
    pub async fn start(config: &Config) -> Result<Self, StandaloneError> {
        Self::start_and(config, |_| Ok(None)).await
    }

    /// Starts it, and lets the other programs of this data directory use it.
    pub async fn start_to_stay(config: &Config) -> Result<Self, StandaloneError> {
        Self::start_and(config, |dir| lock_to_stay(dir).map(Some)).await
    }

    async fn start_and(
        config: &Config,
        lock: impl FnOnce(&Path) -> io::Result<Option<File>>,
    ) -> Result<Self, StandaloneError> {
        let dir = &config.data_dir.0;
        let unusable = |source| StandaloneError::DataDir {
            dir: dir.clone(),
            source,
        };
        fs::create_dir_all(dir).map_err(unusable)?;
        let mut config = config.clone();
        // This server's users are its own.
        config.nats.credentials_file = None;
        let server = NatsServer::start(&config.nats, dir).await?;
        let shutdown = CancellationToken::new();
        let started = connect_worker(&config, &server).await;
        let locked = started.and_then(|worker| Ok((worker, lock(dir).map_err(unusable)?)));
        match locked {
            Ok((worker, stays)) => Ok(Self {
                config,
                server,
                worker: Some(tokio::spawn(worker.run(shutdown.clone()))),
                shutdown,
                _stays: stays,
            }),
            Err(error) => {
                server.stop().await;
                Err(error)
            }
        }
    }

    /// Where to connect as `role`: user and password included.
    pub fn url(&self, role: Role) -> String {
        self.server.url(role)
    }

    /// Waits until the worker answers.
    pub async fn ready(&mut self) -> Result<(), StandaloneError> {
        let mut config = self.config.clone();
        config.nats.url = self.url(Role::Service);
        let not_ready = |error| StandaloneError::NotReady(Box::new(error));
        let client = Client::connect_with(&config).await.map_err(not_ready)?;
        let answers = async {
            loop {
                match client.limits().await {
                    Ok(_) => return Ok(()),
                    Err(ClientError::NoWorker) => tokio::time::sleep(READY_POLL).await,
                    Err(error) => return Err(not_ready(error)),
                }
            }
        };
        let ready = tokio::select! {
            ready = answers => ready,
            error = self.ended() => Err(error),
        };
        client.close().await;
        ready
    }

    /// Waits until the server or the worker has ended by itself, which neither should. May be dropped while it waits.
    pub async fn ended(&mut self) -> StandaloneError {
        let worker = async {
            match &mut self.worker {
                Some(worker) => worker.await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            () = self.server.ended() => {
                return StandaloneError::ServerEnded(self.config.data_dir.0.join("nats"));
            }
            ended = worker => ended,
        };
        self.worker = None;
        match ended {
            Ok(Ok(())) => StandaloneError::WorkerEnded,
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        }
    }

    /// Takes a submission out of the queue, as far as that succeeds: whoever wanted its result is gone.
    pub async fn forget(&self, tenant: &Tenant, id: &SubmissionId) {
        let mut config = self.config.nats.clone();
        config.url = self.url(Role::Operator);
        let Ok(bus) = Bus::connect(&config, Role::Operator, "envicutor-forget").await else {
            return;
        };
        for lane in Lane::ALL {
            let call = format!("STREAM.PURGE.{}", bus.names.submissions_stream(tenant));
            let subject = bus.names.submission(tenant, lane, id.as_str());
            let filter = json!({ "filter": subject });
            let purged = bus.api::<serde_json::Value>(&call, &filter);
            if let Err(error) = purged.await {
                tracing::debug!(%error, "the submission stays in the queue");
            }
        }
        bus.close().await;
    }

    /// Drains the worker, as its configuration says, and stops the server.
    pub async fn stop(mut self) -> Result<(), StandaloneError> {
        self.shutdown.cancel();
        let worker = match self.worker.take() {
            Some(worker) => worker.await,
            None => Ok(Ok(())),
        };
        self.server.stop().await;
        Ok(worker??)
    }
}

/// Where to connect to the fleet that stays in this data directory; `None` where there is none.
pub fn running(data_dir: &Path, role: Role) -> Option<String> {
    let lock = File::open(stays_file(data_dir)).ok()?;
    // Whoever can lock it is alone.
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => nats_server::running_url(data_dir, role),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

fn stays_file(data_dir: &Path) -> PathBuf {
    data_dir.join("up.lock")
}

fn lock_to_stay(data_dir: &Path) -> io::Result<File> {
    let lock = File::options()
        .create(true)
        .append(true)
        .open(stays_file(data_dir))?;
    // Waits out those who only look whether it is locked.
    lock.lock()?;
    Ok(lock)
}

/// Brings the server to what the configuration says, and connects a worker to it.
async fn connect_worker(config: &Config, server: &NatsServer) -> Result<Worker, StandaloneError> {
    let mut config = config.clone();
    config.nats.url = server.url(Role::Operator);
    let bus = Bus::connect(&config.nats, Role::Operator, "envicutor-provision").await?;
    let reports = provision::apply(&bus, &config).await;
    bus.close().await;
    for report in reports? {
        if let Outcome::Refused(reasons) = report.outcome {
            return Err(StandaloneError::Refused {
                object: report.object,
                dir: config.data_dir.0.clone(),
                reasons: reasons.join("; "),
            });
        }
    }
    config.nats.url = server.url(Role::Worker);
    Ok(Worker::connect(&config).await?)
}
