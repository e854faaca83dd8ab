//! One at a time works on a root: in this process by a lock, over all workers of an Engine by the container of its name,
//! which the Engine lets exist once. By it, whoever has the turn holds the volume.

use std::{sync::Arc, time::Duration};

use envicutor_protocol::RUNTIMES_DIR;
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep},
};
use tracing::info;

use super::Inner;
use crate::container::{
    ContainerError,
    engine::{Engine, status},
    helper::{Errand, Helper},
};

/// How often a name that is taken is tried.
const POLL: Duration = Duration::from_millis(100);

/// What root keeps of its rights, to remove any image's files: passing over modes and owners.
const CAPABILITIES: [&str; 2] = ["DAC_OVERRIDE", "FOWNER"];

/// The turn to work on one root. Dropped, it is over.
pub(super) struct Turn {
    pub(super) engine: Engine,
    pub(super) roots: Arc<Inner>,
    /// The name of the root.
    pub(super) name: String,
    helper: Helper,
    /// Last, so that what this process finds of its own was left behind.
    _lock: OwnedMutexGuard<()>,
}

impl Turn {
    /// Waits for the turn. Another worker that fills the root may take as long as its image is large; one that is dead is
    /// not waited for.
    pub(super) async fn take(roots: &Arc<Inner>, name: &str) -> Result<Self, ContainerError> {
        let lock = roots.lock(name).lock_owned().await;
        let starter = &roots.starter;
        let engine = &starter.remover.engine;
        let container = format!("{}-{name}", starter.config.runtimes_volume);
        let agent = starter.state_dir.agent();
        let patience = starter.config.fill_timeout_us.duration();
        let began = Instant::now();
        let mut told = false;
        loop {
            let errand = Errand {
                image: &roots.image,
                agent: &agent,
                labels: starter.labels.of_helper(),
                arguments: ["collect", RUNTIMES_DIR, name].map(str::to_owned).to_vec(),
                capabilities: &CAPABILITIES,
                mount: super::mount(&starter.config.runtimes_volume, false),
            };
            match Helper::create(&starter.remover, container.clone(), errand).await {
                Ok(helper) => {
                    return Ok(Self {
                        engine: engine.clone(),
                        roots: Arc::clone(roots),
                        name: name.to_owned(),
                        helper,
                        _lock: lock,
                    });
                }
                Err(error) if status(&error) != Some(409) => return Err(error),
                Err(_) if began.elapsed() > patience => {
                    return Err(ContainerError::RootHeld {
                        container,
                        waited: patience,
                    });
                }
                Err(_) => {}
            }
            if let Some(found) = engine.named(&container).await? {
                if starter.labels.are_of_own_or_dead(&found) {
                    engine.remove(&container).await?;
                } else if !told {
                    info!(
                        container,
                        "waiting for another worker that prepares this root"
                    );
                    told = true;
                }
            }
            sleep(POLL).await;
        }
    }

    /// The container that has the volume to write to.
    pub(super) fn container(&self) -> &str {
        self.helper.name()
    }

    /// Removes the root.
    pub(super) async fn clear(&self) -> Result<(), ContainerError> {
        let failed = |problem| ContainerError::Root {
            name: self.name.clone(),
            problem,
        };
        self.helper.run().await?.map_err(failed)
    }
}
