//! A worker: pulls submissions, runs each in a container, settles the result, acks the message.
//!
//! | in the order of a submission's way | |
//! | --- | --- |
//! | [`admit`] | a slot and memory first |
//! | [`ready`], [`pull`] | which queue to ask next; asking |
//! | [`life`] | from the delivery to the ack: read this one first |
//! | [`facts`], [`attempts`] | what is known before the body is read; what became of earlier attempts |
//! | [`watch`] | what ends a run from outside |
//! | [`execute`], [`live`] | the stages; their events |
//! | [`trouble`], [`bury`] | a failure of ours; its end in the dead letters |
//! | [`journal`] | the log of a submission |
//! | [`health`] | whether this worker can run anything |
//! | [`registry`] | what the fleet is told of it |

mod admit;
mod attempts;
mod bury;
mod execute;
mod facts;
mod health;
mod journal;
mod life;
mod live;
mod pull;
mod ready;
mod registry;
mod trouble;
mod watch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use rand::RngExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bus::{Bus, ConnectError, Role},
    config::Config,
    container::{ContainerError, Containers, Identity},
    docker::{self, DockerError},
    runtimes::{Runtimes, error::RuntimeError, progress},
    submission::{
        names::{Digest, NameError, RuntimeName, RuntimeRef, RuntimeVersion},
        units::ByteSize,
    },
};
use admit::Admission;
use health::Health;
pub use pull::PullError;
use pull::Pulling;
use registry::Running;

/// Why a worker cannot start or go on: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// NATS cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// NATS does not let it pull.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// NATS does not let it answer.
    #[error("questions for the runtimes and limits cannot be listened for: {0}")]
    Inform(#[from] async_nats::SubscribeError),
    /// The Docker Engine.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The containers.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The runtimes.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The worker's own directory.
    #[error("the worker's directory {path} cannot be made: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The machine is smaller than what submissions may ask for.
    #[error(
        "worker.memory_bytes is {budget}, but a submission may ask for {ceiling} (ceilings.limits.memory_bytes): \
         raise the one or lower the other"
    )]
    Memory {
        /// The worker's.
        budget: ByteSize,
        /// The fleet's.
        ceiling: ByteSize,
    },
    /// A runtime to preload is none.
    #[error("runtimes.preload: {0}")]
    Preload(#[from] NameError),
    /// The id breaks its rule.
    #[error("worker.id {0:?} is not valid: expected [A-Za-z0-9_-]{{1,64}}")]
    Id(String),
}

/// What every part of a worker shares.
struct Fleet {
    config: Config,
    id: String,
    host: String,
    /// This worker's own directory, gone with it.
    state_dir: PathBuf,
    slots: usize,
    bus: Bus,
    /// A connection of its own for what anybody may send to a worker: wakes and questions. Headers that the client
    /// cannot parse break the connection that they reach, and no run may lose its renewals to that.
    ears: Bus,
    docker: bollard::Docker,
    runtimes: Runtimes,
    containers: Containers,
    health: Health,
    running: Running,
    /// No more pulls.
    draining: CancellationToken,
    /// The grace time is over: what still runs is handed back.
    hand_back: CancellationToken,
}

/// A worker that is connected and ready to run.
pub struct Worker {
    fleet: Arc<Fleet>,
    admission: Admission,
}

impl Worker {
    /// Connects to NATS and Docker, removes what dead workers of this machine left, and prepares what is to be preloaded.
    pub async fn connect(config: &Config) -> Result<Self, WorkerError> {
        let host = host_name();
        let id = worker_id(config, &host)?;
        let slots = config.worker.slots.unwrap_or_else(processors);
        let budget = config
            .worker
            .memory_bytes
            .unwrap_or_else(three_quarters_of_memory);
        let runtimes = Runtimes::load(&config.runtimes, &config.data_dir.0.join("runtimes"))?;
        let admission = admission(config, slots, budget, &runtimes)?;
        let bus = Bus::connect(&config.nats, Role::Worker, &id).await?;
        let ears = Bus::connect(&config.nats, Role::Worker, &format!("{id}-ears")).await?;
        let docker = docker::connect(
            config.container.docker_host.as_deref(),
            config.container.call_timeout_us,
        )
        .await?;
        let state_dir = config.data_dir.0.join("workers").join(&id);
        std::fs::create_dir_all(&state_dir).map_err(|source| WorkerError::Directory {
            path: state_dir.clone(),
            source,
        })?;
        let identity = Identity {
            worker: id.clone(),
            host: host.clone(),
            state_dir: state_dir.clone(),
        };
        let containers =
            Containers::start(docker.clone(), &config.container, identity, slots).await?;
        let fleet = Fleet {
            config: config.clone(),
            id,
            host,
            state_dir,
            slots,
            bus,
            ears,
            docker,
            runtimes,
            containers,
            health: Health::new(),
            running: Running::default(),
            draining: CancellationToken::new(),
            hand_back: CancellationToken::new(),
        };
        for name in &config.runtimes.preload {
            fleet.preload(name).await?;
        }
        Ok(Self {
            fleet: Arc::new(fleet),
            admission,
        })
    }

    /// The worker's id, as the registry and the results have it.
    pub fn id(&self) -> &str {
        &self.fleet.id
    }

    /// Runs submissions until `shutdown` is cancelled; then drains: what runs may finish within the grace time, the rest is
    /// handed back, and every container is removed.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        let fleet = self.fleet;
        let lives = TaskTracker::new();
        let pulling = Pulling::start(Arc::clone(&fleet), self.admission, lives.clone()).await?;
        tracing::info!(worker = fleet.id, slots = fleet.slots, isolation = ?fleet.config.container.isolation, "the worker is ready");
        let over = CancellationToken::new();
        let ours = async {
            pulling.run(&shutdown).await;
            fleet.drain(&lives).await;
            over.cancel();
        };
        let ((), (), (), informed) = tokio::join!(
            ours,
            fleet.health.keep(&fleet.containers, &over),
            registry::announce(&fleet, &over),
            registry::inform(&fleet, &over),
        );
        fleet.containers.close().await;
        // A later worker's sweep takes what cannot be removed now.
        if let Err(error) = std::fs::remove_dir_all(&fleet.state_dir) {
            tracing::warn!(%error, dir = %fleet.state_dir.display(), "the worker's directory stays");
        }
        Ok(informed?)
    }
}

impl Fleet {
    /// Waits for what runs; past the grace time hands it back.
    async fn drain(&self, lives: &TaskTracker) {
        self.draining.cancel();
        lives.close();
        let grace = self.config.worker.drain_grace_us.duration();
        if !lives.is_empty() {
            tracing::info!(running = lives.len(), ?grace, "draining");
        }
        if tokio::time::timeout(grace, lives.wait()).await.is_err() {
            tracing::warn!(
                running = lives.len(),
                "the grace time is over: handing back what runs"
            );
            self.hand_back.cancel();
            lives.wait().await;
        }
    }

    async fn preload(&self, name: &str) -> Result<(), WorkerError> {
        let reference: RuntimeRef = name.parse()?;
        match self.runtimes.catalogue().find(&reference) {
            Some(runtime) => Ok(self
                .image(&runtime.name, &runtime.version)
                .await
                .map(drop)?),
            None => Err(RuntimeError::Unknown(reference).into()),
        }
    }

    /// The runtime's image, made where it is missing.
    async fn image(
        &self,
        name: &RuntimeName,
        version: &RuntimeVersion,
    ) -> Result<Digest, RuntimeError> {
        self.runtimes
            .image(&self.docker, name, version, &progress::trace)
            .await
    }

    /// How long to wait after the `attempts`th failure: doubled each time, with jitter, bounded.
    fn backoff(&self, attempts: u64) -> Duration {
        let doublings = u32::try_from(attempts.saturating_sub(1))
            .unwrap_or(u32::MAX)
            .min(16);
        let wait = Duration::from_secs(1).saturating_mul(1 << doublings);
        wait.min(self.config.worker.retry_max_us.duration())
            .mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

/// The places of a worker. A pull reserves what the largest default of the runtimes needs.
fn admission(
    config: &Config,
    slots: usize,
    budget: ByteSize,
    runtimes: &Runtimes,
) -> Result<Admission, WorkerError> {
    let overhead = config.container.overhead_bytes.0;
    let ceiling = ByteSize(config.ceilings.0.limits.memory_bytes.0 + overhead);
    if budget < ceiling {
        return Err(WorkerError::Memory { budget, ceiling });
    }
    let catalogue = runtimes.catalogue().runtimes.iter();
    let stages = catalogue.flat_map(|runtime| runtime.compile.iter().chain([&runtime.run]));
    let reserve = stages
        .map(|stage| stage.limits.memory_bytes.0)
        .max()
        .unwrap_or_default()
        + overhead;
    Ok(Admission::new(slots, budget, ByteSize(reserve)))
}

fn worker_id(config: &Config, host: &str) -> Result<String, WorkerError> {
    let Some(id) = &config.worker.id else {
        let random: u32 = rand::rng().random();
        return Ok(format!("{host}-{random:08x}"));
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=64).contains(&id.len()) && id.chars().all(valid) {
        Ok(id.clone())
    } else {
        Err(WorkerError::Id(id.clone()))
    }
}

/// The machine's name, as far as it fits the rule of ids.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fits = name.trim().chars().map(|c| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '-'
        }
    });
    let fits: String = fits.take(48).collect();
    if fits.is_empty() {
        "host".to_owned()
    } else {
        fits
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn three_quarters_of_memory() -> ByteSize {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()
    });
    ByteSize(total.unwrap_or(4_u64 << 20) * 1024 / 4 * 3)
}
