//! Whether this worker can run anything. While a part of it fails its probe the worker stops pulling and hands back what it holds
//! uncounted: an outage must not dead-letter the backlog.
//!
//! A probe does what every submission needs and no submission chooses: it starts a container with an agent, in the worker's own
//! directory, writes to the cache of blobs, and reads where results and attempts stand. So a full disk fails it as an Engine that is
//! away does. The object store is asked only after it failed a submission: a fleet may run for ever without one.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Fleet;
use crate::{
    blobs::{BlobError, cache::CacheError},
    bus::api::ApiError,
    container::ContainerError,
    submission::names::{Digest, Tenant},
};

/// The first and the longest wait between probes.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// What a worker needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The Docker Engine and the disks.
    Machine,
    /// NATS: results and attempts.
    Nats,
    /// The object store. Suspected only by what needs it.
    Store,
}

/// What is suspected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Suspected {
    machine: bool,
    nats: bool,
    store: bool,
}

/// A part fails its probe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwell {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    Nats(#[from] ApiError),
}

/// Well, or suspected.
#[derive(Debug)]
pub(crate) struct Health {
    suspected: watch::Sender<Suspected>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            suspected: watch::Sender::new(Suspected::default()),
        }
    }

    /// Something failed as if this part were away: no more pulls until a probe succeeds.
    pub(crate) fn suspect(&self, part: Part) {
        self.suspected.send_modify(|suspected| match part {
            Part::Machine => suspected.machine = true,
            Part::Nats => suspected.nats = true,
            Part::Store => suspected.store = true,
        });
    }

    /// Whether nothing is suspected.
    pub(crate) fn is_well(&self) -> bool {
        *self.suspected.borrow() == Suspected::default()
    }

    /// Hears of every suspicion, and of its end.
    pub(crate) fn listen(&self) -> watch::Receiver<Suspected> {
        self.suspected.subscribe()
    }

    /// Probes whatever is suspected, until `over`.
    pub(crate) async fn keep(&self, fleet: &Fleet, over: &CancellationToken) {
        let mut suspected = self.suspected.subscribe();
        loop {
            tokio::select! {
                _ = suspected.wait_for(|suspected| *suspected != Suspected::default()) => {}
                () = over.cancelled() => return,
            }
            tokio::select! {
                () = self.recover(fleet) => {}
                () = over.cancelled() => return,
            }
        }
    }

    /// Returns when nothing is suspected any more.
    async fn recover(&self, fleet: &Fleet) {
        let (mut wait, longest) = WAITS;
        loop {
            let suspected = *self.suspected.borrow();
            match probe(fleet, suspected).await {
                Ok(()) => {
                    tracing::info!(?suspected, "the probe succeeds: pulling goes on");
                    // What was suspected meanwhile is probed again, if it still fails.
                    self.suspected.send_replace(Suspected::default());
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the probe fails: nothing is pulled");
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }
}

async fn probe(fleet: &Fleet, suspected: Suspected) -> Result<(), Unwell> {
    if suspected.nats {
        fleet.bus.probe().await?;
    }
    if suspected.store {
        fleet.probe_store().await?;
    }
    if suspected.machine {
        fleet.probe_machine().await?;
    }
    Ok(())
}

impl Fleet {
    /// Whether a container can be made here, and a blob be cached.
    pub(super) async fn probe_machine(&self) -> Result<(), Unwell> {
        self.cache.probe().await?;
        Ok(self.containers.probe().await?)
    }

    /// Whether the object store answers: it is asked for what nobody has.
    pub(super) async fn probe_store(&self) -> Result<(), Unwell> {
        let blobs = self.store.of(&Tenant::default_tenant());
        let nobodys = Digest::of(b"envicutor probe");
        Ok(blobs.head(&nobodys).await.map(drop)?)
    }
}
