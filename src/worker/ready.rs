//! Which queue to ask next: the queues that may hold something, in turns by weight (stride scheduling).
//!
//! A queue's pass grows by 1/weight with each message taken; the ready queue with the least pass is next. One that becomes
//! ready starts at the current time, so that it has no credit for having been empty.

use std::time::{Duration, Instant};

use crate::submission::names::{Lane, Tenant};

/// A wake is sent before the consumer is told of the message, so that the first pull after it may find nothing
/// (48 of 2,000 in a measurement): a pull within this time of a wake is made again.
const WAKE_RACE: Duration = Duration::from_millis(20);

/// What the stride of weight 1 is.
const STRIDE: u64 = 1 << 20;

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
}

/// Every queue that a worker serves, and which of them may hold something.
#[derive(Debug)]
pub(crate) struct ReadySet {
    queues: Vec<Queue>,
    now: u64,
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
        });
        Self {
            queues: queues.collect(),
            now: 0,
        }
    }

    /// The place of the queue to ask next.
    pub(crate) fn next(&self) -> Option<usize> {
        let ready = self
            .queues
            .iter()
            .enumerate()
            .filter(|(_, queue)| queue.ready);
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

    /// Time for the sweep: every queue may hold something, a redelivery for example, which wakes nobody.
    pub(crate) fn sweep(&mut self) {
        for queue in &mut self.queues {
            queue.enter(self.now);
        }
    }

    /// A message was taken from the queue at `place`, and `pending` more are there.
    pub(crate) fn taken(&mut self, place: usize, pending: u64) {
        let queue = &mut self.queues[place];
        self.now = queue.pass;
        queue.pass += queue.stride;
        queue.ready = pending > 0;
        queue.woken = None;
    }

    /// Nothing was in the queue at `place`.
    pub(crate) fn nothing(&mut self, place: usize, at: Instant) -> AfterNothing {
        let queue = &mut self.queues[place];
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
            let place = ready.next().expect("both are full");
            taken[place] += 1;
            ready.taken(place, 1);
        }
        assert_eq!(taken, [400, 100]);
    }

    #[test]
    fn an_empty_queue_is_asked_again_after_a_wake_or_a_sweep_only() {
        let mut ready = ReadySet::new(&tenants(), 1);
        let now = Instant::now();
        while let Some(place) = ready.next() {
            assert_eq!(ready.nothing(place, now), AfterNothing::Empty);
        }
        ready.wake(&Tenant::default_tenant(), Lane::Batch, now);
        let place = ready.next().expect("woken");
        assert_eq!(ready.name(place).lane, Lane::Batch);
        assert_eq!(
            ready.nothing(place, now + Duration::from_millis(5)),
            AfterNothing::Again
        );
        assert_eq!(
            ready.nothing(place, now + Duration::from_millis(50)),
            AfterNothing::Empty
        );
        assert_eq!(ready.next(), None);
        ready.sweep();
        assert!(ready.next().is_some());
    }

    #[test]
    fn a_queue_that_was_empty_has_no_credit() {
        let mut ready = ReadySet::new(&tenants(), 1);
        let empty = 1;
        ready.nothing(empty, Instant::now());
        for _ in 0..100 {
            ready.taken(0, 1);
        }
        ready.sweep();
        let mut first_ten = [0, 0];
        for _ in 0..10 {
            let place = ready.next().expect("both are full");
            first_ten[place] += 1;
            ready.taken(place, 1);
        }
        assert_eq!(first_ten, [5, 5]);
    }
}
