//! What the fleet is told of this worker, its entry in KV `workers`; and what an operator tells the worker.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_nats::{Message, SubscribeError, Subscriber};
use futures_util::StreamExt as _;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Fleet, requests::answer};
use crate::{
    bus::{
        orders::{Obeyed, Order},
        registry::{Heartbeat, Registry, Running as RunningSubmission},
        subjects::Address,
    },
    submission::{catalogue::Runtime, units::ByteSize},
};

/// What runs in this worker now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    submissions: Arc<Mutex<HashMap<u64, RunningSubmission>>>,
    next: Arc<std::sync::atomic::AtomicU64>,
}

/// A submission that runs as long as this lives.
#[derive(Debug)]
pub(crate) struct RunningGuard {
    running: Running,
    key: u64,
}

impl Running {
    /// A submission begins to run, with so much memory held for it.
    pub(crate) fn enter(&self, address: &Address, memory_bytes: ByteSize) -> RunningGuard {
        let key = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let submission = RunningSubmission {
            tenant: address.tenant.clone(),
            id: address.raw_id.clone(),
            since: OffsetDateTime::now_utc(),
            memory_bytes,
        };
        self.lock().insert(key, submission);
        RunningGuard {
            running: self.clone(),
            key,
        }
    }

    fn list(&self) -> Vec<RunningSubmission> {
        let mut list: Vec<_> = self.lock().values().cloned().collect();
        list.sort_by_key(|submission| submission.since);
        list
    }

    /// Whether nothing runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, RunningSubmission>> {
        self.submissions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

/// What an operator tells this worker. On the connection that carries the renewals: nobody else may publish there.
pub(crate) async fn orders(fleet: &Fleet) -> Result<Subscriber, SubscribeError> {
    let subject = fleet.bus.names.worker_orders(&fleet.id);
    fleet.bus.client.subscribe(subject).await
}

/// Tells the registry that this worker is alive, at every heartbeat and whenever its state changes, until `over`; then takes the
/// entry away. It alone writes the entry, and so obeys the orders too: one that is acknowledged stands in the registry.
pub(crate) async fn announce(fleet: &Fleet, mut orders: Subscriber, over: &CancellationToken) {
    let mut beats = interval(fleet.config.worker.heartbeat_us.duration());
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut well, mut cordoned) = (fleet.health.listen(), fleet.duty.listen());
    let mut is_draining = false;
    loop {
        let order = tokio::select! {
            _ = beats.tick() => None,
            _ = well.changed() => None,
            _ = cordoned.changed() => None,
            () = fleet.duty.draining().cancelled(), if !is_draining => None,
            Some(order) = orders.next() => Some(order),
            () = over.cancelled() => break,
        };
        if let Some(order) = order.as_ref().and_then(read_order) {
            fleet.duty.obey(order);
        }
        is_draining = fleet.duty.draining().is_cancelled();
        let entry = heartbeat(fleet);
        let registry = Registry::new(&fleet.bus);
        // The ears only listen, and would not notice that their server has lost its cluster.
        let (told, ()) = tokio::join!(registry.put(&entry), fleet.ears.check_for_leader());
        if let Err(error) = told {
            tracing::warn!(%error, "the registry was not told that this worker is alive");
        }
        if let Some(order) = order {
            let obeyed = Obeyed {
                worker: entry.worker,
                state: entry.state,
                running: entry.running,
            };
            answer(fleet, order, &obeyed).await;
        }
    }
    if let Err(error) = Registry::new(&fleet.bus).delete(&fleet.id).await {
        tracing::warn!(%error, "the registry keeps this worker's entry until it ages out");
    }
}

/// The order in a message. A later version's is none: the acknowledgement says that nothing changed.
fn read_order(message: &Message) -> Option<Order> {
    let token = message.subject.rsplit('.').next()?;
    Order::ALL.into_iter().find(|order| order.as_str() == token)
}

fn heartbeat(fleet: &Fleet) -> Heartbeat {
    Heartbeat {
        worker: fleet.id.clone(),
        host: fleet.host.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: fleet.duty.state(&fleet.health),
        slots: fleet.slots,
        running: fleet.running.list(),
        memory_bytes: fleet.memory,
        isolation: fleet.containers.isolation(),
        runtimes: fleet
            .runtimes
            .catalogue()
            .runtimes
            .iter()
            .map(Runtime::reference)
            .collect(),
        started_at: fleet.started_at,
        seen_at: OffsetDateTime::now_utc(),
    }
}
