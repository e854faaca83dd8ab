//! How long it is tried to do what may succeed a moment later. Whatever is tried again finds what an earlier try of it did.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{OperationError, error::Remedy};
use crate::bus::outage::Backoff;

/// Before the second try.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
const MOST: Duration = Duration::from_secs(5);

/// What is left of it, for one submission.
#[derive(Debug)]
pub(super) struct Patience {
    tries: u32,
    most_tries: u32,
    backoff: Backoff,
    since: Instant,
    /// For room in a queue.
    most: Duration,
}

impl Patience {
    pub(super) fn new(most_tries: u32, most: Duration) -> Self {
        Self {
            tries: 1,
            most_tries,
            backoff: Backoff::new(FIRST, MOST),
            since: Instant::now(),
            most,
        }
    }

    /// Waits for the next try, or gives the error back where no try would help.
    pub(super) async fn spend_on(&mut self, error: OperationError) -> Result<(), OperationError> {
        let goes_on = match error.remedy() {
            Remedy::Again | Remedy::Server => self.tries < self.most_tries,
            Remedy::Room => self.since.elapsed() < self.most,
            Remedy::Tell | Remedy::Stop => false,
        };
        if !goes_on {
            return Err(error);
        }
        tracing::debug!(%error, tries = self.tries, "it is tried again");
        sleep(self.backoff.next_wait()).await;
        self.tries = self.tries.saturating_add(1);
        Ok(())
    }
}
