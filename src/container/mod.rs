//! The outer wall: Docker containers with our agent as the only thing of ours in them.
//!
//! [`Containers::take`] gives a submission its [`Sandbox`]: with isolation `container` a container of its own from the `pool`,
//! which has them made ahead (`make`, `options`, `life`); with isolation `sandbox` a stay in a `slot` of its tenant, with the
//! runtime's root from `roots`.
//!
//! What both share:
//! - `start` starts a container: `uids` says who it is on this host, `state_dir` where the agent and the sockets lie, `door`
//!   lets its agent in;
//! - `session` is the agent protocol, `orders` a submission in its words, `streams` its input and outputs, `phase` the order of its steps;
//! - `feed` is what goes into a sandbox, `spool` what comes out of it, however large; `tools` unpacks, collects and packs;
//! - `removal` ends it, whoever lets go of it; `sweep` ends what dead workers left;
//! - `oci_runtime` says whether the Engine has the container runtime that is configured, and who keeps limits under it;
//! - `host` says what this machine allows, for who asks why it is not more, `pages` in which pages it gives memory;
//! - `engine` and `archives` have every call of the Docker Engine, each with an end, `tar` what goes through them; `helper` is a container that does one
//!   thing for the worker.
//!
//! The invariant: whatever was made is removed. What is dropped is destroyed, by a task that [`Containers::close`] waits
//! for; and if this process dies, by its agent, by `AutoRemove`, and by the next sweep.

mod archives;
mod door;
mod engine;
mod error;
mod feed;
mod helper;
mod host;
mod life;
mod make;
mod oci_runtime;
mod options;
mod orders;
mod pages;
mod phase;
mod pool;
mod removal;
mod roots;
mod sandbox;
mod session;
mod slot;
mod spool;
mod start;
mod state_dir;
mod streams;
mod sweep;
mod tar;
mod tools;
mod uids;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::warn;

pub use envicutor_protocol::{Faith, Format, Skipped};
pub use error::ContainerError;
pub use feed::{Feed, LaidOut};
pub use host::{Finding, State};
pub use life::{Container, Finished, Observed};
pub use sandbox::Sandbox;
pub use slot::Stay;
pub use spool::{Spool, Spools};
pub(crate) use state_dir::write_agent;
pub use state_dir::{WorkerLock, remove_worker_dir};
pub(crate) use sweep::WORKER as WORKER_LABEL;
pub use tools::{Collect, Collected, CollectedFile, Pack, Packed, Refused, Unpack, Unpacked};

use crate::{
    config::{self, Config, IsolationChoice},
    submission::{limits::Limits, names::Tenant, result::Isolation, units::ByteSize},
};
use engine::Engine;
use host::Host;
use make::Maker;
use oci_runtime::Keeper;
use pool::Pool;
use removal::Remover;
use slot::Slots;
use start::Starter;
use state_dir::StateDir;
use sweep::Labels;
use uids::Uids;

/// Whose containers they are.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The worker's id.
    pub worker: String,
    /// The host that it runs on.
    pub host: String,
    /// The worker's own directory. The directories beside it are other workers' of this host.
    pub state_dir: PathBuf,
}

/// What a sandbox is for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose submission it is.
    pub tenant: Tenant,
    /// The id of the runtime's image.
    pub image: String,
    /// The size of the work directory.
    pub disk_bytes: ByteSize,
    /// The files and directories that it may hold.
    pub inodes: u64,
    /// The limits of the first stage.
    pub limits: Limits,
    /// Nobody had the container before, and nobody gets it afterwards.
    pub fresh: bool,
}

/// The containers of a worker.
#[derive(Clone)]
pub struct Containers {
    engine: Engine,
    given: Given,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// When the last handle is dropped without [`Self::close`], what waits is let go of all the same.
    _guard: Arc<DropGuard>,
}

/// The isolation that is given, with what it takes.
#[derive(Clone)]
enum Given {
    Container(Arc<Pool>),
    Sandbox(Slots),
}

impl Containers {
    /// Takes over the worker's directory (it is locked from here on, for as long as containers may live), removes what dead
    /// workers of this host left, finds out what isolation it can give, and gets ready to serve `slots` submissions at a time.
    pub async fn start(
        docker: bollard::Docker,
        config: &Config,
        identity: Identity,
        slots: usize,
    ) -> Result<Self, ContainerError> {
        let engine = Engine::new(docker, config.container.call_timeout_us.duration());
        let ceilings = &config.ceilings.0.limits;
        let keeper = oci_runtime::find(&engine, &config.container, ceilings).await?;
        let state_dir = StateDir::claim_after_sweeps(&identity.state_dir).await?;
        let uids = Uids::new(config.container.uid_first, config.container.uid_count);
        sweep::sweep(&engine, &identity.host, &state_dir, &uids).await?;
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let guard = Arc::new(closing.clone().drop_guard());
        let starter = Arc::new(Starter {
            spools: Spools::new(state_dir.path(), config.container.spool_bytes.0),
            config: config.container.clone(),
            labels: Labels::new(&identity.host, &identity.worker, state_dir.lock_file()),
            state_dir,
            uids,
            remover: Remover::new(engine.clone(), tasks.clone(), closing.clone()),
        });
        let given = Given::find(config.container.isolation, starter, keeper, ceilings, slots);
        match given.await {
            Ok(given) => Ok(Self {
                engine,
                given,
                tasks,
                closing,
                _guard: guard,
            }),
            Err(error) => {
                closing.cancel();
                let_go(&tasks, engine.call_timeout()).await;
                Err(error)
            }
        }
    }

    /// The isolation that submissions get.
    pub fn isolation(&self) -> Isolation {
        match self.given {
            Given::Container(_) => Isolation::Container,
            Given::Sandbox(_) => Isolation::Sandbox,
        }
    }

    /// A sandbox for `request`: one that waits, else a new one.
    pub async fn take(&self, request: &Request) -> Result<Sandbox, ContainerError> {
        Ok(match &self.given {
            Given::Container(pool) => Sandbox::Container(Box::new(pool.take(request).await?)),
            Given::Sandbox(slots) => Sandbox::Slot(Box::new(slots.take(request).await?)),
        })
    }

    /// Whether a container can be made here at all: one with an agent is started as for a submission, and removed.
    pub async fn probe(&self) -> Result<(), ContainerError> {
        self.engine.ping().await?;
        // Boxed: they are large, and seldom needed.
        match &self.given {
            Given::Container(pool) => Box::pin(pool.probe()).await,
            Given::Sandbox(slots) => Box::pin(slots.probe()).await,
        }
    }

    /// Removes every waiting container, and waits until all that were let go of are gone. Sandboxes in use are to be
    /// ended before. With an Engine that does not answer it gives up after a while: the next worker's sweep finds
    /// what is left.
    pub async fn close(&self) {
        self.closing.cancel();
        match &self.given {
            Given::Container(pool) => pool.clear(),
            Given::Sandbox(slots) => slots.clear(),
        }
        let_go(&self.tasks, self.engine.call_timeout()).await;
    }
}

/// Waits until everything that was let go of is gone, but not for ever.
async fn let_go(tasks: &TaskTracker, patience: Duration) {
    tasks.close();
    if timeout(patience, tasks.wait()).await.is_err() {
        warn!(
            left = tasks.len(),
            "containers stay behind; the next worker that starts on this host removes them"
        );
    }
}

/// What this host and its Engine are found to allow, without a test.
pub async fn findings(
    docker: bollard::Docker,
    config: &config::Container,
) -> Result<Vec<Finding>, ContainerError> {
    let engine = Engine::new(docker, config.call_timeout_us.duration());
    Ok(Host::read().findings(config, &engine.info().await?))
}

impl Given {
    /// What `wanted` comes to on this host. Never less than was asked for, and never silently.
    async fn find(
        wanted: IsolationChoice,
        starter: Arc<Starter>,
        keeper: Keeper,
        ceilings: &Limits,
        slots: usize,
    ) -> Result<Self, ContainerError> {
        if wanted == IsolationChoice::Container {
            return Ok(Self::container(starter, keeper, ceilings, slots));
        }
        // Boxed: it is large.
        match Box::pin(Slots::start(Arc::clone(&starter), ceilings, slots)).await {
            Ok(slots) => Ok(Self::Sandbox(slots)),
            // An Engine that is away says nothing of the host.
            Err(error) if error.is_outage() => Err(error),
            Err(problem) => {
                let engine = starter.remover.engine.info().await?;
                let mut missing = Host::read().findings(&starter.config, &engine);
                missing.retain(|it| it.state == State::Missing);
                if wanted == IsolationChoice::Sandbox {
                    let problem = Box::new(problem);
                    return Err(ContainerError::NoSandbox { problem, missing });
                }
                warn!(
                    %problem,
                    missing = error::what_to_do(&missing),
                    "isolation `sandbox` cannot be given here: each submission gets a container of its own instead, which \
                     is slower"
                );
                Ok(Self::container(starter, keeper, ceilings, slots))
            }
        }
    }

    fn container(starter: Arc<Starter>, keeper: Keeper, ceilings: &Limits, slots: usize) -> Self {
        let maker = Maker::new(starter, keeper, ceilings.clone());
        Self::Container(Pool::new(maker, slots))
    }
}
