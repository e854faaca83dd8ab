//! What the fleet is told of this worker: its entry in KV `workers`, and the answers to `envicutor.info.*`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_nats::{HeaderMap, Message, SubscribeError};
use futures_util::StreamExt as _;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Fleet;
use crate::{
    bus::{
        api::header_of,
        registry::{Heartbeat, Registry, Running as RunningSubmission},
        subjects::Address,
    },
    submission::{catalogue::Runtime, encoding::Encoding},
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
    /// A submission begins to run.
    pub(crate) fn enter(&self, address: &Address) -> RunningGuard {
        let key = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let submission = RunningSubmission {
            tenant: address.tenant.clone(),
            id: address.raw_id.clone(),
            since: OffsetDateTime::now_utc(),
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

/// Tells the registry at every heartbeat that this worker is alive, until `over`; then takes the entry away.
pub(crate) async fn announce(fleet: &Fleet, over: &CancellationToken) {
    let registry = Registry::new(&fleet.bus);
    let started_at = OffsetDateTime::now_utc();
    let mut beats = interval(fleet.config.worker.heartbeat_us.duration());
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beats.tick() => {}
            () = over.cancelled() => break,
        }
        if let Err(error) = registry.put(&heartbeat(fleet, started_at)).await {
            tracing::warn!(%error, "the registry was not told that this worker is alive");
        }
    }
    if let Err(error) = registry.delete(&fleet.id).await {
        tracing::warn!(%error, "the registry keeps this worker's entry until it ages out");
    }
}

fn heartbeat(fleet: &Fleet, started_at: OffsetDateTime) -> Heartbeat {
    Heartbeat {
        worker: fleet.id.clone(),
        host: fleet.host.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        slots: fleet.slots,
        running: fleet.running.list(),
        isolation: fleet.config.container.isolation,
        runtimes: fleet
            .runtimes
            .catalogue()
            .runtimes
            .iter()
            .map(Runtime::reference)
            .collect(),
        started_at,
        seen_at: OffsetDateTime::now_utc(),
    }
}

/// The queue group that answers: each question gets one answer.
const GROUP: &str = "info";

/// Answers requests for the runtimes and the ceilings until `over`.
pub(crate) async fn inform(fleet: &Fleet, over: &CancellationToken) -> Result<(), SubscribeError> {
    let (runtimes, limits) = (
        fleet.bus.names.info_runtimes(),
        fleet.bus.names.info_limits(),
    );
    let mut asked_runtimes = fleet
        .ears
        .client
        .queue_subscribe(runtimes, GROUP.to_owned())
        .await?;
    let mut asked_limits = fleet
        .ears
        .client
        .queue_subscribe(limits, GROUP.to_owned())
        .await?;
    loop {
        tokio::select! {
            Some(question) = asked_runtimes.next() => answer(fleet, question, fleet.runtimes.catalogue()).await,
            Some(question) = asked_limits.next() => answer(fleet, question, &fleet.config.ceilings.0).await,
            () = over.cancelled() => return Ok(()),
        }
    }
}

/// Answers in the encoding of the question, and only into an inbox: the asker names the subject, and with our rights
/// another one could be a result's.
async fn answer(fleet: &Fleet, question: Message, what: &impl Serialize) {
    let Some(reply) = question.reply.filter(|reply| reply.starts_with("_INBOX")) else {
        return;
    };
    let content_type = question
        .headers
        .as_ref()
        .and_then(|headers| header_of(headers, "Content-Type"));
    let encoding = Encoding::of_content_type(content_type).unwrap_or_default();
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", encoding.content_type());
    let sent = match encoding.encode(what) {
        Ok(body) => {
            fleet
                .bus
                .client
                .publish_with_headers(reply, headers, body.into())
                .await
        }
        Err(error) => {
            return tracing::error!(%error, "the answer to an info request cannot be encoded");
        }
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "an info request was not answered");
    }
}
