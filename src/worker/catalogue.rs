//! The runtimes that the fleet has installed, as this worker knows them: it is told of each change, reads all of them from time to
//! time, and once more before it rejects a submission for a runtime that it does not know.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Fleet;
use crate::{
    bus::{
        installations,
        runtimes::{Shelf, ShelfError},
    },
    submission::names::RuntimeRef,
};

/// The least time between two readings that submissions cause.
const PACE: Duration = Duration::from_secs(1);

/// Changes within this time are read together.
const GATHER: Duration = Duration::from_millis(20);

/// When the catalogue was last read for a submission.
#[derive(Debug, Default)]
pub(crate) struct LastLook(Mutex<Option<Instant>>);

/// Reads what the fleet has installed.
pub(crate) async fn read(fleet: &Fleet) -> Result<(), ShelfError> {
    let entries = Shelf::new(&fleet.bus).list().await?;
    let installed = entries.into_iter().map(|entry| entry.installed).collect();
    fleet.runtimes.follow(installed);
    Ok(())
}

/// Reads it because a submission names what is not known, unless that was done a moment ago.
pub(crate) async fn look_again(fleet: &Fleet) {
    let mut last = fleet.last_look.0.lock().await;
    if last.is_some_and(|at| at.elapsed() < PACE) {
        return;
    }
    if let Err(error) = read(fleet).await {
        tracing::warn!(%error, "the fleet's runtimes could not be read");
    }
    *last = Some(Instant::now());
}

/// Whether an installation of a runtime of this name waits or is under way, or has just ended well. What cannot be asked is taken for none.
pub(crate) async fn is_being_installed(fleet: &Fleet, runtime: &RuntimeRef) -> bool {
    match installations::is_underway(&fleet.bus, &runtime.name).await {
        Ok(true) => true,
        // It may have ended since the catalogue was read.
        Ok(false) => {
            look_again(fleet).await;
            fleet.runtimes.catalogue().find(runtime).is_some()
        }
        Err(error) => {
            tracing::warn!(%error, "it is not known whether a runtime is being installed");
            false
        }
    }
}

/// Follows every change until `over`. A change that is missed (the connection broke) is found by the next reading.
pub(crate) async fn keep(fleet: &Fleet, over: &CancellationToken) {
    let subject = fleet.bus.names.changes("runtimes");
    let mut changes = loop {
        match fleet.bus.client.subscribe(subject.clone()).await {
            Ok(changes) => break changes,
            Err(error) => {
                tracing::warn!(%error, "changes of the fleet's runtimes are not heard of yet");
            }
        }
        tokio::select! {
            () = sleep(PACE) => {}
            () = over.cancelled() => return,
        }
    };
    let refresh = fleet.config.runtimes.refresh_us.duration();
    loop {
        // At first too: what changed before the subscription stood.
        if let Err(error) = read(fleet).await {
            tracing::warn!(%error, "the fleet's runtimes could not be read");
        }
        tokio::select! {
            _ = timeout(refresh, changes.next()) => {}
            () = over.cancelled() => return,
        }
        let more = async { while changes.next().await.is_some() {} };
        let _ = timeout(GATHER, more).await;
    }
}
