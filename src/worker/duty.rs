//! Whether this worker is to take work: an operator may cordon it, and take that back, or drain it, which ends it.
//!
//! A cordon lasts until it is taken back or the process ends, whatever becomes of the connection to NATS. A drain is for good.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use crate::bus::{orders::Order, registry::WorkerState};

/// What a worker is to do.
#[derive(Debug)]
pub(crate) struct Duty {
    cordoned: watch::Sender<bool>,
    draining: CancellationToken,
}

impl Duty {
    /// It is to take work.
    pub(crate) fn new() -> Self {
        Self {
            cordoned: watch::Sender::new(false),
            draining: CancellationToken::new(),
        }
    }

    /// Does as it is told. What is so already stays so; a drain cannot be taken back.
    pub(crate) fn obey(&self, order: Order) {
        match order {
            Order::Cordon => self.cordon(true),
            Order::Uncordon => self.cordon(false),
            Order::Drain => self.draining.cancel(),
        }
    }

    fn cordon(&self, on: bool) {
        let changed = self.cordoned.send_if_modified(|cordoned| {
            let changes = *cordoned != on;
            *cordoned = on;
            changes
        });
        if changed {
            let what = if on { "cordoned" } else { "uncordoned" };
            tracing::info!("the worker is {what}");
        }
    }

    /// Cancelled when the worker drains.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Whether it may take work.
    pub(crate) fn takes_work(&self) -> bool {
        !*self.cordoned.borrow() && !self.draining.is_cancelled()
    }

    /// Hears of every cordon, and of its end.
    pub(crate) fn listen(&self) -> watch::Receiver<bool> {
        self.cordoned.subscribe()
    }

    /// What the registry says of a worker of this health.
    pub(crate) fn state(&self, health: &Health) -> WorkerState {
        if self.draining.is_cancelled() {
            WorkerState::Draining
        } else if *self.cordoned.borrow() {
            WorkerState::Cordoned
        } else if health.is_well() {
            WorkerState::Ready
        } else {
            WorkerState::Unhealthy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::health::Part, *};

    #[test]
    fn a_cordon_can_be_taken_back_and_a_drain_cannot() {
        let (duty, health) = (Duty::new(), Health::new());
        let state = |order| {
            duty.obey(order);
            (duty.state(&health), duty.takes_work())
        };
        assert_eq!(state(Order::Uncordon), (WorkerState::Ready, true));
        for _ in 0..2 {
            assert_eq!(state(Order::Cordon), (WorkerState::Cordoned, false));
        }
        assert_eq!(state(Order::Uncordon), (WorkerState::Ready, true));
        assert_eq!(state(Order::Drain), (WorkerState::Draining, false));
        assert_eq!(state(Order::Uncordon), (WorkerState::Draining, false));
    }

    #[test]
    fn a_worker_that_cannot_run_anything_says_so() {
        let (duty, health) = (Duty::new(), Health::new());
        health.suspect(Part::Machine);
        assert_eq!(duty.state(&health), WorkerState::Unhealthy);
        duty.obey(Order::Cordon);
        assert_eq!(duty.state(&health), WorkerState::Cordoned);
    }
}
