//! Admission: a worker asks for a message only when a slot and memory for it are free.
//!
//! What a submission needs is known only once it was read, so that a pull reserves what the runtimes' defaults need, and
//! [`Admitted::fit`] trades that for the real need; [`Admitted::alone`] trades the slot for all of them. Both give back before they
//! wait, so that no two submissions hold a part each and wait for the other's; the semaphores are fair, so that a large one is not
//! passed by small ones for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::submission::units::ByteSize;

/// Memory is counted in whole MiB: a semaphore counts to 2^32 at least.
const UNIT: u64 = 1 << 20;

/// The slots and the memory of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    slots: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    /// How many slots there are.
    count: u32,
    /// How many submissions wait for all of them.
    waiting: Arc<watch::Sender<u32>>,
    budget: ByteSize,
    reserve: u32,
}

/// A place for one submission; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Admitted {
    slot: OwnedSemaphorePermit,
    reserved: OwnedSemaphorePermit,
    admission: Admission,
}

/// A submission needs more memory than this worker has in all.
#[derive(Debug, thiserror::Error)]
#[error(
    "it needs {need} of memory, and this worker has {budget} for all submissions (worker.memory_bytes)"
)]
pub(crate) struct TooLarge {
    need: ByteSize,
    budget: ByteSize,
}

impl Admission {
    /// `slots` places and `budget` bytes of memory, of which each pull reserves `reserve` until the need is known.
    pub(crate) fn new(slots: usize, budget: ByteSize, reserve: ByteSize) -> Self {
        let budget = in_whole_units(budget);
        let units = in_units(budget);
        let count = u32::try_from(slots).unwrap_or(u32::MAX);
        Self {
            slots: Arc::new(Semaphore::new(count as usize)),
            memory: Arc::new(Semaphore::new(units as usize)),
            count,
            waiting: Arc::default(),
            budget,
            reserve: in_units(reserve).min(units),
        }
    }

    /// Waits until somebody waits for all the slots: who holds one without running anything gives it back then.
    pub(crate) async fn all_are_wanted(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives in `self`, so that waiting cannot fail.
        let _ = waiting.wait_for(|waiting| *waiting > 0).await;
    }

    /// Waits for a free slot and the reserve.
    pub(crate) async fn admit(&self) -> Admitted {
        let slot = acquire(&self.slots, 1).await;
        let reserved = acquire(&self.memory, self.reserve).await;
        Admitted {
            slot,
            reserved,
            admission: self.clone(),
        }
    }
}

impl Admitted {
    /// Holds memory for `need` from now on; waits for it where it is more than the reserve.
    pub(crate) async fn fit(&mut self, need: ByteSize) -> Result<(), TooLarge> {
        let budget = self.admission.budget;
        if need > budget {
            return Err(TooLarge { need, budget });
        }
        let units = in_units(need).max(1);
        let held = u32::try_from(self.reserved.num_permits()).unwrap_or(u32::MAX);
        if units <= held {
            drop(self.reserved.split((held - units) as usize));
        } else {
            give_back(&mut self.reserved);
            self.reserved = acquire(&self.admission.memory, units).await;
        }
        Ok(())
    }

    /// Holds every slot from now on: waits until nothing else runs, and nothing else begins. The memory is to be held anew by
    /// [`Self::fit`].
    pub(crate) async fn alone(&mut self) {
        give_back(&mut self.reserved);
        give_back(&mut self.slot);
        let _waiting = Waiting::begin(&self.admission.waiting);
        self.slot = acquire(&self.admission.slots, self.admission.count).await;
    }
}

/// Counts among those who wait, as long as it lives.
struct Waiting<'a>(&'a watch::Sender<u32>);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a watch::Sender<u32>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

fn give_back(permits: &mut OwnedSemaphorePermit) {
    drop(permits.split(permits.num_permits()));
}

/// What of `budget` can be held: a part of a unit is never free.
pub(crate) fn in_whole_units(budget: ByteSize) -> ByteSize {
    ByteSize(budget.0 / UNIT * UNIT)
}

fn in_units(size: ByteSize) -> u32 {
    u32::try_from(size.0.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: u32) -> OwnedSemaphorePermit {
    Arc::clone(semaphore)
        .acquire_many_owned(permits)
        .await
        .expect("the semaphores of admission are never closed")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn mib(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }

    #[tokio::test]
    async fn no_more_is_admitted_than_slots_and_memory_hold() {
        let admission = Admission::new(3, mib(100), mib(40));
        let first = admission.admit().await;
        let second = admission.admit().await;
        assert!(
            admission.admit().now_or_never().is_none(),
            "20 MiB are left"
        );
        drop(first);
        assert!(admission.admit().now_or_never().is_some());
        drop(second);
    }

    #[tokio::test]
    async fn two_that_need_all_the_memory_do_not_wait_for_each_other() {
        let admission = Admission::new(2, mib(100), mib(40));
        let (mut first, mut second) = (admission.admit().await, admission.admit().await);
        let large = tokio::spawn(async move {
            first.fit(mib(100)).await.expect("it fits");
        });
        tokio::task::yield_now().await;
        let other = tokio::spawn(async move {
            second.fit(mib(100)).await.expect("it fits");
        });
        large.await.expect("the first had its turn");
        other.await.expect("the second had its turn");
    }

    #[tokio::test]
    async fn more_than_there_is_at_all_is_refused() {
        // Half a unit is never free.
        for budget in [mib(100), ByteSize(mib(100).0 + UNIT / 2)] {
            let admission = Admission::new(1, budget, mib(40));
            for need in [mib(101), ByteSize(mib(100).0 + 1)] {
                let fit = admission.admit().await.fit(need).now_or_never();
                assert!(fit.expect("at once").is_err());
            }
        }
    }

    #[tokio::test]
    async fn who_is_alone_waits_for_the_others_and_they_for_it() {
        let admission = Admission::new(3, mib(100), mib(30));
        let other = admission.admit().await;
        let (mut first, mut second) = (admission.admit().await, admission.admit().await);
        let mut first_alone = Box::pin(first.alone());
        assert!((&mut first_alone).now_or_never().is_none(), "one runs");
        let mut second_alone = Box::pin(second.alone());
        assert!((&mut second_alone).now_or_never().is_none());
        drop(other);
        (&mut first_alone)
            .now_or_never()
            .expect("nothing else runs");
        drop(first_alone);
        assert!(admission.all_are_wanted().now_or_never().is_some());
        assert!(admission.admit().now_or_never().is_none(), "alone");
        first.fit(mib(100)).await.expect("all the memory is free");
        drop(first);
        second_alone.now_or_never().expect("its turn");
        assert!(admission.all_are_wanted().now_or_never().is_none());
    }
}
