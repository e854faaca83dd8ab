//! Containers that are started ahead. Each kind (image and size of the work directory) has a shelf; what is taken from it is
//! used once and never comes back.
//!
//! A take is served by an idle container, else by the next that becomes ready on its shelf: one is started for it unless
//! one is already under way. After a take the shelf is filled up to what was taken of late, so that the next finds one.
//! The invariant: idle containers and the ones that are started to become idle are never more than `capacity`, over all
//! shelves; when there is no room, the shelf that was used least recently gives one up.
//!
//! Every start is a task of its own that is never dropped half-way, whatever becomes of the one who asked for it.

#![expect(clippy::similar_names, reason = "nobody takes a `shelf` for `self`")]

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{Container, ContainerError, Request, make::Maker};
use crate::submission::units::ByteSize;

/// Takes within this time are taken for what comes next.
const RECENT: Duration = Duration::from_secs(10);

/// After a failed start, how long a shelf is not filled in the background: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Starts at a time, the fewest and the most: past a few the Engine only gets slower.
const STARTS: (usize, usize) = (2, 4);

/// The containers that are started ahead.
pub(super) struct Pool {
    maker: Maker,
    capacity: usize,
    /// The most that one shelf is filled to.
    slots: usize,
    idle_for: Duration,
    /// Permits to start a container.
    starts: Semaphore,
    /// Permits to want one for starting ahead: fewer, so that who waits for a container always finds one free soon.
    ahead: Semaphore,
    shelves: Mutex<HashMap<Key, Shelf>>,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// An idle container came.
    shelved: Notify,
}

/// What makes containers interchangeable. Limits do not: they are changed when a stage needs it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    image: String,
    disk_bytes: ByteSize,
    inodes: u64,
}

type Answer = Result<Container, ContainerError>;

/// The containers of one kind.
struct Shelf {
    /// What the next containers are made for.
    request: Request,
    /// The longest there first.
    idle: VecDeque<Idle>,
    waiters: VecDeque<oneshot::Sender<Answer>>,
    /// Starts under way.
    serving: usize,
    /// Starts ahead that have not begun.
    queued: usize,
    /// When it was taken from, within [`RECENT`] and the last time.
    takes: VecDeque<Instant>,
    /// Starts that failed since one succeeded.
    failures: u32,
    /// No start ahead before this.
    not_before: Option<Instant>,
}

struct Idle {
    container: Container,
    since: Instant,
}

/// How a take goes on.
enum Claim {
    Idle(Box<Container>),
    Coming(oneshot::Receiver<Answer>),
}

/// Who a start is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Somebody waits.
    Now,
    /// The shelf.
    Ahead,
}

impl Pool {
    pub(super) fn new(maker: Maker, slots: usize) -> Arc<Self> {
        let slots = slots.max(1);
        let starts = slots.clamp(STARTS.0, STARTS.1);
        let pool = Arc::new(Self {
            capacity: maker.starter.config.pool_size.unwrap_or(slots * 2),
            slots,
            idle_for: maker.starter.config.pool_idle_us.duration(),
            starts: Semaphore::new(starts),
            ahead: Semaphore::new(starts / 2),
            shelves: Mutex::default(),
            tasks: maker.starter.remover.tasks.clone(),
            closing: maker.starter.remover.closing.clone(),
            shelved: Notify::new(),
            maker,
        });
        pool.tasks.spawn(pool.clone().expire());
        pool
    }

    /// A container for `request`, from its shelf if there is one.
    pub(super) async fn take(self: &Arc<Self>, request: &Request) -> Answer {
        loop {
            match self.claim(request)? {
                Claim::Idle(container) if container.is_well() => return Ok(container.pooled()),
                Claim::Idle(container) => {
                    warn!(
                        container = container.name(),
                        "a container died in the pool; another is taken"
                    );
                }
                Claim::Coming(coming) => {
                    return coming.await.unwrap_or(Err(ContainerError::Closed));
                }
            }
        }
    }

    /// Whether a container can be made: one is, of an image of ours, and let go of.
    pub(super) async fn probe(&self) -> Result<(), ContainerError> {
        if self.closing.is_cancelled() {
            return Err(ContainerError::Closed);
        }
        // Never closed.
        let _permit = self.starts.acquire().await;
        self.maker.probe().await
    }

    fn claim(self: &Arc<Self>, request: &Request) -> Result<Claim, ContainerError> {
        let key = Key::of(request);
        let mut shelves = self.shelves();
        if self.closing.is_cancelled() {
            return Err(ContainerError::Closed);
        }
        let shelf = shelves
            .entry(key.clone())
            .or_insert_with(|| Shelf::new(request));
        shelf.note_take(request);
        let claim = if let Some(idle) = shelf.idle.pop_front() {
            Claim::Idle(Box::new(idle.container))
        } else {
            let (sender, receiver) = oneshot::channel();
            shelf.waiters.retain(|waiter| !waiter.is_closed());
            shelf.waiters.push_back(sender);
            if shelf.serving < shelf.waiters.len() {
                shelf.serving += 1;
                self.tasks
                    .spawn(self.clone().start(key.clone(), Purpose::Now));
            }
            Claim::Coming(receiver)
        };
        let evicted = self.fill(&mut shelves, &key);
        drop(shelves);
        drop(evicted);
        Ok(claim)
    }

    /// Starts as many containers ahead as the shelf lacks. What had to make room is returned, to be dropped without the lock.
    fn fill(self: &Arc<Self>, shelves: &mut HashMap<Key, Shelf>, key: &Key) -> Vec<Container> {
        let mut evicted = Vec::new();
        let now = Instant::now();
        while shelves.get(key).is_some_and(|shelf| {
            shelf.may_start_ahead(now) && shelf.ready() < shelf.demand(now).min(self.slots)
        }) {
            if shelves.values().map(Shelf::ready).sum::<usize>() >= self.capacity {
                match evict(shelves, key) {
                    Some(container) => evicted.push(container),
                    None => break,
                }
            }
            if let Some(shelf) = shelves.get_mut(key) {
                shelf.queued += 1;
            }
            self.tasks
                .spawn(self.clone().start(key.clone(), Purpose::Ahead));
        }
        evicted
    }

    /// Makes one container, and gives it to who waits or to the shelf.
    async fn start(self: Arc<Self>, key: Key, purpose: Purpose) {
        // The semaphores are never closed.
        let _ahead = match purpose {
            Purpose::Now => None,
            Purpose::Ahead => self.ahead.acquire().await.ok(),
        };
        let start = self.starts.acquire().await;
        let Some(request) = self.begin(&key, purpose) else {
            return;
        };
        let made = if self.closing.is_cancelled() {
            Err(ContainerError::Closed)
        } else {
            self.maker.make(&request).await
        };
        drop(start);
        self.deliver(&key, purpose, made);
    }

    /// What to make, unless it is not wanted any more.
    fn begin(&self, key: &Key, purpose: Purpose) -> Option<Request> {
        let mut shelves = self.shelves();
        let shelf = shelves.get_mut(key)?;
        if purpose == Purpose::Ahead {
            shelf.queued -= 1;
            if self.closing.is_cancelled() {
                return None;
            }
            shelf.serving += 1;
        }
        Some(shelf.request.clone())
    }

    fn deliver(self: &Arc<Self>, key: &Key, purpose: Purpose, made: Answer) {
        let mut shelves = self.shelves();
        let Some(shelf) = shelves.get_mut(key) else {
            return;
        };
        shelf.serving -= 1;
        let left = match made {
            Ok(container) => {
                shelf.failures = 0;
                shelf.not_before = None;
                shelf.hand_out(container)
            }
            Err(error) => {
                if shelf.fail(error, purpose) {
                    shelf.serving += 1;
                    self.tasks
                        .spawn(self.clone().start(key.clone(), Purpose::Now));
                }
                None
            }
        };
        let Some(container) = left else { return };
        let ready: usize = shelves.values().map(Shelf::ready).sum();
        if !self.closing.is_cancelled()
            && ready < self.capacity
            && let Some(shelf) = shelves.get_mut(key)
        {
            let since = Instant::now();
            shelf.idle.push_back(Idle { container, since });
            self.shelved.notify_one();
        } else {
            drop(shelves);
            debug!(
                container = container.name(),
                "a container is not wanted any more"
            );
        }
    }

    /// Removes what was idle for too long. Sleeps until there is something to do.
    async fn expire(self: Arc<Self>) {
        loop {
            let (expired, next) = self.take_expired(Instant::now());
            drop(expired);
            let expiry = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = self.shelved.notified() => {}
                () = expiry => {}
            }
        }
    }

    /// The containers that are idle for too long, and when to look again. Shelves that nobody uses go with them.
    fn take_expired(&self, now: Instant) -> (Vec<Container>, Option<Instant>) {
        let mut expired = Vec::new();
        let mut shelves = self.shelves();
        for shelf in shelves.values_mut() {
            while let Some(idle) = shelf
                .idle
                .pop_front_if(|idle| idle.since + self.idle_for <= now)
            {
                expired.push(idle.container);
            }
        }
        shelves.retain(|_, shelf| shelf.is_in_use() || shelf.last_take() + self.idle_for > now);
        let next = shelves.values().filter_map(|shelf| {
            let idle = shelf.idle.front().map(|idle| idle.since);
            let unused = (!shelf.is_in_use()).then(|| shelf.last_take());
            Some(idle.or(unused)? + self.idle_for)
        });
        let next = next.min();
        (expired, next)
    }

    /// Lets go of every idle container. Starts that are under way end with nobody to give to.
    pub(super) fn clear(&self) {
        let mut idle = Vec::new();
        let mut shelves = self.shelves();
        for shelf in shelves.values_mut() {
            idle.extend(shelf.idle.drain(..));
        }
        drop(shelves);
        drop(idle);
    }

    fn shelves(&self) -> MutexGuard<'_, HashMap<Key, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An idle container of the shelf that was used least recently, other than `keep`.
fn evict(shelves: &mut HashMap<Key, Shelf>, keep: &Key) -> Option<Container> {
    let others = shelves
        .iter_mut()
        .filter(|(key, shelf)| *key != keep && !shelf.idle.is_empty());
    let (_, shelf) = others.min_by_key(|(_, shelf)| shelf.last_take())?;
    Some(shelf.idle.pop_front()?.container)
}

impl Key {
    fn of(request: &Request) -> Self {
        Self {
            image: request.image.clone(),
            disk_bytes: request.disk_bytes,
            inodes: request.inodes,
        }
    }
}

impl Shelf {
    fn new(request: &Request) -> Self {
        Self {
            request: request.clone(),
            idle: VecDeque::new(),
            waiters: VecDeque::new(),
            serving: 0,
            queued: 0,
            takes: VecDeque::new(),
            failures: 0,
            not_before: None,
        }
    }

    fn note_take(&mut self, request: &Request) {
        let now = Instant::now();
        self.request = request.clone();
        self.takes.push_back(now);
        while self.takes.len() > 1 && self.takes.front().is_some_and(|at| *at + RECENT < now) {
            self.takes.pop_front();
        }
    }

    fn last_take(&self) -> Instant {
        // A shelf is made by its first take.
        self.takes.back().copied().unwrap_or_else(Instant::now)
    }

    /// How many are taken in a while; at least one, since it was taken from.
    fn demand(&self, now: Instant) -> usize {
        let recent = self.takes.iter().filter(|at| **at + RECENT >= now);
        recent.count().max(1)
    }

    /// What is idle or will be.
    fn ready(&self) -> usize {
        let coming = self.serving + self.queued;
        self.idle.len() + coming.saturating_sub(self.waiters.len())
    }

    fn may_start_ahead(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    fn is_in_use(&self) -> bool {
        !self.idle.is_empty() || !self.waiters.is_empty() || self.serving + self.queued > 0
    }

    /// Gives `container` to who waits longest. Returned if nobody does.
    fn hand_out(&mut self, container: Container) -> Option<Container> {
        let mut container = Ok(container);
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.send(container) {
                Ok(()) => return None,
                Err(back) => container = back,
            }
        }
        container.ok()
    }

    /// A start failed. Who waits is told, if it was theirs and no other will serve them. True if it was for the shelf, and
    /// somebody counted on it: they get a start of their own.
    fn fail(&mut self, error: ContainerError, purpose: Purpose) -> bool {
        self.failures = self.failures.saturating_add(1);
        let wait = BACKOFF.0 * 2_u32.saturating_pow(self.failures.min(8) - 1);
        self.not_before = Some(Instant::now() + wait.min(BACKOFF.1));
        self.waiters.retain(|waiter| !waiter.is_closed());
        let mut answer = Err(error);
        while purpose == Purpose::Now
            && self.waiters.len() > self.serving
            && let Some(waiter) = self.waiters.pop_front()
        {
            match waiter.send(answer) {
                Ok(()) => return false,
                Err(back) => answer = back,
            }
        }
        if let Err(error) = answer
            && !matches!(error, ContainerError::Closed)
        {
            warn!(%error, image = self.request.image, "a container could not be started ahead");
        }
        self.waiters.len() > self.serving
    }
}
