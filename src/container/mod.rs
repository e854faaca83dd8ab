//! The outer wall: Docker containers, each made for one submission, with our agent as the only thing of ours in it.
//!
//! In the order of a container's life:
//! - [`Containers::take`] asks the `pool`, which holds containers started ahead, and has the missing ones made;
//! - `make` makes one: `options` says what holds it, `uids` who it is on this host, `state_dir` where the agent and the
//!   sockets lie, `door` lets its agent in;
//! - `life` is the container in its worker's hands, over a `session` of the agent protocol;
//! - `removal` ends it, whoever lets go of it; `sweep` ends what dead workers left.
//! - `engine` has every call of the Docker Engine, each with an end.
//!
//! The invariant: whatever was made is removed. A [`Container`] is destroyed by being dropped, by a task that
//! [`Containers::close`] waits for; and if this process dies, by its agent, by `AutoRemove`, and by the next sweep.

mod door;
mod engine;
mod error;
mod life;
mod make;
mod options;
mod pool;
mod removal;
mod session;
mod state_dir;
mod sweep;
mod uids;

use std::{path::PathBuf, sync::Arc};

use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::warn;

pub use error::ContainerError;
pub use life::{Container, Finished, Observed};
pub use state_dir::WorkerLock;

use crate::{
    config,
    submission::{limits::Limits, units::ByteSize},
};
use engine::Engine;
use make::Maker;
use pool::Pool;
use removal::Remover;
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

/// What a container is for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The id of the runtime's image.
    pub image: String,
    /// The size of the work directory.
    pub disk_bytes: ByteSize,
    /// The files and directories that it may hold.
    pub inodes: u64,
    /// The limits of the first stage.
    pub limits: Limits,
}

/// The containers of a worker.
#[derive(Clone)]
pub struct Containers {
    engine: Engine,
    pool: Arc<Pool>,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// When the last handle is dropped without [`Self::close`], the pool lets go of its containers all the same.
    _guard: Arc<DropGuard>,
}

impl Containers {
    /// Takes over the worker's directory (it is locked from here on, for as long as containers may live), removes what dead
    /// workers of this host left, and gets ready to make containers for `slots` submissions at a time.
    pub async fn start(
        docker: bollard::Docker,
        config: &config::Container,
        identity: Identity,
        slots: usize,
    ) -> Result<Self, ContainerError> {
        let engine = Engine::new(docker, config.call_timeout_us.duration());
        let state_dir = StateDir::claim(&identity.state_dir)?;
        let uids = Uids::new(config.uid_first, config.uid_count);
        sweep::sweep(&engine, &identity.host, &state_dir, &uids).await?;
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let remover = Remover::new(engine.clone(), tasks.clone(), closing.clone());
        let labels = Labels::new(&identity.host, &identity.worker, state_dir.lock_file());
        let maker = Maker::new(config.clone(), state_dir, labels, uids, remover);
        Ok(Self {
            engine,
            pool: Pool::new(maker, slots),
            tasks,
            _guard: Arc::new(closing.clone().drop_guard()),
            closing,
        })
    }

    /// A container for `request`: one that waits, else a new one.
    pub async fn take(&self, request: &Request) -> Result<Container, ContainerError> {
        self.pool.take(request).await
    }

    /// Whether the Docker Engine answers.
    pub async fn probe(&self) -> Result<(), ContainerError> {
        self.engine.ping().await
    }

    /// Removes every waiting container, and waits until all that were let go of are gone. Containers in use are to be
    /// destroyed before. With an Engine that does not answer it gives up after a while: the next worker's sweep finds
    /// what is left.
    pub async fn close(&self) {
        self.closing.cancel();
        self.pool.clear();
        self.tasks.close();
        let patience = self.engine.call_timeout();
        if timeout(patience, self.tasks.wait()).await.is_err() {
            warn!(
                left = self.tasks.len(),
                "containers stay behind; the next worker that starts on this host removes them"
            );
        }
    }
}
