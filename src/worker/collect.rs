//! A worker's share of the collection of blobs: from time to time it looks whether it is due, and takes the turn where no other
//! program of the fleet has it. It fails nobody: what could not be collected is collected the next time.

use std::time::Duration;

use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

use super::Fleet;
use crate::blobs::collect::{Collector, Turn};

/// The looks within `blobs.gc_us`. A look is one request, where it is not due.
const LOOKS: u32 = 4;

/// Collects from time to time, until `over`.
pub(crate) async fn keep(fleet: &Fleet, over: &CancellationToken) {
    let collector = Collector::new(&fleet.bus, &fleet.store, &fleet.config);
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait(fleet)) => {}
            () = over.cancelled() => return,
        }
        tokio::select! {
            () = collect(fleet, &collector) => {}
            () = over.cancelled() => return,
        }
    }
}

/// Until the next look. With jitter, so that workers that started together look at different times.
fn wait(fleet: &Fleet) -> Duration {
    let every = fleet.config.blobs.gc_us.duration() / LOOKS;
    every.mul_f64(rand::rng().random_range(0.75..1.25))
}

async fn collect(fleet: &Fleet, collector: &Collector) {
    let every = fleet.config.blobs.gc_us.duration();
    let turn = collector.take_turn(&fleet.config.nats.tenants, &fleet.id, every);
    match turn.await {
        Ok(Turn::Ours(all)) => {
            for collected in all {
                tracing::info!(?collected, "blobs were collected");
            }
        }
        Ok(Turn::Held { .. } | Turn::Done) => {}
        Err(error) => tracing::warn!(%error, "blobs were not collected"),
    }
}
