//! `envicutor bench`: a fleet on this machine beside plain fork and exec of the same programs in the same root file system, in
//! one run. Ratios of jobs a second, saturated; what a result takes longer, one job at a time; CPU time by who used it.
//!
//! | | |
//! | --- | --- |
//! | [`job`] | the programs |
//! | [`series`] | what is measured of a number of jobs |
//! | [`root`], [`mod@raw`], [`yardstick`] | the yardstick: a runtime's root file system on the host's file system; fork and exec in it; the process of that |
//! | [`up`], [`fleet`] | the fleet, a process of its own; the jobs through it |
//! | [`cost`] | the CPU time of each process of it |
//! | [`limits`] | how late a limit of time ends a program |
//! | [`report`] | what came out |
//! | [`redelivery`] | something else: how long what a killed worker held waits for another one |
//! | [`files`], [`relay`] | something else: what large files take of memory and of the network |
//! | [`install`] | something else: what an installation takes from submissions |
//!
//! A machine is never twice the same: yardstick and fleet are measured in turns, and a ratio is the median over the rounds.

use std::{path::Path, time::Instant};

pub mod cost;
pub mod files;
pub mod fleet;
pub mod install;
pub mod job;
pub mod limits;
pub mod raw;
pub mod redelivery;
pub mod relay;
pub mod report;
pub mod root;
pub mod series;
pub mod up;
pub mod yardstick;

use crate::{
    bus::Bus,
    submission::{
        catalogue::{Catalogue, Ceilings},
        check,
        encoding::{Encoding, EncodingError},
        message::Submission,
        names::NameError,
        plan::Plan,
    },
};
use cost::{CostError, Costs, Meter};
use fleet::FleetError;
use job::Job;
use limits::{Enforced, Limit};
use raw::{Pace, RawRun};
use report::{JobReport, Round};
use series::{Length, Series};
use yardstick::{Yardstick, YardstickError};

/// The name of the hidden command that takes the yardstick.
pub const RAW_COMMAND: &str = "bench-raw";

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// How often each series is taken.
    pub rounds: usize,
    /// How long a series is.
    pub length: Length,
    /// Jobs that fork and exec has under way in its saturated series: the worker's slots.
    pub slots: usize,
    /// Jobs that the fleet has under way in its saturated series: more than slots, or it would wait for us.
    pub at_a_time: usize,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Through the fleet.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The yardstick.
    #[error(transparent)]
    Yardstick(#[from] YardstickError),
    /// The CPU time.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// A job is no message.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// A job's runtime can be none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A job is refused.
    #[error("{job} cannot be measured with these runtimes and ceilings: {source}")]
    Rejected {
        /// Which.
        job: Job,
        /// Why.
        source: check::Rejected,
    },
}

/// What `job` comes to with these runtimes: a worker makes the same of it.
pub fn plan(job: Job, catalogue: &Catalogue, ceilings: &Ceilings) -> Result<Plan, BenchError> {
    let encoding = Encoding::MessagePack;
    let body = encoding.encode(&job.submission()?)?;
    let plan = check::check(&body, Some(encoding.content_type()), catalogue, ceilings);
    plan.map_err(|source| BenchError::Rejected { job, source })
}

/// A fleet that is measured.
pub struct Bench<'a> {
    /// A service's connection to it.
    pub bus: &'a Bus,
    /// Reads its CPU time.
    pub meter: &'a Meter,
    /// How much is measured.
    pub extent: Extent,
    /// Hears what is measured next.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

impl Bench<'_> {
    /// Measures `job` through the fleet, and its `plan` by fork and exec in `root`.
    pub async fn measure(
        &self,
        job: Job,
        plan: &Plan,
        root: &Path,
    ) -> Result<JobReport, BenchError> {
        (self.tell)(&format!("{job}: warming up"));
        let Extent {
            rounds,
            length,
            slots,
            at_a_time,
        } = self.extent;
        let submission = job.submission()?;
        // What this has started ahead by its end, later series find.
        let first = fleet::run(self.bus, &submission, length, at_a_time).await?;
        let mut measured = Vec::with_capacity(rounds);
        for round in 1..=rounds {
            (self.tell)(&format!("{job}: round {round} of {rounds}"));
            let pace = Pace::Series {
                length,
                at_a_time: slots,
            };
            let raw_saturated = yardstick::series(&RawRun::of(plan, root, pace)).await?;
            let before = self.meter.read().await?;
            let saturated = fleet::run(self.bus, &submission, length, at_a_time).await?;
            let after = self.meter.read().await?;
            let (raw_idle, idle) = self.in_turns(&submission, plan, root).await?;
            measured.push(Round {
                costs: Costs::between(
                    &before,
                    &after,
                    saturated.stages,
                    saturated.series.times.len(),
                ),
                raw_saturated,
                saturated: saturated.series,
                warm: saturated.warm,
                raw_idle,
                idle,
            });
        }
        Ok(JobReport::of(job, first.isolation, &measured))
    }

    /// One at a time, a job by fork and exec and one through the fleet in turns: what a machine does meanwhile, it does to both.
    async fn in_turns(
        &self,
        submission: &Submission,
        plan: &Plan,
        root: &Path,
    ) -> Result<(Series, Series), BenchError> {
        let mut yardstick = Yardstick::start(&RawRun::of(plan, root, Pace::Asked)).await?;
        let (mut raw, mut fleet) = (Series::default(), Series::default());
        let began = Instant::now();
        // As long as two series.
        let length = match self.extent.length {
            Length::Time(time) => Length::Time(2 * time),
            jobs @ Length::Jobs(_) => jobs,
        };
        while length.goes_on(began, raw.times.len()) {
            raw.add(yardstick.job().await?);
            let ran = fleet::run(self.bus, submission, Length::Jobs(1), 1).await?;
            ran.series
                .times
                .into_iter()
                .for_each(|time| fleet.add(time));
        }
        Ok((raw, fleet))
    }

    /// Measures how late each limit of time is enforced.
    pub async fn measure_limits(&self) -> Result<Vec<Enforced>, BenchError> {
        /// Times that a limit is measured for each round.
        const EACH: usize = 4;
        let mut measured = Vec::new();
        for limit in Limit::ALL {
            (self.tell)(&format!("limits: {limit:?}"));
            measured.push(limits::measure(self.bus, limit, EACH * self.extent.rounds).await?);
        }
        Ok(measured)
    }
}
