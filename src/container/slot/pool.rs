//! The slots of a worker that wait, and who waits for one.
//!
//! A tenant gets the slot of its own that it used last (what that one knows is still in the caches), else a virgin, else one
//! is made for it: in free room, or in the room of another tenant's slot that has waited longest. A few virgins are made
//! ahead, as many as were asked for of late and at least one, so that a new tenant finds one too.
//!
//! The invariant: there are never more than `capacity` slots, whatever they are; each has a [`Seat`], which is free again when
//! the slot is dropped. One task (`keep`) decides what is made and what goes; whoever changes something wakes it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    life::{Bound, Slot, Terms, Virgin},
    make::SlotMaker,
};
use crate::{
    container::ContainerError,
    submission::{names::Tenant, result::Start},
};

/// Takes of virgins within this time are taken for what comes next.
const RECENT: Duration = Duration::from_secs(10);

/// After a failed start, how long none is made ahead: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Starts at a time: past a few the Engine only gets slower.
const STARTS: usize = 4;

/// The slots of a worker.
pub(super) struct SlotPool {
    maker: SlotMaker,
    /// The most slots there are.
    capacity: usize,
    /// Submissions at a time, and the most virgins.
    at_a_time: usize,
    idle_for: Duration,
    terms: Terms,
    starts: Semaphore,
    seats: Arc<Seats>,
    state: Mutex<State>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Tenants' slots that wait, the one that was used last at the end.
    bound: Vec<Waiting<Bound>>,
    /// The oldest first.
    virgins: VecDeque<Waiting<Virgin>>,
    takers: VecDeque<Taker>,
    /// Whose slots are just being cleared after a submission: they will wait again in a moment.
    clearing: Vec<Tenant>,
    /// Starts under way.
    starting: usize,
    /// When virgins were wanted, within [`RECENT`].
    wanted: VecDeque<Instant>,
    /// Starts that failed since one succeeded.
    failures: u32,
    /// No start ahead before this.
    not_before: Option<Instant>,
    /// When `keep` looks again, whatever happens.
    next_look: Option<Instant>,
}

struct Waiting<State> {
    slot: Slot<State>,
    since: Instant,
}

/// Who waits for a slot.
struct Taker {
    tenant: Tenant,
    /// Only a slot that nobody had will do.
    fresh: bool,
    answer: oneshot::Sender<Answer>,
}

/// A slot, and whether it was made for who gets it.
type Answer = Result<(Slot<Bound>, Start), ContainerError>;

/// How a take goes on.
enum Claim {
    Waiting(Box<Slot<Bound>>),
    Coming(oneshot::Receiver<Answer>),
}

/// How many slots there are.
#[derive(Default)]
struct Seats {
    taken: AtomicUsize,
    /// Something changed that `keep` should look at.
    changed: Notify,
}

/// A slot's place among those that there may be.
pub(super) struct Seat(Arc<Seats>);

impl Seat {
    fn take(seats: &Arc<Seats>) -> Self {
        seats.taken.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(seats))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

impl SlotPool {
    /// Makes the first slot, and goes on from there.
    pub(super) async fn start(
        maker: SlotMaker,
        at_a_time: usize,
    ) -> Result<Arc<Self>, ContainerError> {
        let at_a_time = at_a_time.max(1);
        let seats = Arc::new(Seats::default());
        let first = maker.make(Seat::take(&seats)).await?;
        let config = &maker.starter.config;
        let pool = Arc::new(Self {
            // Room for every submission at a time, whatever is configured: none waits for another's slot.
            capacity: config.pool_size.unwrap_or(at_a_time * 2).max(at_a_time),
            at_a_time,
            idle_for: config.pool_idle_us.duration(),
            terms: Terms {
                uses: config.slot_uses,
                age: config.slot_age_us.duration(),
            },
            starts: Semaphore::new(at_a_time.min(STARTS)),
            seats,
            state: Mutex::default(),
            tasks: maker.starter.remover.tasks.clone(),
            closing: maker.starter.remover.closing.clone(),
            maker,
        });
        pool.state().virgins.push_back(Waiting::now(first));
        pool.tasks.spawn(pool.clone().keep());
        Ok(pool)
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.maker.starter.remover.engine.call_timeout()
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// A slot for `tenant`, and whether it waited; `fresh`: one that nobody had.
    pub(super) async fn take(&self, tenant: &Tenant, fresh: bool) -> Answer {
        loop {
            match self.claim(tenant, fresh)? {
                Claim::Waiting(slot) if slot.is_well() => return Ok((*slot, Start::Pooled)),
                Claim::Waiting(slot) => {
                    warn!(
                        slot = slot.name(),
                        "a slot died in the pool; another is taken"
                    );
                    slot.retire("it died in the pool").destroy();
                }
                Claim::Coming(coming) => {
                    return coming.await.unwrap_or(Err(ContainerError::Closed));
                }
            }
        }
    }

    fn claim(&self, tenant: &Tenant, fresh: bool) -> Result<Claim, ContainerError> {
        let now = Instant::now();
        let mut state = self.state();
        if self.closing.is_cancelled() {
            return Err(ContainerError::Closed);
        }
        if !fresh && let Some(slot) = state.own(tenant, now, self.terms) {
            return Ok(Claim::Waiting(Box::new(slot)));
        }
        state.want(now);
        let claim = if let Some(virgin) = state.virgins.pop_front() {
            Claim::Waiting(Box::new(virgin.slot.bind(tenant.clone())))
        } else {
            let (answer, coming) = oneshot::channel();
            let tenant = tenant.clone();
            state.takers.push_back(Taker {
                tenant,
                fresh,
                answer,
            });
            Claim::Coming(coming)
        };
        self.seats.changed.notify_one();
        Ok(claim)
    }

    /// Whether a slot can be made: one is, and let go of. It is one more for a moment, so that a full pool can be probed.
    pub(super) async fn probe(&self) -> Result<(), ContainerError> {
        if self.closing.is_cancelled() {
            return Err(ContainerError::Closed);
        }
        // Never closed.
        let _permit = self.starts.acquire().await;
        let seat = Seat::take(&Arc::default());
        self.maker.make(seat).await.map(drop)
    }

    /// Ends the submission in `slot`, in the background.
    pub(super) fn close_submission(self: Arc<Self>, slot: Slot<Bound>) {
        let tasks = self.tasks.clone();
        let (tenant, patience) = (slot.tenant().clone(), self.call_timeout());
        self.state().clearing.push(tenant.clone());
        tasks.spawn(async move {
            let closed = slot.close_submission(self.terms, patience).await;
            let mut state = self.state();
            if let Some(place) = state.clearing.iter().position(|it| *it == tenant) {
                state.clearing.swap_remove(place);
            }
            drop(state);
            match closed {
                Ok(slot) => self.put_back(slot),
                Err(retired) => retired.destroy(),
            }
        });
    }

    /// Takes back a slot that is as it was before: for who waits of its tenant, else to wait itself.
    pub(super) fn put_back(&self, slot: Slot<Bound>) {
        let mut state = self.state();
        if self.closing.is_cancelled() {
            drop(state);
            return drop(slot);
        }
        let Some(slot) = state.hand_to_its_tenant(slot) else {
            return;
        };
        let slot = Waiting::now(slot);
        let due = (slot.since + self.idle_for).min(slot.slot.expires(self.terms));
        state.bound.push(slot);
        // Mostly there is nothing to decide: `keep` looks before this slot has waited too long.
        if !state.takers.is_empty() || state.next_look.is_none_or(|at| at > due) {
            self.seats.changed.notify_one();
        }
    }

    /// Lets go of every slot that waits.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        let (bound, virgins) = (
            std::mem::take(&mut state.bound),
            std::mem::take(&mut state.virgins),
        );
        state.takers.clear();
        drop(state);
        drop((bound, virgins));
    }

    /// Makes what is wanted, and lets go of what is not.
    async fn keep(self: Arc<Self>) {
        loop {
            let now = Instant::now();
            let (gone, next) = self.decide(now);
            drop(gone);
            let later = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.closing.cancelled() => return self.clear(),
                () = self.seats.changed.notified() => {}
                () = later => {}
            }
        }
    }

    /// Begins the starts that are wanted. What is to go, to be dropped without the lock, and when to look again.
    fn decide(self: &Arc<Self>, now: Instant) -> (Gone, Option<Instant>) {
        let mut state = self.state();
        let mut gone = state.expire(now, self.idle_for, self.terms, self.at_a_time);
        state.takers.retain(|taker| !taker.answer.is_closed());
        while state.starting < state.takers_of_new().count() {
            if !self.begin(&mut state) {
                // The seat is free when it is dropped, and `keep` comes here again.
                gone.bound.extend(state.evict());
                break;
            }
        }
        while state.may_start_ahead(now)
            && state.ahead() < state.virgins_wanted(now, self.at_a_time)
            && self.begin(&mut state)
        {}
        state.next_look = state.next_change(self.idle_for, self.terms, now);
        (gone, state.next_look)
    }

    /// Begins a start, if there is room.
    fn begin(self: &Arc<Self>, state: &mut State) -> bool {
        if self.closing.is_cancelled() || self.seats.taken.load(Ordering::Relaxed) >= self.capacity
        {
            return false;
        }
        state.starting += 1;
        let (pool, seat) = (Arc::clone(self), Seat::take(&self.seats));
        self.tasks.spawn(async move {
            // Never closed.
            let _permit = pool.starts.acquire().await;
            let made = if pool.closing.is_cancelled() {
                Err(ContainerError::Closed)
            } else {
                pool.maker.make(seat).await
            };
            pool.deliver(made);
        });
        true
    }

    /// Gives what was made to who waits longest, or lets it wait.
    fn deliver(&self, made: Result<Slot<Virgin>, ContainerError>) {
        let mut state = self.state();
        state.starting -= 1;
        let left = match made {
            Ok(slot) => {
                state.failures = 0;
                state.not_before = None;
                state.hand_out(slot)
            }
            Err(error) => {
                state.fail(error);
                None
            }
        };
        if let Some(slot) = left {
            if self.closing.is_cancelled() {
                drop(state);
                drop(slot);
            } else {
                state.virgins.push_back(Waiting::now(slot));
            }
        }
        self.seats.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Slots that go.
#[derive(Default)]
struct Gone {
    bound: Vec<Waiting<Bound>>,
    virgins: Vec<Waiting<Virgin>>,
}

impl<State> Waiting<State> {
    fn now(slot: Slot<State>) -> Self {
        let since = Instant::now();
        Self { slot, since }
    }
}

impl State {
    /// The slot of `tenant` that it used last.
    fn own(&mut self, tenant: &Tenant, now: Instant, terms: Terms) -> Option<Slot<Bound>> {
        let is_own =
            |it: &Waiting<Bound>| it.slot.tenant() == tenant && it.slot.expires(terms) > now;
        let place = self.bound.iter().rposition(is_own)?;
        Some(self.bound.remove(place).slot)
    }

    /// Notes that a virgin is wanted.
    fn want(&mut self, now: Instant) {
        self.wanted.push_back(now);
        while self.wanted.front().is_some_and(|at| *at + RECENT < now) {
            self.wanted.pop_front();
        }
    }

    fn virgins_wanted(&self, now: Instant, most: usize) -> usize {
        let recent = self.wanted.iter().filter(|at| **at + RECENT >= now).count();
        recent.clamp(1, most)
    }

    /// The places of those who wait and need a slot that is not there yet.
    fn takers_of_new(&self) -> impl Iterator<Item = usize> {
        let mut clearing: Vec<&Tenant> = self.clearing.iter().collect();
        let takers = self.takers.iter().enumerate();
        let need_new = takers.filter(move |(_, taker)| {
            let own = clearing.iter().position(|it| **it == taker.tenant);
            let own = own.filter(|_| !taker.fresh);
            own.map(|place| clearing.swap_remove(place)).is_none()
        });
        need_new.map(|(place, _)| place)
    }

    /// The virgins that wait or will.
    fn ahead(&self) -> usize {
        self.virgins.len() + self.starting.saturating_sub(self.takers_of_new().count())
    }

    fn may_start_ahead(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Gives `slot` to who waits longest. Returned if nobody does.
    fn hand_out(&mut self, slot: Slot<Virgin>) -> Option<Slot<Virgin>> {
        while let Some(taker) = self.takers.pop_front() {
            // Asked before it is bound: there would be no way back.
            if !taker.answer.is_closed() {
                // Gone since: then the slot goes too.
                let slot = slot.bind(taker.tenant);
                let _ = taker.answer.send(Ok((slot, Start::Cold)));
                return None;
            }
        }
        Some(slot)
    }

    /// Gives `slot` to who waits longest of its tenant. Returned if nobody does.
    fn hand_to_its_tenant(&mut self, slot: Slot<Bound>) -> Option<Slot<Bound>> {
        let mut answer = Ok((slot, Start::Pooled));
        while let Ok((slot, _)) = &answer
            && let Some(place) = self
                .takers
                .iter()
                .position(|it| !it.fresh && it.tenant == *slot.tenant())
            && let Some(taker) = self.takers.remove(place)
        {
            match taker.answer.send(answer) {
                Ok(()) => return None,
                Err(back) => answer = back,
            }
        }
        answer.ok().map(|(slot, _)| slot)
    }

    /// A start failed. Who waits longest is told, if no other start will serve them.
    fn fail(&mut self, error: ContainerError) {
        self.failures = self.failures.saturating_add(1);
        let wait = BACKOFF.0 * 2_u32.saturating_pow(self.failures.min(8) - 1);
        self.not_before = Some(Instant::now() + wait.min(BACKOFF.1));
        self.takers.retain(|taker| !taker.answer.is_closed());
        if !matches!(error, ContainerError::Closed) {
            warn!(%error, "a slot could not be made");
        }
        let needs_new = self.takers_of_new().next();
        if self.takers_of_new().count() > self.starting
            && let Some(taker) = needs_new.and_then(|place| self.takers.remove(place))
        {
            // Who has gone since needs no answer.
            let _ = taker.answer.send(Err(error));
        }
    }

    /// The slot of a tenant that has waited longest.
    fn evict(&mut self) -> Option<Waiting<Bound>> {
        (!self.bound.is_empty()).then(|| self.bound.remove(0))
    }

    /// What waited for too long, or is too old. One virgin always stays.
    fn expire(&mut self, now: Instant, idle_for: Duration, terms: Terms, most: usize) -> Gone {
        let mut gone = Gone::default();
        let over =
            |it: &mut Waiting<Bound>| it.since + idle_for <= now || it.slot.expires(terms) <= now;
        gone.bound.extend(self.bound.extract_if(.., over));
        let wanted = self.virgins_wanted(now, most);
        while self.virgins.len() > wanted
            && let Some(virgin) = self.virgins.pop_front_if(|it| it.since + idle_for <= now)
        {
            gone.virgins.push(virgin);
        }
        gone
    }

    /// When something expires or may be tried again.
    fn next_change(&self, idle_for: Duration, terms: Terms, now: Instant) -> Option<Instant> {
        let bound = self
            .bound
            .iter()
            .map(|it| (it.since + idle_for).min(it.slot.expires(terms)));
        let virgins = self.virgins.iter().skip(1).map(|it| it.since + idle_for);
        let retry = self.not_before.filter(|at| *at > now);
        // What is past already waits for something else than time.
        bound
            .chain(virgins)
            .chain(retry)
            .filter(|at| *at > now)
            .min()
    }
}
