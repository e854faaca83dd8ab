//! The fleet on one machine, in one process and its child: a `nats-server`, provisioned, a worker and an installer. What `envicutor up`
//! keeps running, and `envicutor run` starts for one submission.
//!
//! The invariant: one fleet that stays for each data directory, and at most one beside it for one submission, whose server has
//! its store in `run/`: neither meets what the other left in its queues.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{
        Bus, ConnectError, Role,
        api::ApiError,
        provision::{self, Outcome, ProvisionError},
    },
    client::{Client, ClientError},
    config::Config,
    installer::{Installer, InstallerError},
    nats_server::{NatsServer, ServerError, binary},
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
    /// What an earlier submission left could not be removed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The data directory holds streams that this configuration would have to lose data of.
    #[error("{object} of the data directory does not fit the configuration: {reasons}")]
    Refused {
        /// Which stream or bucket.
        object: String,
        /// Why.
        reasons: String,
    },
    /// The worker.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The installer.
    #[error(transparent)]
    Installer(#[from] InstallerError),
    /// The worker does not answer.
    #[error("the worker does not answer: {0}")]
    NotReady(#[source] Box<ClientError>),
    /// The server ended by itself.
    #[error("the nats-server ended; its log is in {0}")]
    ServerEnded(PathBuf),
    /// The worker was drained by an operator.
    #[error("the worker has drained, as an operator told it to")]
    WorkerEnded,
    /// The worker met a bug of ours.
    #[error("the worker ended: {0}")]
    WorkerPanicked(#[from] JoinError),
}

/// A running fleet. [`Standalone::stop`] ends it in good order; dropping it kills the server.
#[derive(Debug)]
pub struct Standalone {
    config: Config,
    /// Where the server's store is.
    dir: PathBuf,
    server: NatsServer,
    /// Absent once it was seen to have ended.
    worker: Option<JoinHandle<Result<(), WorkerError>>>,
    /// Absent in a fleet for one submission.
    installer: Option<JoinHandle<()>>,
    shutdown: CancellationToken,
}

impl Standalone {
    /// Starts the fleet of `config.data_dir`, which the other programs find there. What is missing on this machine is obtained;
    /// images are made when they are first used.
    pub async fn start(config: &Config) -> Result<Self, StandaloneError> {
        let dir = config.data_dir.0.clone();
        Box::pin(Self::start_in(config, &dir, Queues::Kept)).await
    }

    /// Starts a fleet for one submission. What an earlier one left in the queues is gone: nobody waits for it.
    pub async fn start_for_one(config: &Config) -> Result<Self, StandaloneError> {
        let dir = &config.data_dir.0;
        let bin_dir = dir.join("nats");
        create_dir(dir, 0o755)?;
        create_dir(&bin_dir, 0o700)?;
        let mut config = config.clone();
        let server = binary::obtain(config.nats.server.as_deref(), &bin_dir).await;
        config.nats.server = Some(server.map_err(ServerError::from)?);
        Box::pin(Self::start_in(&config, &dir.join("run"), Queues::Emptied)).await
    }

    async fn start_in(
        config: &Config,
        dir: &Path,
        queues: Queues,
    ) -> Result<Self, StandaloneError> {
        create_dir(dir, 0o755)?;
        let mut config = config.clone();
        // This server's users are its own.
        config.nats.credentials_file = None;
        let server = NatsServer::start(&config.nats, dir).await?;
        let shutdown = CancellationToken::new();
        match connect(&config, &server, queues).await {
            Ok((worker, installer)) => Ok(Self {
                config,
                dir: dir.to_owned(),
                server,
                worker: Some(tokio::spawn(worker.run(shutdown.clone()))),
                installer: installer.map(|it| tokio::spawn(it.run(shutdown.clone()))),
                shutdown,
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
                return StandaloneError::ServerEnded(self.dir.join("nats"));
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

    /// Drains the worker, as its configuration says, and stops the server.
    pub async fn stop(mut self) -> Result<(), StandaloneError> {
        self.shutdown.cancel();
        let worker = match self.worker.take() {
            Some(worker) => worker.await,
            None => Ok(Ok(())),
        };
        // What it was at is handed back; a panic of it has been told.
        if let Some(installer) = self.installer.take() {
            let _ = installer.await;
        }
        self.server.stop().await;
        Ok(worker??)
    }
}

/// What becomes of submissions that an earlier fleet left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queues {
    /// They are run.
    Kept,
    /// They are not.
    Emptied,
}

fn create_dir(dir: &Path, mode: u32) -> Result<(), StandaloneError> {
    let created = DirBuilder::new().recursive(true).mode(mode).create(dir);
    created.map_err(|source| StandaloneError::DataDir {
        dir: dir.to_owned(),
        source,
    })
}

/// Brings the server to what the configuration says, and connects a worker to it; and an installer, unless it is for one submission.
async fn connect(
    config: &Config,
    server: &NatsServer,
    queues: Queues,
) -> Result<(Worker, Option<Installer>), StandaloneError> {
    let mut config = config.clone();
    config.nats.url = server.url(Role::Operator);
    let bus = Bus::connect(&config.nats, Role::Operator, "envicutor-provision").await?;
    let provisioned = provision(&bus, &config, queues).await;
    bus.close().await;
    provisioned?;
    let installer = match queues {
        Queues::Kept => {
            let (worker, installer) = config.container.shared();
            config.container = installer;
            config.nats.url = server.url(Role::Installer);
            let installer = Installer::connect(&config).await?;
            config.container = worker;
            Some(installer)
        }
        Queues::Emptied => None,
    };
    config.nats.url = server.url(Role::Worker);
    Ok((Worker::connect(&config).await?, installer))
}

async fn provision(bus: &Bus, config: &Config, queues: Queues) -> Result<(), StandaloneError> {
    for report in provision::apply(bus, config).await? {
        if let Outcome::Refused(reasons) = report.outcome {
            return Err(StandaloneError::Refused {
                object: report.object,
                reasons: reasons.join("; "),
            });
        }
    }
    if queues == Queues::Emptied {
        for tenant in &config.nats.tenants {
            let call = format!("STREAM.PURGE.{}", bus.names.submissions_stream(tenant));
            bus.api::<Value>(&call, &Value::Null).await?;
        }
    }
    Ok(())
}
