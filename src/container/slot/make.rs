//! How a slot begins: a container whose agent was given its cgroup and has tried every step of an inner wall.

use std::{sync::Arc, time::Instant};

use envicutor_protocol::{Bounds, Prepare};
use tokio::time::timeout;
use tracing::debug;

use super::{
    delegate::Delegate,
    life::{Slot, Virgin},
    options::{self, Kind},
    pool::Seat,
};
use crate::{
    container::{
        ContainerError,
        start::{Started, Starter},
    },
    submission::limits::Limits,
};

/// Makes slots. Clones share what it knows.
#[derive(Clone)]
pub(super) struct SlotMaker {
    pub(super) starter: Arc<Starter>,
    kind: Arc<Kind>,
    delegate: Arc<Delegate>,
}

impl SlotMaker {
    pub(super) async fn new(
        starter: Arc<Starter>,
        image: String,
        ceilings: &Limits,
    ) -> Result<Self, ContainerError> {
        let info = starter.remover.engine.info().await?;
        let security = info.security_options.unwrap_or_default();
        Ok(Self {
            kind: Arc::new(Kind {
                image: image.clone(),
                ceilings: ceilings.clone(),
                has_apparmor: security.iter().any(|it| it.contains("apparmor")),
            }),
            delegate: Arc::new(Delegate::new(Arc::clone(&starter), image)),
            starter,
        })
    }

    /// A slot that is ready. Whatever fails, nothing stays behind.
    pub(super) async fn make(&self, seat: Seat) -> Result<Slot<Virgin>, ContainerError> {
        let began = Instant::now();
        let config = &self.starter.config;
        let started = self
            .starter
            .start(|place| options::create(config, &self.kind, place));
        let Started {
            mut session,
            occupancy,
            id,
        } = started.await?;
        self.delegate.give(&id, occupancy.uid()).await?;
        let waited = config.start_timeout_us.duration();
        let prepared = timeout(waited, session.prepare(self.prepare())).await;
        prepared.map_err(|_| ContainerError::AgentOverdue {
            doing: "make the slot ready",
            waited,
        })??;
        debug!(slot = occupancy.name(), took = ?began.elapsed(), "a slot is made");
        Ok(Slot::new(session, occupancy, seat))
    }

    fn prepare(&self) -> Prepare {
        let config = &self.starter.config;
        Prepare {
            cpu_millis: cpu_millis(config.cpus),
            scratch: Bounds {
                bytes: config.tmp_bytes.0.max(1),
                inodes: config.tmp_inodes.max(1),
            },
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates, and the configuration allows no number below 0"
)]
fn cpu_millis(cpus: f64) -> u64 {
    ((cpus * 1e3).round() as u64).max(1)
}
