//! What may end a run from outside: the delivery is lost, a result of its generation appears, or the worker drains.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::bus::{queue::Delivery, results::ResultListener};

/// Why a run was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// A result of this generation or a later one stands: another attempt won, or it was cancelled.
    ResultStands,
    /// The worker hands back what it could not finish in its grace time.
    HandBack,
}

/// Renews the delivery at a third of `ack_wait`, and returns when that failed for a whole `ack_wait`: another worker has it.
pub(crate) async fn until_lost(delivery: &Delivery, ack_wait: Duration) {
    let mut ticks = interval(ack_wait / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut renewed = Instant::now();
    loop {
        ticks.tick().await;
        // A process that was stopped, or a machine that slept, has lost it too.
        if renewed.elapsed() >= ack_wait {
            return;
        }
        let asked = Instant::now();
        match timeout(ack_wait / 3, delivery.renew()).await {
            Ok(Ok(())) => renewed = asked,
            Ok(Err(error)) => tracing::warn!(%error, "the delivery was not renewed"),
            Err(_) => tracing::warn!("the delivery was not renewed in time"),
        }
    }
}

/// Returns when the run must end from outside.
pub(crate) async fn until_interrupted(
    results: &mut ResultListener,
    generation: u64,
    hand_back: &CancellationToken,
) -> Interrupt {
    loop {
        tokio::select! {
            // An unreadable one is a later version's; the settlement finds out what it is.
            Some(Ok(standing)) = results.next() => {
                if standing.generation >= generation {
                    return Interrupt::ResultStands;
                }
            }
            () = hand_back.cancelled() => return Interrupt::HandBack,
        }
    }
}
