//! What a benchmark reports.

use std::{fmt, time::Duration};

use clap::ValueEnum as _;
use serde::Serialize;

use super::{
    cost::{Costs, JobCosts},
    job::Job,
    limits::Enforced,
    series::{Measured, Series},
};
use crate::submission::result::Isolation;

/// One turn of yardstick and fleet.
#[derive(Debug, Clone)]
pub struct Round {
    /// Fork and exec, many at a time.
    pub raw_saturated: Series,
    /// The fleet, many under way.
    pub saturated: Series,
    /// How many of them began from a template.
    pub warm: usize,
    /// What that took.
    pub costs: Costs,
    /// Fork and exec, one at a time.
    pub raw_idle: Series,
    /// The fleet, one at a time.
    pub idle: Series,
}

/// A benchmark of one machine.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of this program.
    pub version: &'static str,
    /// The machine's processors.
    pub processors: usize,
    /// The worker's slots, and the jobs that fork and exec has under way in its saturated series.
    pub slots: usize,
    /// The jobs that the fleet has under way in its saturated series.
    pub at_a_time: usize,
    /// How often each series was taken.
    pub rounds: usize,
    /// What was measured of each job.
    pub jobs: Vec<JobReport>,
    /// How late limits were enforced.
    pub limits: Vec<Enforced>,
}

/// What was measured of a job.
#[derive(Debug, Clone, Serialize)]
pub struct JobReport {
    /// Which.
    pub job: Job,
    /// The isolation that it ran in.
    pub isolation: Option<Isolation>,
    /// Many under way.
    pub saturated: Compared,
    /// One at a time.
    pub idle: Compared,
    /// How many of the fleet's saturated jobs began from a template.
    pub warm_jobs: usize,
    /// What a result takes longer than fork and exec: p50 of the one minus p50 of the other, idle, in microseconds.
    pub added_p50_us: i64,
    /// p99 of the fleet minus p50 of fork and exec, idle, in microseconds.
    pub added_p99_us: i64,
    /// p99 of the fleet minus p99 of fork and exec, idle, in microseconds.
    pub added_to_p99_us: i64,
    /// CPU time of a job in the saturated series.
    pub cpu: JobCosts,
}

/// The fleet beside the yardstick.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// Fork and exec, all rounds together.
    pub raw: Measured,
    /// Published, run, and the result in the subscriber's hands, all rounds together.
    pub fleet: Measured,
    /// Jobs a second of the fleet over those of the yardstick in the same round.
    pub ratio: Spread,
}

/// A ratio over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the rounds had no more.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    pub(super) fn of(mut ratios: Vec<f64>) -> Self {
        ratios.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| ratios.get(place).copied().unwrap_or_default();
        let last = ratios.len().saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(last.div_ceil(2))),
            least: at(0),
            most: at(last),
        }
    }
}

impl Compared {
    fn of(rounds: &[Round], pick: impl Fn(&Round) -> (&Series, &Series)) -> Self {
        let ratio = |round| {
            let (raw, fleet) = pick(round);
            fleet.rate() / raw.rate()
        };
        Self {
            raw: Series::together(rounds.iter().map(|round| pick(round).0)).measured(),
            fleet: Series::together(rounds.iter().map(|round| pick(round).1)).measured(),
            ratio: Spread::of(rounds.iter().map(ratio).collect()),
        }
    }
}

impl JobReport {
    /// Of all `rounds`.
    pub fn of(job: Job, isolation: Option<Isolation>, rounds: &[Round]) -> Self {
        let saturated = Compared::of(rounds, |round| (&round.raw_saturated, &round.saturated));
        let idle = Compared::of(rounds, |round| (&round.raw_idle, &round.idle));
        let costs: Costs = rounds.iter().map(|round| round.costs).sum();
        let added = |us: u64, raw_us: u64| us.cast_signed() - raw_us.cast_signed();
        Self {
            job,
            isolation,
            warm_jobs: rounds.iter().map(|round| round.warm).sum(),
            added_p50_us: added(idle.fleet.p50_us, idle.raw.p50_us),
            added_p99_us: added(idle.fleet.p99_us, idle.raw.p50_us),
            added_to_p99_us: added(idle.fleet.p99_us, idle.raw.p99_us),
            cpu: costs.of_each(),
            saturated,
            idle,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "envicutor {}, {} processors, {} slots, {} jobs under way, {} rounds",
            self.version, self.processors, self.slots, self.at_a_time, self.rounds
        )?;
        self.jobs.iter().try_for_each(|job| write!(f, "\n{job}"))?;
        writeln!(f)?;
        let mut limits = self.limits.iter();
        limits.try_for_each(|enforced| write!(f, "{enforced}"))
    }
}

impl fmt::Display for JobReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let isolation = self
            .isolation
            .and_then(|isolation| isolation.to_possible_value());
        let isolation = isolation.as_ref().map_or("none", |value| value.get_name());
        writeln!(
            f,
            "{:<24} {:>6} {:>8} {:>8} {:>8}  ratio",
            format!("{} ({isolation})", self.job),
            "jobs",
            "jobs/s",
            "p50 ms",
            "p99 ms"
        )?;
        row(f, "raw, saturated", &self.saturated.raw, None)?;
        row(
            f,
            "fleet, saturated",
            &self.saturated.fleet,
            Some(self.saturated.ratio),
        )?;
        row(f, "raw, one at a time", &self.idle.raw, None)?;
        row(
            f,
            "fleet, one at a time",
            &self.idle.fleet,
            Some(self.idle.ratio),
        )?;
        writeln!(
            f,
            "a result takes longer than raw's p50 by {} ms (p50), {} ms (p99); p99 is {} ms beyond raw's p99",
            signed_ms(self.added_p50_us),
            signed_ms(self.added_p99_us),
            signed_ms(self.added_to_p99_us)
        )?;
        let jobs = self.saturated.fleet.jobs;
        writeln!(f, "began from a template: {} of {jobs}", self.warm_jobs)?;
        writeln!(f, "{}", self.cpu)
    }
}

fn row(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    measured: &Measured,
    ratio: Option<Spread>,
) -> fmt::Result {
    write!(
        f,
        "{name:<24} {:>6} {:>8.1} {:>8.1} {:>8.1}",
        measured.jobs,
        measured.jobs_per_second,
        ms(measured.p50_us),
        ms(measured.p99_us)
    )?;
    match ratio {
        Some(ratio) => writeln!(
            f,
            "  {:.3} ({:.2} to {:.2})",
            ratio.median, ratio.least, ratio.most
        ),
        None => writeln!(f),
    }
}

impl fmt::Display for JobCosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |us: Option<u64>| us.map_or("?".to_owned(), |us| format!("{:.2}", ms(us)));
        write!(
            f,
            "CPU ms a job: worker {:.2}, agents {}, walls {}, stages {:.2}, nats-server {:.2}, client {:.2}",
            ms(self.worker_us),
            known(self.agents_us),
            known(self.walls_us),
            ms(self.stages_us),
            ms(self.nats_server_us),
            ms(self.client_us)
        )
    }
}

fn ms(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1000.0
}

fn signed_ms(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "" };
    format!("{sign}{:.1}", ms(us.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(jobs: u32, each_ms: u64) -> Series {
        let time = Duration::from_millis(each_ms);
        Series {
            elapsed: time * jobs,
            times: vec![time; jobs as usize],
        }
    }

    fn round(raw_ms: u64, fleet_ms: u64) -> Round {
        Round {
            raw_saturated: series(10, raw_ms),
            saturated: series(10, fleet_ms),
            warm: 3,
            costs: Costs {
                jobs: 10,
                worker: Duration::from_millis(5),
                ..Costs::default()
            },
            raw_idle: series(10, raw_ms),
            idle: series(10, fleet_ms),
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_rounds_and_costs_are_of_one_job() {
        let rounds = [round(10, 20), round(10, 10), round(10, 12)];
        let report = JobReport::of(Job::Python, None, &rounds);
        let ratio = report.saturated.ratio;
        assert!((ratio.median - 10.0 / 12.0).abs() < 1e-9, "{ratio:?}");
        assert!((ratio.least - 0.5).abs() < 1e-9 && (ratio.most - 1.0).abs() < 1e-9);
        assert_eq!((report.added_p50_us, report.added_p99_us), (2_000, 10_000));
        assert_eq!(report.added_to_p99_us, 10_000);
        assert_eq!(report.cpu.worker_us, 500);
        assert_eq!(report.cpu.agents_us, None);
        assert_eq!(report.warm_jobs, 9);
    }

    #[test]
    fn the_median_of_two_lies_between_them() {
        let spread = Spread::of(vec![1.0, 0.5]);
        assert!((spread.median - 0.75).abs() < 1e-9);
    }
}
