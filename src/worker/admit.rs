//! Admission: a worker asks for a message only when a slot and memory for it are free.
//!
//! What a submission needs is known only once it was read, so that a pull reserves what the runtimes' defaults need, and
//! [`Admitted::fit`] trades that for the real need. It gives back before it waits, so that no two submissions hold a part each and
//! wait for the other's; the semaphore is fair, so that a large one is not passed by small ones for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::submission::units::ByteSize;

/// Memory is counted in whole MiB: a semaphore counts to 2^32 at least.
const UNIT: u64 = 1 << 20;

/// The slots and the memory of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    slots: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    budget: ByteSize,
    reserve: u32,
}

/// A place for one submission; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Admitted {
    _slot: OwnedSemaphorePermit,
    reserved: OwnedSemaphorePermit,
    memory: Arc<Semaphore>,
    budget: ByteSize,
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
        let units = usize::try_from(budget.0 / UNIT)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            memory: Arc::new(Semaphore::new(units)),
            budget,
            reserve: in_units(reserve).min(in_units(budget)),
        }
    }

    /// Waits for a free slot and the reserve.
    pub(crate) async fn admit(&self) -> Admitted {
        let slot = acquire(&self.slots, 1).await;
        let reserved = acquire(&self.memory, self.reserve).await;
        Admitted {
            _slot: slot,
            reserved,
            memory: Arc::clone(&self.memory),
            budget: self.budget,
        }
    }
}

impl Admitted {
    /// Holds memory for `need` from now on; waits for it where it is more than the reserve.
    pub(crate) async fn fit(&mut self, need: ByteSize) -> Result<(), TooLarge> {
        if need > self.budget {
            return Err(TooLarge {
                need,
                budget: self.budget,
            });
        }
        let units = in_units(need).max(1);
        let held = u32::try_from(self.reserved.num_permits()).unwrap_or(u32::MAX);
        if units <= held {
            drop(self.reserved.split((held - units) as usize));
        } else {
            drop(self.reserved.split(held as usize));
            self.reserved = acquire(&self.memory, units).await;
        }
        Ok(())
    }
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
        let admission = Admission::new(1, mib(100), mib(40));
        assert!(admission.admit().await.fit(mib(101)).await.is_err());
    }
}
