//! Whether this worker can run anything. While its Docker Engine fails its probe it stops pulling and hands back what it
//! holds uncounted: an outage must not dead-letter the backlog.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::container::Containers;

/// The first and the longest wait between probes of an Engine that does not answer.
const PROBE_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Well, or suspected.
#[derive(Debug)]
pub(crate) struct Health {
    well: watch::Sender<bool>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            well: watch::Sender::new(true),
        }
    }

    /// Something failed as if the Engine were gone: no more pulls until a probe succeeds.
    pub(crate) fn suspect(&self) {
        self.well.send_replace(false);
    }

    /// Waits until the worker is well; at once where it is.
    pub(crate) async fn well(&self) {
        let mut well = self.well.subscribe();
        // The sender lives in `self`, so that waiting cannot fail.
        let _ = well.wait_for(|well| *well).await;
    }

    /// Probes whenever something was suspected, until `over`.
    pub(crate) async fn keep(&self, containers: &Containers, over: &CancellationToken) {
        let mut suspected = self.well.subscribe();
        loop {
            tokio::select! {
                _ = suspected.wait_for(|well| !*well) => {}
                () = over.cancelled() => return,
            }
            tokio::select! {
                () = self.probe(containers) => {}
                () = over.cancelled() => return,
            }
        }
    }

    async fn probe(&self, containers: &Containers) {
        let (mut wait, longest) = PROBE_WAITS;
        loop {
            match containers.probe().await {
                Ok(()) => {
                    tracing::info!("the Docker Engine answers: pulling goes on");
                    self.well.send_replace(true);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the Docker Engine fails its probe: nothing is pulled");
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }
}
