//! Pulling: while there is room, ask the queue whose turn it is; while there is nothing, wait for a wake or the sweep.
//!
//! Each wake goes to one worker of those that wait (a queue group), so that a message does not make every idle worker ask.
//! A worker without room leaves the group, and notes every wake instead (a plain subscription) for when it has room.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tokio::time::{Interval, MissedTickBehavior, interval};
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

/// How long to wait after a pull that failed: NATS is away, and the client reconnects by itself.
const AFTER_ERROR: Duration = Duration::from_secs(1);

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
    sweep: Interval,
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
        let mut sweep = interval(fleet.config.worker.sweep_us.duration());
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
        let admitted = self.place(over).await?;
        loop {
            tokio::select! {
                () = self.fleet.health.well() => {}
                () = over.cancelled() => return None,
            }
            match self.ready.next() {
                Some(place) => {
                    if let Some(delivery) = self.ask(place).await {
                        return Some((admitted, delivery));
                    }
                }
                None => self.something(over).await,
            }
            if over.is_cancelled() {
                return None;
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
                Some(wake) = self.all.next() => self.ready.wake(&wake.tenant, wake.lane, Instant::now()),
            }
        }
    }

    /// Asks one queue for one message.
    async fn ask(&mut self, place: usize) -> Option<Delivery> {
        let queue = self.ready.name(place);
        match self.puller.pull(&queue.tenant, queue.lane).await {
            Ok(Some(delivery)) => {
                self.ready.taken(place, delivery.num_pending);
                Some(delivery)
            }
            Ok(None) => {
                if self.ready.nothing(place, Instant::now()) == AfterNothing::Again {
                    tokio::time::sleep(AGAIN).await;
                }
                None
            }
            Err(error) => {
                tracing::warn!(%error, tenant = %queue.tenant, lane = %queue.lane, "the queue could not be asked");
                tokio::time::sleep(AFTER_ERROR).await;
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
        self.ready.sweep();
    }

    /// Waits until some queue may hold something: a wake meant for this worker, or the sweep.
    async fn something(&mut self, over: &CancellationToken) {
        let Some(ours) = &mut self.ours else {
            return self.join().await;
        };
        loop {
            tokio::select! {
                Some(wake) = ours.next() => return self.ready.wake(&wake.tenant, wake.lane, Instant::now()),
                // Another worker's, or ours too: there is room, so that it need not be noted.
                Some(_) = self.all.next() => {}
                _ = self.sweep.tick() => return self.ready.sweep(),
                () = over.cancelled() => return,
            }
        }
    }
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
