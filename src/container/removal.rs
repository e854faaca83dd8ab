//! How a container ends. Whoever lets go of an [`Occupancy`], on purpose or because its future was dropped, hands it to a
//! task of the [`Remover`]; uid and directory are free again only when the Engine says that the container is gone.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    engine::{Engine, Removal},
    state_dir::remove_tree,
    uids::Uid,
};

/// Removals at a time. The Engine serializes most of their work anyway.
const AT_A_TIME: usize = 4;

/// How long an agent, whose socket has closed, may take to kill its processes and exit before the container is killed.
const AGENT_EXIT: Duration = Duration::from_secs(2);

/// The waits between tries: the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// The longest wait between tries while the worker closes.
const RETRY_CLOSING: Duration = Duration::from_millis(500);

/// A create call without an answer may still make its container: how often the Engine must say that there is none.
const ABSENCES: u32 = 10;

/// Removes containers in the background.
#[derive(Clone)]
pub(super) struct Remover {
    pub(super) engine: Engine,
    pub(super) tasks: TaskTracker,
    pub(super) closing: CancellationToken,
    at_a_time: Arc<Semaphore>,
    runtime: Handle,
}

/// What is known of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existence {
    /// The Engine has none of this name.
    None,
    /// It was asked to create it, and its answer was not heard.
    Unknown,
    /// It is there and was not started: nothing will remove it by itself.
    Created,
    /// It was started, or that was tried: it goes by itself when its agent exits.
    Started,
}

/// What a container takes of this machine.
#[derive(Debug)]
struct Belongings {
    name: String,
    existence: Existence,
    /// None of a helper's.
    socket_dir: Option<PathBuf>,
    /// None of a helper's. Last, so that it is free after everything else is gone.
    uid: Option<Uid>,
}

/// A container's hold on this machine. Dropped, everything of it is removed.
pub(super) struct Occupancy {
    /// Present until it is dropped.
    belongings: Option<Belongings>,
    remover: Remover,
}

impl Remover {
    pub(super) fn new(engine: Engine, tasks: TaskTracker, closing: CancellationToken) -> Self {
        Self {
            engine,
            tasks,
            closing,
            at_a_time: Arc::new(Semaphore::new(AT_A_TIME)),
            runtime: Handle::current(),
        }
    }

    /// Begins to hold on to what the container `name` takes, before it takes anything.
    pub(super) fn occupy(&self, name: String, socket_dir: PathBuf, uid: Uid) -> Occupancy {
        self.hold(name, Some(socket_dir), Some(uid))
    }

    /// The same for a helper, which has no agent that connects.
    pub(super) fn occupy_helper(&self, name: String) -> Occupancy {
        self.hold(name, None, None)
    }

    fn hold(&self, name: String, socket_dir: Option<PathBuf>, uid: Option<Uid>) -> Occupancy {
        Occupancy {
            belongings: Some(Belongings {
                name,
                existence: Existence::None,
                socket_dir,
                uid,
            }),
            remover: self.clone(),
        }
    }

    async fn clear(self, belongings: Belongings) {
        // Never closed.
        let Ok(_permit) = self.at_a_time.acquire().await else {
            return;
        };
        let Belongings {
            name,
            socket_dir,
            existence,
            uid,
        } = belongings;
        self.remove(&name, existence).await;
        if let Some(socket_dir) = socket_dir
            && let Err(error) = remove_tree(&socket_dir)
        {
            warn!(%error, container = name, "a socket directory stays behind");
        }
        debug!(container = name, "a container is gone");
        drop(uid);
    }

    /// Returns when the container is gone, however long that takes.
    async fn remove(&self, name: &str, existence: Existence) {
        if existence == Existence::None {
            return;
        }
        let mut wait = RETRY.0;
        let mut absences = if existence == Existence::Unknown {
            ABSENCES
        } else {
            1
        };
        loop {
            if existence == Existence::Started {
                self.engine.wait_until_removed(name, AGENT_EXIT).await;
            }
            match self.engine.remove(name).await {
                Ok(Removal::Removed) => return,
                Ok(Removal::Absent) => {
                    absences -= 1;
                    // At the end of the worker's life the next one's sweep finds what may still come.
                    if absences == 0 || self.closing.is_cancelled() {
                        return;
                    }
                }
                Ok(Removal::Underway) => {}
                Err(error) => warn!(%error, container = name, "a container is not removed yet"),
            }
            self.pause(wait).await;
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// Waits, but not for long while the worker closes.
    async fn pause(&self, wait: Duration) {
        if self.closing.is_cancelled() {
            sleep(wait.min(RETRY_CLOSING)).await;
        } else {
            let _ = timeout(wait, self.closing.cancelled()).await;
        }
    }
}

impl Occupancy {
    pub(super) fn name(&self) -> &str {
        self.belongings().map_or("", |it| &it.name)
    }

    pub(super) fn uid(&self) -> u32 {
        let uid = self.belongings().and_then(|it| it.uid.as_ref());
        uid.map_or(0, Uid::number)
    }

    pub(super) fn set(&mut self, existence: Existence) {
        if let Some(belongings) = &mut self.belongings {
            belongings.existence = existence;
        }
    }

    fn belongings(&self) -> Option<&Belongings> {
        self.belongings.as_ref()
    }
}

impl Drop for Occupancy {
    fn drop(&mut self) {
        if let Some(belongings) = self.belongings.take() {
            let task = self.remover.clone().clear(belongings);
            self.remover.tasks.spawn_on(task, &self.remover.runtime);
        }
    }
}
