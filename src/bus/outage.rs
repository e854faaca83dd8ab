//! Outages: what passes by itself, and asking again until it has.
//!
//! A cluster has no leader for a stream for some seconds after the server that led it died; a connection is away until the
//! client has found another server. Neither is an answer. What was asked for may have happened all the same, so only what may
//! be done twice is asked again here.

use std::{fmt::Display, time::Duration};

use rand::RngExt as _;
use tokio::time::{Instant, sleep};

/// Before the second try.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait between two tries.
const MOST: Duration = Duration::from_secs(1);

/// An error that may be an outage.
pub trait Outage {
    /// Whether the same may succeed in a moment, with nothing mended by anybody.
    fn is_outage(&self) -> bool;
}

/// Waits that grow twofold up to a bound, each with jitter, so that those who failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    wait: Duration,
    most: Duration,
}

impl Backoff {
    /// From `first` up to `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { wait: first, most }
    }

    /// The next wait: between half and the whole of it.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.wait.min(self.most);
        self.wait = (wait * 2).min(self.most);
        wait.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

/// Asks until the answer is no outage, for `patience` at most; then the outage is the answer.
pub async fn sit_out<T, E, F>(patience: Duration, mut ask: impl FnMut() -> F) -> Result<T, E>
where
    E: Outage + Display,
    F: Future<Output = Result<T, E>>,
{
    let asked = Instant::now();
    let mut backoff = Backoff::new(FIRST, MOST);
    let mut tries = 1;
    loop {
        let answer = ask().await;
        let error = match answer {
            Err(error) if error.is_outage() => error,
            answer => {
                if tries > 1 {
                    tracing::info!(tries, after = ?asked.elapsed(), "NATS answers again");
                }
                return answer;
            }
        };
        let wait = backoff.next_wait();
        if asked.elapsed() + wait > patience {
            return Err(error);
        }
        if tries == 1 {
            tracing::warn!(%error, "NATS is asked again");
        }
        tries += 1;
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Failure(bool);

    impl Outage for Failure {
        fn is_outage(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut backoff = Backoff::new(FIRST, MOST);
        let waits: Vec<_> = (0..40).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits.iter().all(|wait| *wait <= MOST));
        assert!(waits[39] >= MOST / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_sat_out_and_nothing_else() {
        let mut outages = 5;
        let answer = sit_out(Duration::from_secs(15), || {
            outages -= 1;
            std::future::ready(if outages > 0 {
                Err(Failure(true))
            } else {
                Ok(())
            })
        });
        answer.await.expect("the outage is over");
        let mut asked = 0;
        let answer = sit_out(Duration::from_secs(15), || {
            asked += 1;
            std::future::ready(Err::<(), _>(Failure(false)))
        });
        answer.await.expect_err("refused");
        assert_eq!(asked, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let began = Instant::now();
        let answer = sit_out(Duration::from_secs(3), || {
            std::future::ready(Err::<(), _>(Failure(true)))
        });
        answer.await.expect_err("the outage lasts");
        assert!(began.elapsed() <= Duration::from_secs(3));
    }
}
