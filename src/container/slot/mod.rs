//! Slots: containers that serve one tenant's submissions one after the other, each behind an inner wall of its own that the
//! agent makes. They know no runtime: its root comes from the volume of `roots`.
//!
//! In the order of a slot's life:
//! - `pool` has one made when it is wanted, or a little ahead, and hands it to a tenant;
//! - `make` makes it: of the `image`, with `options` and a `seccomp` profile, its cgroup given to its agent by `delegate`;
//! - `life` is what it may be: virgin, bound to a tenant, retired. The types allow no way back;
//! - `stay` is one submission in it.
//!
//! The invariant: a slot that was not seen to be as it was before a submission serves nobody any more, and one that was bound
//! to a tenant never another.

mod delegate;
mod image;
mod life;
mod make;
mod options;
mod pool;
mod seccomp;
mod stay;

use std::{sync::Arc, time::Duration};

use envicutor_protocol::Bounds;
use tokio::time::sleep;
use tracing::warn;

pub(super) use image::prepare as empty_image;
pub use stay::Stay;

use self::{life::Ground, make::SlotMaker, pool::SlotPool};
use super::{ContainerError, Request, roots::Roots, start::Starter, tools::Tools};
use crate::submission::limits::Limits;

/// The slots of a worker, with the roots that they use.
#[derive(Clone)]
pub(super) struct Slots {
    pool: Arc<SlotPool>,
    roots: Roots,
    /// Whether stages may begin from templates.
    templates: bool,
    tools: Tools,
}

impl Slots {
    /// Gets ready, and makes a first slot: the test of what this host allows. `ceilings` are the most that any stage may
    /// use; `at_a_time` are the submissions at a time.
    pub(super) async fn start(
        starter: Arc<Starter>,
        ceilings: &Limits,
        at_a_time: usize,
    ) -> Result<Self, ContainerError> {
        let image = image::prepare(&starter.remover.engine).await?;
        let roots = Roots::open(Arc::clone(&starter), image.clone()).await?;
        let tasks = starter.remover.tasks.clone();
        let templates = starter.config.templates;
        let tools = Tools::new(&starter.config, ceilings);
        let every = starter.config.collect_us.duration();
        let maker = SlotMaker::new(starter, image, ceilings).await?;
        let pool = SlotPool::start(maker, at_a_time).await?;
        tasks.spawn(Self::collect(Arc::clone(&pool), roots.clone(), every));
        Ok(Self {
            pool,
            roots,
            templates,
            tools,
        })
    }

    /// Removes what no image needs any more, a while after the start and then from time to time, until the pool closes.
    async fn collect(pool: Arc<SlotPool>, roots: Roots, every: Duration) {
        loop {
            tokio::select! {
                () = sleep(every) => {}
                () = pool.closing().cancelled() => return,
            }
            tokio::select! {
                collected = roots.collect() => {
                    if let Err(error) = collected {
                        warn!(%error, "the roots of images that are gone stay");
                    }
                }
                () = pool.closing().cancelled() => return,
            }
        }
    }

    /// A slot for `request`: the tenant's own, else one that nobody has had.
    pub(super) async fn take(&self, request: &Request) -> Result<Stay, ContainerError> {
        let (slot, start) = self.pool.take(&request.tenant, request.fresh).await?;
        let root = match self.roots.root(&request.image, slot.name()).await {
            Ok(root) => root,
            Err(error) => {
                self.pool.put_back(slot);
                return Err(error);
            }
        };
        let work = Bounds {
            bytes: request.disk_bytes.0.max(1),
            inodes: request.inodes.max(1),
        };
        let place = stay::Place {
            ground: Ground { root, work },
            start,
            fresh: request.fresh,
            pool: Arc::clone(&self.pool),
            roots: self.roots.clone(),
            templates: self.templates,
            tools: self.tools.clone(),
        };
        Ok(Stay::new(slot, place))
    }

    /// Whether a slot can be made.
    pub(super) async fn probe(&self) -> Result<(), ContainerError> {
        self.pool.probe().await
    }

    /// Lets go of every slot that nobody uses.
    pub(super) fn clear(&self) {
        self.pool.clear();
    }
}
