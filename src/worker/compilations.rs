//! How many submissions are compiled at a time. A compiler keeps a processor busy and much memory in its caches: more of them than
//! there are processors displace each other's. So a worker with more slots than processors has some wait for their turn, but none
//! for long, because a compile stage may also be one that sleeps.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::config;

/// The turns of one worker.
pub(crate) struct Compilations {
    turns: Semaphore,
    patience: Duration,
}

impl Compilations {
    /// With as many turns as are configured, or one for each of `processors`.
    pub(crate) fn new(config: &config::Worker, processors: usize) -> Self {
        let turns = config.compilations.unwrap_or(processors);
        Self {
            turns: Semaphore::new(turns.min(Semaphore::MAX_PERMITS)),
            patience: config.compilation_wait_us.duration(),
        }
    }

    /// Waits for a turn, first come, first served. None: it has waited long enough, and goes on without.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        timeout(self.patience, self.turns.acquire())
            .await
            .ok()?
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::units::Micros;

    fn compilations(wait_us: u64) -> Compilations {
        let config = config::Worker {
            compilations: Some(1),
            compilation_wait_us: Micros(wait_us),
            ..config::Worker::default()
        };
        Compilations::new(&config, 8)
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_when_the_one_before_is_done() {
        let compilations = compilations(60_000_000);
        let first = compilations.turn().await;
        assert!(first.is_some());
        let mut second = Box::pin(compilations.turn());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_is_configured() {
        let compilations = compilations(1_000_000);
        let _first = compilations.turn().await;
        let began = tokio::time::Instant::now();
        assert!(compilations.turn().await.is_none());
        assert_eq!(began.elapsed().as_secs(), 1);
    }

    #[test]
    fn one_for_each_processor_is_the_default() {
        let compilations = Compilations::new(&config::Worker::default(), 4);
        assert_eq!(compilations.turns.available_permits(), 4);
    }
}
