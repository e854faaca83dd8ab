//! Pulling: while there is room, ask the queue whose turn it is; while there is nothing, wait for a wake or the sweep.
//!
//! Each wake goes to one worker of those that wait (a queue group), so that a message does not make every idle worker ask.
//! A worker without room leaves the group, and notes every wake instead (a plain subscription) for when it has room.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use rand::RngExt as _;
use tokio::time;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::{
    Fleet,
    admit::{Admission, Admitted},
    life,
    ready::{AfterNothing, ReadySet},
};
use crate::bus::{
    queue::{Delivery, Puller, QueueError},
    wake::{WakeError, Wakes},
};

/// How long after a wake the consumer may not know of the message yet.
const AGAIN: Duration = Duration::from_millis(4);

/// Between two queues that the sweep asks, at least: what many queues cost the server and this worker is bounded.
const SWEEP_LEAST: Duration = Duration::from_millis(5);

/// The pulling side of a worker.
pub(crate) struct Pulling {
    fleet: Arc<Fleet>,
    admission: Admission,
    ready: ReadySet,
    puller: Puller,
    /// Every wake.
    all: Wakes,
    /// The wakes that are this worker's, while it has room.
    ours: Option<Wakes>,
    sweep: Sweep,
    lives: TaskTracker,
}

impl Pulling {
    pub(crate) async fn start(
        fleet: Arc<Fleet>,
        admission: Admission,
        lives: TaskTracker,
    ) -> Result<Self, PullError> {
        let all = Wakes::all(&fleet.ears).await?;
        let puller = Puller::new(&fleet.bus).await?;
        let ready = ReadySet::new(
            &fleet.config.nats.tenants,
            fleet.config.worker.interactive_weight,
        );
        let round = fleet.config.worker.sweep_us.duration();
        let queues = u32::try_from(ready.len()).unwrap_or(u32::MAX).max(1);
        let sweep = Sweep::new((round / queues).max(SWEEP_LEAST));
        Ok(Self {
            fleet,
            admission,
            ready,
            puller,
            all,
            ours: None,
            sweep,
            lives,
        })
    }

    /// Takes submissions and gives each a life of its own, until `over`.
    pub(crate) async fn run(mut self, over: &CancellationToken) {
        while let Some((admitted, delivery)) = self.take(over).await {
            let span = tracing::info_span!(
                "submission",
                id = delivery.address.raw_id,
                tenant = %delivery.address.tenant,
                worker = self.fleet.id,
                delivery = delivery.num_delivered,
                attempt = tracing::field::Empty,
            );
            self.lives
                .spawn(life::live(Arc::clone(&self.fleet), delivery, admitted).instrument(span));
        }
    }

    /// The next submission and the place for it; none when it is `over`. A pull under way is never dropped: its message
    /// would wait for `ack_wait` to come again.
    async fn take(&mut self, over: &CancellationToken) -> Option<(Admitted, Delivery)> {
        let mut admitted = self.place(over).await?;
        loop {
            if self.admission.all_are_wanted().now_or_never().is_some() {
                drop(admitted);
                admitted = self.place(over).await?;
            }
            self.leisure(over).await;
            if over.is_cancelled() {
                return None;
            }
            if !self.takes_work() {
                continue;
            }
            // However much there is to do elsewhere: what comes again wakes nobody.
            if self.sweep.tick().now_or_never().is_some() {
                self.ready.sweep();
            }
            match self.ready.next(Instant::now()) {
                Some(place) => {
                    if let Some(delivery) = self.ask(place).await {
                        return Some((admitted, delivery));
                    }
                }
                None => self.something(over).await,
            }
        }
    }

    /// Whether this worker can run something, and is to.
    fn takes_work(&self) -> bool {
        self.fleet.health.is_well() && self.fleet.duty.takes_work()
    }

    /// Waits for as long as this worker takes no work, noting the queues that wake meanwhile; its share of the wakes goes to others.
    /// Returns before that where its place is wanted.
    async fn leisure(&mut self, over: &CancellationToken) {
        let (mut suspected, mut cordoned) = (self.fleet.health.listen(), self.fleet.duty.listen());
        while !self.takes_work() {
            self.ours = None;
            tokio::select! {
                _ = suspected.changed() => {}
                _ = cordoned.changed() => {}
                Some(wake) = self.all.next() => self.ready.wake(&wake.tenant, wake.lane, Instant::now()),
                () = self.admission.all_are_wanted() => return,
                () = over.cancelled() => return,
            }
        }
    }

    /// Waits for a slot and memory, noting the queues that wake meanwhile.
    async fn place(&mut self, over: &CancellationToken) -> Option<Admitted> {
        let place = self.admission.admit();
        tokio::pin!(place);
        if let Some(admitted) = place.as_mut().now_or_never() {
            return Some(admitted);
        }
        self.ours = None;
        loop {
            tokio::select! {
                biased;
                () = over.cancelled() => return None,
                admitted = &mut place => return Some(admitted),
                () = self.sweep.tick() => self.ready.sweep(),
                Some(wake) = self.all.next() => self.ready.wake(&wake.tenant, wake.lane, Instant::now()),
            }
        }
    }

    /// Asks one queue for one message. One that comes after this worker was told to take none goes back.
    async fn ask(&mut self, place: usize) -> Option<Delivery> {
        let queue = self.ready.name(place);
        match self.puller.pull(&queue.tenant, queue.lane).await {
            Ok(Some(delivery)) if self.fleet.duty.takes_work() => {
                self.ready.taken(place, may_hold_more(&delivery));
                Some(delivery)
            }
            Ok(Some(delivery)) => {
                if let Err(error) = delivery.hand_back(Duration::ZERO).await {
                    tracing::warn!(%error, "a delivery that came too late waits for its ack_wait");
                }
                None
            }
            Ok(None) => {
                if self.ready.nothing(place, Instant::now()) == AfterNothing::Again {
                    time::sleep(AGAIN).await;
                }
                None
            }
            Err(error) => {
                tracing::warn!(%error, tenant = %queue.tenant, lane = %queue.lane, "the queue could not be asked");
                self.ready.failed(place, Instant::now());
                None
            }
        }
    }

    /// Joins the group that wakes go to. What was published before woke others, or nobody: every queue is asked once more.
    async fn join(&mut self) {
        match Wakes::shared(&self.fleet.ears).await {
            Ok(ours) => self.ours = Some(ours),
            Err(error) => {
                tracing::warn!(%error, "no wakes until the next sweep");
                self.sweep.tick().await;
            }
        }
        self.ready.sweep_all();
    }

    /// Waits until some queue may hold something: a wake meant for this worker, or the sweep.
    async fn something(&mut self, over: &CancellationToken) {
        let Some(ours) = &mut self.ours else {
            return self.join().await;
        };
        let (mut suspected, mut cordoned) = (self.fleet.health.listen(), self.fleet.duty.listen());
        loop {
            tokio::select! {
                Some(wake) = ours.next() => return self.ready.wake(&wake.tenant, wake.lane, Instant::now()),
                // Another worker's, or ours too: there is room, so that it need not be noted.
                Some(_) = self.all.next() => {}
                () = self.sweep.tick() => return self.ready.sweep(),
                () = self.admission.all_are_wanted() => return,
                _ = suspected.changed() => return,
                _ = cordoned.changed() => return,
                () = over.cancelled() => return,
            }
        }
    }
}

/// When to look at a queue. With jitter: of two workers that keep a time of their own, the one that looks just before the other
/// would find nearly every redelivery, also those that it cannot run.
struct Sweep {
    every: Duration,
    at: time::Instant,
}

impl Sweep {
    fn new(every: Duration) -> Self {
        let at = time::Instant::now();
        Self { every, at }
    }

    /// Waits until it is time. May be dropped while it waits.
    async fn tick(&mut self) {
        time::sleep_until(self.at).await;
        let wait = self.every.mul_f64(rand::rng().random_range(0.5..1.5));
        self.at = time::Instant::now() + wait;
    }
}

/// Whether the queue may hold more than this. What comes again is not among what the server counts as pending, and where a worker
/// was lost all that it held comes again together.
const fn may_hold_more(delivery: &Delivery) -> bool {
    delivery.num_pending > 0 || delivery.num_delivered > 1
}

/// Pulling cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// No inbox.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No wakes.
    #[error(transparent)]
    Wake(#[from] WakeError),
}
