//! A series of jobs: how long it is, how long each job took, and what that comes to.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// When a series ends.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Length {
    /// After so many jobs.
    Jobs(usize),
    /// No job begins after this time.
    Time(Duration),
}

impl Length {
    /// Whether one more job begins, in a series that `began` then and has had so many `jobs`.
    pub fn goes_on(self, began: Instant, jobs: usize) -> bool {
        match self {
            Self::Jobs(most) => jobs < most,
            Self::Time(time) => began.elapsed() < time,
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Series {
    /// From the first job's beginning to the last one's end.
    pub elapsed: Duration,
    /// Of each job.
    pub times: Vec<Duration>,
}

impl Series {
    /// Jobs a second.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of jobs is far below 2^52"
    )]
    pub fn rate(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// One more job, after the others.
    pub fn add(&mut self, time: Duration) {
        self.elapsed += time;
        self.times.push(time);
    }

    /// Several as if they were one.
    pub fn together<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut together = Self::default();
        for one in all {
            together.elapsed += one.elapsed;
            together.times.extend_from_slice(&one.times);
        }
        together
    }

    /// What is reported of it.
    pub fn measured(mut self) -> Measured {
        self.times.sort_unstable();
        let at = |hundredths: usize| {
            let place = (self.times.len() * hundredths)
                .div_ceil(100)
                .saturating_sub(1);
            self.times.get(place).map_or(0, |time| {
                u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
            })
        };
        Measured {
            jobs: self.times.len(),
            jobs_per_second: self.rate(),
            p50_us: at(50),
            p99_us: at(99),
        }
    }
}

/// What came of a series.
#[derive(Debug, Clone, PartialEq, Serialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let series = Series {
            elapsed: Duration::from_secs(10),
            times: (1..=100).rev().map(Duration::from_millis).collect(),
        };
        let measured = series.measured();
        assert_eq!((measured.p50_us, measured.p99_us), (50_000, 99_000));
        assert!((measured.jobs_per_second - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_series_ends_by_its_length() {
        let began = Instant::now();
        assert!(Length::Jobs(2).goes_on(began, 1));
        assert!(!Length::Jobs(2).goes_on(began, 2));
        assert!(Length::Time(Duration::from_mins(1)).goes_on(began, 1_000));
        assert!(!Length::Time(Duration::ZERO).goes_on(began, 0));
    }
}
