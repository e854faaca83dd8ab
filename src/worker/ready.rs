//! Which queue to ask next: the queues that may hold something, in turns by weight (stride scheduling).
//!
//! A queue's pass grows by 1/weight with each message taken; the ready queue with the least pass is next. One that becomes
//! ready starts at the current time, so that it has no credit for having been empty.

use std::time::{Duration, Instant};

use crate::{
    bus::outage::Backoff,
    submission::names::{Lane, Tenant},
};

/// A wake is sent before the consumer is told of the message, so that the first pull after it may find nothing
/// (48 of 2,000 in a measurement): a pull within this time of a wake is made again.
const WAKE_RACE: Duration = Duration::from_millis(20);

/// What the stride of weight 1 is.
const STRIDE: u64 = 1 << 20;

/// How long a queue that could not be asked is left alone, the first time and at most: the others have their turn meanwhile.
const ASIDE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(4));

/// A tenant's lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueName {
    pub(crate) tenant: Tenant,
    pub(crate) lane: Lane,
}

#[derive(Debug)]
struct Queue {
    name: QueueName,
    stride: u64,
    pass: u64,
    ready: bool,
    woken: Option<Instant>,
    /// Not asked before this, since it could not be asked.
    aside: Option<(Instant, Backoff)>,
}

/// Every queue that a worker serves, and which of them may hold something.
#[derive(Debug)]
pub(crate) struct ReadySet {
    queues: Vec<Queue>,
    now: u64,
    /// The queue that is swept next.
    sweep: usize,
}

/// What to do after a pull that found nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterNothing {
    /// It was woken a moment ago: pull again shortly.
    Again,
    /// It is empty.
    Empty,
}

impl ReadySet {
    /// Both lanes of `tenants`; every queue may hold something at first.
    pub(crate) fn new(tenants: &[Tenant], interactive_weight: u32) -> Self {
        let queues = tenants
            .iter()
            .flat_map(|tenant| Lane::ALL.map(|lane| (tenant.clone(), lane)));
        let weight = |lane| match lane {
            Lane::Interactive => u64::from(interactive_weight.max(1)),
            Lane::Batch => 1,
        };
        let queues = queues.map(|(tenant, lane)| Queue {
            name: QueueName { tenant, lane },
            stride: STRIDE / weight(lane),
            pass: 0,
            ready: true,
            woken: None,
            aside: None,
        });
        Self {
            queues: queues.collect(),
            now: 0,
            sweep: 0,
        }
    }

    /// How many queues there are.
    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    /// The place of the queue to ask next.
    pub(crate) fn next(&self, at: Instant) -> Option<usize> {
        let ready = self.queues.iter().enumerate().filter(|(_, queue)| {
            queue.ready && queue.aside.as_ref().is_none_or(|(until, _)| at >= *until)
        });
        ready
            .min_by_key(|(_, queue)| queue.pass)
            .map(|(place, _)| place)
    }

    /// The queue at `place`.
    pub(crate) fn name(&self, place: usize) -> &QueueName {
        &self.queues[place].name
    }

    /// A message was published to a queue.
    pub(crate) fn wake(&mut self, tenant: &Tenant, lane: Lane, at: Instant) {
        if let Some(queue) = self
            .queues
            .iter_mut()
            .find(|queue| queue.name.lane == lane && queue.name.tenant == *tenant)
        {
            queue.woken = Some(at);
            queue.enter(self.now);
        }
    }

    /// The next queue in the round may hold something, a redelivery for example, which wakes nobody.
    pub(crate) fn sweep(&mut self) {
        if let Some(queue) = self.queues.get_mut(self.sweep) {
            queue.enter(self.now);
        }
        self.sweep = (self.sweep + 1) % self.queues.len().max(1);
    }

    /// Every queue may hold something.
    pub(crate) fn sweep_all(&mut self) {
        for queue in &mut self.queues {
            queue.enter(self.now);
        }
    }

    /// The queue at `place` could not be asked: it stays ready, and is left alone for a while.
    pub(crate) fn failed(&mut self, place: usize, at: Instant) {
        let queue = &mut self.queues[place];
        let (first, most) = ASIDE;
        let mut backoff = queue
            .aside
            .take()
            .map_or_else(|| Backoff::new(first, most), |(_, backoff)| backoff);
        queue.aside = Some((at + backoff.next_wait(), backoff));
    }

    /// A message was taken from the queue at `place`, and there may be `more`.
    pub(crate) fn taken(&mut self, place: usize, more: bool) {
        let queue = &mut self.queues[place];
        self.now = queue.pass;
        queue.pass += queue.stride;
        queue.ready = more;
        queue.woken = None;
        queue.aside = None;
    }

    /// Nothing was in the queue at `place`.
    pub(crate) fn nothing(&mut self, place: usize, at: Instant) -> AfterNothing {
        let queue = &mut self.queues[place];
        queue.aside = None;
        if queue
            .woken
            .is_some_and(|woken| at.duration_since(woken) < WAKE_RACE)
        {
            return AfterNothing::Again;
        }
        queue.ready = false;
        queue.woken = None;
        AfterNothing::Empty
    }
}

impl Queue {
    fn enter(&mut self, now: u64) {
        if !self.ready {
            self.ready = true;
            self.pass = self.pass.max(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants() -> Vec<Tenant> {
        vec![Tenant::default_tenant()]
    }

    #[test]
    fn lanes_take_turns_by_weight() {
        let mut ready = ReadySet::new(&tenants(), 4);
        let mut taken = [0, 0];
        for _ in 0..500 {
            let place = ready.next(Instant::now()).expect("both are full");
            taken[place] += 1;
            ready.taken(place, true);
        }
        assert_eq!(taken, [400, 100]);
    }

    #[test]
    fn an_empty_queue_is_asked_again_after_a_wake_or_a_sweep_only() {
        let mut ready = ReadySet::new(&tenants(), 1);
        let now = Instant::now();
        while let Some(place) = ready.next(Instant::now()) {
            assert_eq!(ready.nothing(place, now), AfterNothing::Empty);
        }
        ready.wake(&Tenant::default_tenant(), Lane::Batch, now);
        let place = ready.next(Instant::now()).expect("woken");
        assert_eq!(ready.name(place).lane, Lane::Batch);
        assert_eq!(
            ready.nothing(place, now + Duration::from_millis(5)),
            AfterNothing::Again
        );
        assert_eq!(
            ready.nothing(place, now + Duration::from_millis(50)),
            AfterNothing::Empty
        );
        assert_eq!(ready.next(Instant::now()), None);
        for lane in Lane::ALL {
            ready.sweep();
            let place = ready.next(Instant::now()).expect("swept");
            assert_eq!(ready.name(place).lane, lane, "one after the other");
            ready.nothing(place, now + Duration::from_millis(50));
        }
        ready.sweep_all();
        assert!(ready.next(Instant::now()).is_some());
    }

    #[test]
    fn a_queue_that_cannot_be_asked_does_not_hold_up_the_others() {
        let mut ready = ReadySet::new(&tenants(), 1);
        let now = Instant::now();
        let failing = ready.next(now).expect("both may hold something");
        ready.failed(failing, now);
        let other = ready.next(now).expect("the other one");
        assert_ne!(other, failing);
        ready.nothing(other, now);
        assert_eq!(ready.next(now), None);
        assert_eq!(ready.next(now + ASIDE.0), Some(failing));
        for _ in 0..20 {
            ready.failed(failing, now);
        }
        assert_eq!(
            ready.next(now + ASIDE.0),
            None,
            "it is left alone for longer"
        );
        assert_eq!(ready.next(now + ASIDE.1), Some(failing), "and not for ever");
        ready.nothing(failing, now);
        ready.sweep_all();
        ready.failed(failing, now);
        assert!(ready.next(now + ASIDE.0).is_some(), "an answer ends that");
    }

    #[test]
    fn a_queue_that_was_empty_has_no_credit() {
        let mut ready = ReadySet::new(&tenants(), 1);
        let empty = 1;
        ready.nothing(empty, Instant::now());
        for _ in 0..100 {
            ready.taken(0, true);
        }
        ready.sweep_all();
        let mut first_ten = [0, 0];
        for _ in 0..10 {
            let place = ready.next(Instant::now()).expect("both are full");
            first_ten[place] += 1;
            ready.taken(place, true);
        }
        assert_eq!(first_ten, [5, 5]);
    }
}
