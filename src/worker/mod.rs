//! A worker: pulls submissions, runs each in a container, settles the result, acks the message.
//!
//! | in the order of a submission's way | |
//! | --- | --- |
//! | [`admit`] | a slot and memory first |
//! | [`ready`], [`pull`] | which queue to ask next; asking |
//! | [`expire`] | what waits and is too late |
//! | [`collect`] | blobs that nothing refers to |
//! | [`life`] | from the delivery to the ack: read this one first |
//! | [`facts`], [`attempts`] | what is known before the body is read; what became of earlier attempts |
//! | [`watch`] | what ends a run from outside |
//! | [`stage`], [`compile_cache`] | what is needed of the object store; what an earlier build left |
//! | [`execute`], [`live`] | the stages; their events |
//! | [`outputs`], [`finish`] | what they wrote and left, on its way into the result; the result |
//! | [`settle`] | what stands makes a message done |
//! | [`trouble`], [`bury`] | a failure of ours; its end in the dead letters |
//! | [`journal`] | the log of a submission |
//! | [`health`], [`duty`] | whether this worker can run anything; whether it is to |
//! | [`registry`] | what the fleet is told of it, and what an operator tells it |
//! | [`mod@catalogue`] | the runtimes that the fleet has installed |
//! | [`requests`] | what anybody may ask: runtimes, ceilings, to cancel |
//! | [`start_cost`] | what starting a runtime costs here |
//! | [`trial`] | a program that is run for the fleet's own sake |

mod admit;
mod attempts;
mod bury;
mod catalogue;
mod collect;
mod compilations;
mod compile_cache;
mod duty;
mod execute;
mod expire;
mod facts;
mod finish;
mod health;
mod journal;
mod life;
mod live;
mod outputs;
mod pull;
mod ready;
mod registry;
mod requests;
mod settle;
mod stage;
mod start_cost;
pub mod trial;
mod trouble;
mod watch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use rand::RngExt as _;
use time::OffsetDateTime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    blobs::{
        BlobError, Store,
        cache::{self, Cache, CacheError},
    },
    bus::{Bus, ConnectError, Role, orders::Order},
    config::Config,
    container::{ContainerError, Containers, Identity, remove_worker_dir},
    docker::{self, DockerError},
    runtimes::{Runtimes, error::RuntimeError, progress},
    submission::{
        catalogue::Runtime,
        names::{Digest, NameError, RuntimeName, RuntimeRef, RuntimeVersion},
        plan::Plan,
        units::ByteSize,
    },
};
use admit::Admission;
use compilations::Compilations;
use compile_cache::CompileCache;
use duty::Duty;
use health::Health;
pub use pull::PullError;
use pull::Pulling;
use registry::Running;
use requests::Requests;
use start_cost::StartCosts;

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
    #[error("questions and orders cannot be listened for: {0}")]
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
    /// The object store.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// The cache of blobs.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The cache of blobs is smaller than what submissions may name.
    #[error(
        "worker.cache_bytes is {cache}, but a submission may need {need} of it: its blobs (ceilings.blob_total_bytes, each of \
         ceilings.blobs in whole blocks) and what its build left (worker.compile_cache_artifact_bytes). Raise the one or lower \
         the others"
    )]
    CacheBytes {
        /// The worker's.
        cache: ByteSize,
        /// What a submission may need.
        need: ByteSize,
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
    /// For all submissions together.
    memory: ByteSize,
    started_at: OffsetDateTime,
    bus: Bus,
    /// A connection of its own for what anybody may send to a worker: wakes and questions. Headers that the client
    /// cannot parse break the connection that they reach, and no run may lose its renewals to that.
    ears: Bus,
    docker: bollard::Docker,
    runtimes: Runtimes,
    containers: Containers,
    store: Store,
    /// Blobs on this machine's disk.
    cache: Cache,
    compile_cache: CompileCache,
    compilations: Compilations,
    health: Health,
    running: Running,
    start_costs: StartCosts,
    last_look: catalogue::LastLook,
    /// Whether there are to be pulls.
    duty: Duty,
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
        let runtimes = Runtimes::load(config, &config.data_dir.0.join("runtimes"))?;
        let admission = admission(config, slots, budget, &runtimes)?;
        let bus = Bus::connect(&config.nats, Role::Worker, &id).await?;
        let ears = Bus::connect(&config.nats, Role::Worker, &format!("{id}-ears")).await?;
        let store = Store::open(config, Some(&bus))?;
        runtimes.load_from(store.images());
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
        let cache = open_cache(config).await?;
        let containers = Containers::start(docker.clone(), config, identity, slots).await?;
        let compile_cache = CompileCache::new(&config.worker, containers.isolation());
        let compilations = Compilations::new(&config.worker, processors());
        let fleet = Fleet {
            config: config.clone(),
            id,
            host,
            state_dir,
            slots,
            memory: budget,
            started_at: OffsetDateTime::now_utc(),
            bus,
            ears,
            docker,
            runtimes,
            containers,
            store,
            cache,
            compile_cache,
            compilations,
            health: Health::new(),
            running: Running::default(),
            start_costs: StartCosts::default(),
            last_look: catalogue::LastLook::default(),
            duty: Duty::new(),
            hand_back: CancellationToken::new(),
        };
        if let Err(error) = catalogue::read(&fleet).await {
            tracing::warn!(%error, "the fleet's runtimes could not be read yet");
        }
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

    /// Runs submissions until `shutdown` is cancelled or an operator has it drain: what runs may finish within the grace time, the
    /// rest is handed back, and every container is removed.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), WorkerError> {
        let fleet = self.fleet;
        let lives = TaskTracker::new();
        let admission = self.admission;
        let requests = Requests::listen(&fleet).await?;
        let orders = registry::orders(&fleet).await?;
        let pulling = Pulling::start(Arc::clone(&fleet), admission.clone(), lives.clone()).await?;
        tracing::info!(worker = fleet.id, slots = fleet.slots, isolation = ?fleet.containers.isolation(), "the worker is ready");
        let over = CancellationToken::new();
        let draining = fleet.duty.draining();
        let told = async {
            tokio::select! {
                () = shutdown.cancelled() => fleet.duty.obey(Order::Drain),
                () = draining.cancelled() => {}
            }
        };
        // It is in the registry until nothing of it is left.
        let ours = async {
            pulling.run(draining).await;
            fleet.drain(&lives).await;
            fleet.containers.close().await;
            over.cancel();
        };
        let measured = async {
            if fleet.config.worker.measure_start_cost {
                start_cost::measure(&fleet, &admission, draining).await;
            }
        };
        tokio::join!(
            told,
            ours,
            Box::pin(measured),
            Box::pin(expire::keep(&fleet, draining)),
            Box::pin(catalogue::keep(&fleet, &over)),
            Box::pin(collect::keep(&fleet, draining)),
            Box::pin(fleet.health.keep(&fleet, &over)),
            Box::pin(registry::announce(&fleet, orders, &over)),
            Box::pin(requests.answer(&fleet, &over)),
        );
        // A later worker's sweep takes what cannot be removed now.
        if let Err(error) = remove_worker_dir(&fleet.state_dir) {
            tracing::warn!(%error, dir = %fleet.state_dir.display(), "the worker's directory stays");
        }
        Ok(())
    }
}

impl Fleet {
    /// Waits for what runs; past the grace time hands it back.
    async fn drain(&self, lives: &TaskTracker) {
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

    /// The memory that a submission may take: its largest stage, its container's own, and what a build leaves in memory beside the
    /// runs. Where that is more than the worker has, all that it has: then it runs alone.
    fn need(&self, plan: &Plan) -> ByteSize {
        let overhead = self.config.container.overhead_bytes.0;
        let stage = plan.memory_bytes().0.saturating_add(overhead);
        let all = stage.saturating_add(plan.build_bytes().0);
        ByteSize(all.min(self.memory.0.max(stage)))
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
    let budget = admit::in_whole_units(budget);
    if budget < ceiling {
        return Err(WorkerError::Memory { budget, ceiling });
    }
    let reserve = usual_need(&runtimes.catalogue().runtimes) + overhead;
    Ok(Admission::new(slots, budget, ByteSize(reserve)))
}

/// What half of the runtimes get by with. Were it what the largest of them needs, a worker with less than that free would stand still
/// though almost everything fits it; what needs more than this waits in the worker's hands.
fn usual_need(runtimes: &[Runtime]) -> u64 {
    let mut needs: Vec<_> = runtimes.iter().map(default_need).collect();
    needs.sort_unstable();
    needs.get(needs.len() / 2).copied().unwrap_or_default()
}

/// The cache of blobs, if whatever a submission may need fits it.
async fn open_cache(config: &Config) -> Result<Cache, WorkerError> {
    let (worker, ceilings) = (&config.worker, &config.ceilings.0);
    let own = worker.compile_cache_artifact_bytes.0;
    let bytes = ceilings.blob_total_bytes.0.saturating_add(own);
    let need = cache::most_need(ceilings.blobs + 1, ByteSize(bytes));
    let cache = worker.cache_bytes;
    if cache < need {
        return Err(WorkerError::CacheBytes { cache, need });
    }
    let directory = worker.cache_dir.clone();
    let directory = directory.unwrap_or_else(|| config.data_dir.0.join("cache"));
    Ok(Cache::open(&directory, cache).await?)
}

/// What a submission with one run takes that leaves every limit to its runtime.
fn default_need(runtime: &Runtime) -> u64 {
    let stages = runtime.compile.iter().chain([&runtime.run]);
    let stage = stages.map(|stage| stage.limits.memory_bytes.0).max();
    let build = runtime.compile.as_ref().map(|stage| {
        stage
            .limits
            .disk_bytes
            .0
            .max(runtime.run.limits.disk_bytes.0)
    });
    stage.unwrap_or_default() + build.unwrap_or_default()
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
pub(crate) fn host_name() -> String {
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
