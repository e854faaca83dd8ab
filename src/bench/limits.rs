//! How late a limit of time ends a program that would run for ever, one at a time on a machine with nothing else to do.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{
    fleet::{self, FleetError},
    series::Series,
};
use crate::{
    bus::Bus,
    submission::{
        limits::LimitChanges,
        message::Submission,
        result::{SubmissionResult, Verdict},
        units::Micros,
    },
};

/// A limit that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// 100 ms of CPU time, and a program that computes.
    CpuTimeUs,
    /// 300 ms of wall time, and a program that sleeps.
    WallTimeUs,
}

impl Limit {
    /// Both.
    pub const ALL: [Self; 2] = [Self::CpuTimeUs, Self::WallTimeUs];

    /// What it is set to.
    pub fn bound(self) -> Micros {
        match self {
            Self::CpuTimeUs => Micros(100_000),
            Self::WallTimeUs => Micros(300_000),
        }
    }

    fn submission(self) -> Result<Submission, FleetError> {
        let bound = Some(self.bound());
        let (source, limits) = match self {
            Self::CpuTimeUs => (
                "while :; do :; done\n",
                LimitChanges {
                    cpu_time_us: bound,
                    extra_time_us: Some(Micros(1)),
                    ..LimitChanges::default()
                },
            ),
            Self::WallTimeUs => (
                "sleep 60\n",
                LimitChanges {
                    wall_time_us: bound,
                    ..LimitChanges::default()
                },
            ),
        };
        let mut submission = Submission::new("bash".parse()?).source(source);
        submission.run.limits = limits;
        Ok(submission)
    }

    fn verdict(self) -> Verdict {
        match self {
            Self::CpuTimeUs => Verdict::CpuTimeExceeded,
            Self::WallTimeUs => Verdict::WallTimeExceeded,
        }
    }

    /// What the program had when it ended.
    fn used(self, result: &SubmissionResult) -> Micros {
        let runs = result.runs.iter();
        Micros(match self {
            Self::CpuTimeUs => runs
                .map(|run| run.cpu_user_us.0 + run.cpu_system_us.0)
                .sum(),
            Self::WallTimeUs => runs.map(|run| run.wall_us.0).sum(),
        })
    }
}

/// How late a limit was enforced.
#[derive(Debug, Clone, Serialize)]
pub struct Enforced {
    /// Which.
    pub limit: Limit,
    /// What it was, in microseconds.
    pub limit_us: u64,
    /// How often it was measured.
    pub jobs: usize,
    /// Half of the programs had no more beyond it, in microseconds.
    pub late_p50_us: u64,
    /// 99 of 100 programs had no more beyond it, in microseconds.
    pub late_p99_us: u64,
    /// No program had more beyond it, in microseconds.
    pub late_most_us: u64,
}

/// Measures `limit` so many times.
pub async fn measure(bus: &Bus, limit: Limit, times: usize) -> Result<Enforced, FleetError> {
    let submission = limit.submission()?;
    let mut late = Series::default();
    for _ in 0..times {
        let result = fleet::run_one(bus, &submission, limit.verdict()).await?;
        let beyond = limit.used(&result).0.saturating_sub(limit.bound().0);
        late.times.push(Micros(beyond).duration());
    }
    let most = late.times.iter().max().map_or(0, Duration::as_micros);
    let measured = late.measured();
    Ok(Enforced {
        limit,
        limit_us: limit.bound().0,
        jobs: measured.jobs,
        late_p50_us: measured.p50_us,
        late_p99_us: measured.p99_us,
        late_most_us: u64::try_from(most).unwrap_or(u64::MAX),
    })
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, ms) = match self.limit {
            Limit::CpuTimeUs => ("CPU", self.limit_us / 1_000),
            Limit::WallTimeUs => ("wall", self.limit_us / 1_000),
        };
        let late = |us: u64| Micros(us).duration().as_secs_f64() * 1_000.0;
        writeln!(
            f,
            "{ms} ms of {what} time: ended {:.1} ms late (p50), {:.1} ms (p99), {:.1} ms (most of {})",
            late(self.late_p50_us),
            late(self.late_p99_us),
            late(self.late_most_us),
            self.jobs
        )
    }
}
