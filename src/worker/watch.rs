//! What may end a run from outside: the delivery is lost, a result of its generation appears (another attempt won, or it was
//! cancelled), or the worker drains; and what keeps one from beginning: it is too late.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{
        Bus,
        api::ApiError,
        outage::Backoff,
        queue::{Delivery, QueueError},
        results::{ResultError, ResultListener, Results},
        subjects::Address,
    },
    submission::{plan::Plan, result::SubmissionResult},
};

/// Why a run was ended from outside.
#[derive(Debug)]
pub(crate) enum Interrupt {
    /// A result of this generation or a later one stands: another attempt won, or it was cancelled.
    ResultStands(Box<SubmissionResult>),
    /// The worker hands back what it could not finish in its grace time.
    HandBack,
}

/// A worker's hold on a delivery. It ends `ack_wait` after the last renewal that the server confirmed was *asked* for, so never
/// after the server gave the message to another worker.
#[derive(Debug)]
pub(crate) struct Lease {
    delivery: Arc<Delivery>,
    ack_wait: Duration,
    until: Mutex<Instant>,
}

impl Lease {
    pub(crate) fn new(delivery: Arc<Delivery>, ack_wait: Duration) -> Self {
        let until = Mutex::new(delivery.asked_at + ack_wait);
        Self {
            delivery,
            ack_wait,
            until,
        }
    }

    /// Whether no other worker can have the message: what acts on a delivery that is lost would act on the newer one.
    pub(crate) fn is_held(&self) -> bool {
        Instant::now() < self.until()
    }

    /// Renews the delivery at a third of `ack_wait`, and returns when it is lost. What failed is tried again soon, since an election
    /// may take as long as `ack_wait` does.
    pub(crate) async fn keep(&self) {
        let third = self.ack_wait / 3;
        let mut next = Instant::now() + third;
        let mut failing: Option<Backoff> = None;
        loop {
            sleep_until(next.min(self.until())).await;
            // A process that was stopped has lost it too.
            if !self.is_held() {
                return;
            }
            let asked = Instant::now();
            let renewed = timeout_at(self.until().min(asked + third), self.renew()).await;
            let problem = match renewed {
                Ok(Ok(())) => {
                    self.extend(asked + self.ack_wait);
                    next = asked + third;
                    if failing.take().is_some() {
                        tracing::info!("the delivery is renewed again");
                    }
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "there was no answer in time".to_owned(),
            };
            if failing.is_none() {
                tracing::warn!(
                    problem,
                    "the delivery was not renewed, which is tried again"
                );
            }
            let backoff =
                failing.get_or_insert_with(|| Backoff::new(third / 30, self.ack_wait / 20));
            next = Instant::now() + backoff.next_wait();
        }
    }

    async fn renew(&self) -> Result<(), QueueError> {
        fail_point!(
            Renew,
            &self.delivery.address.raw_id,
            QueueError::Api(ApiError::NotConnected)
        );
        self.delivery.renew().await
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Returns when it is too late to start `plan`; at once where it is so already.
pub(crate) async fn until_expired(plan: &Plan) {
    match plan.expires_at {
        Some(instant) => {
            let left = Duration::try_from(instant - OffsetDateTime::now_utc());
            sleep(left.unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

/// Listens for what ends a submission from outside, from its delivery on.
pub(crate) struct Outside<'a> {
    bus: &'a Bus,
    address: &'a Address,
    generation: u64,
    results: ResultListener,
    hand_back: &'a CancellationToken,
    /// How often the connection had come about when it was last known what stands.
    connects: u64,
}

impl<'a> Outside<'a> {
    /// Begins to listen. What stands already is to be read after this, and nothing is missed in between.
    pub(crate) async fn listen(
        bus: &'a Bus,
        address: &'a Address,
        generation: u64,
        hand_back: &'a CancellationToken,
    ) -> Result<Self, ResultError> {
        let connects = bus.connects();
        let results = Results::new(bus)
            .subscribe(&address.tenant, &address.raw_id)
            .await?;
        Ok(Self {
            bus,
            address,
            generation,
            results,
            hand_back,
            connects,
        })
    }

    /// Returns when it must end. What was told while the connection was broken is looked up when it is back. May be dropped while it
    /// waits, and called again.
    pub(crate) async fn interrupt(&mut self) -> Interrupt {
        loop {
            let standing = tokio::select! {
                biased;
                // An unreadable one is a later version's; the settlement finds out what it is.
                Some(result) = self.results.next() => result.ok(),
                () = self.hand_back.cancelled() => return Interrupt::HandBack,
                () = self.bus.reconnected(&mut self.connects) => {
                    let results = Results::new(self.bus);
                    let standing = results.standing(&self.address.tenant, &self.address.raw_id);
                    standing.await.ok().flatten().map(|standing| standing.result)
                }
            };
            if let Some(result) = standing.filter(|it| it.generation >= self.generation) {
                return Interrupt::ResultStands(Box::new(result));
            }
        }
    }
}
