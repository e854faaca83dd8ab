//! `envicutor bench`: jobs a second and the time to the subscriber's hands, as ratios to plain fork and exec of the same root
//! file system's interpreter in the same run, idle (one at a time) and saturated.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod fleet;
pub mod raw;
pub mod root;

/// What came of a series of jobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// Jobs done.
    pub jobs: usize,
    /// Jobs a second.
    pub jobs_per_second: f64,
    /// Half of the jobs took no longer, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 took no longer, in microseconds.
    pub p99_us: u64,
}

impl Measured {
    /// Of jobs that took `each` and ended `all` after the first began.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of jobs is far below 2^52"
    )]
    pub fn new(all: Duration, mut each: Vec<Duration>) -> Self {
        each.sort_unstable();
        let at = |hundredths: usize| {
            let place = (each.len() * hundredths).div_ceil(100).saturating_sub(1);
            each.get(place).map_or(0, |time| {
                u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
            })
        };
        Self {
            jobs: each.len(),
            jobs_per_second: each.len() as f64 / all.as_secs_f64().max(f64::EPSILON),
            p50_us: at(50),
            p99_us: at(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let measured = Measured::new(Duration::from_secs(10), times);
        assert_eq!((measured.p50_us, measured.p99_us), (50_000, 99_000));
        assert!((measured.jobs_per_second - 10.0).abs() < 1e-9);
    }
}
