//! `envicutor bench`: jobs a second and the time to the subscriber's hands, as ratios to plain fork and exec of the same root
//! file system's interpreter in the same run, idle (one at a time) and saturated.

use std::{fmt, path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt as _, process::Command};

pub mod fleet;
pub mod raw;
pub mod root;

use crate::{
    bus::Bus,
    submission::{catalogue::Runtime, message::Submission},
};
use fleet::FleetError;
use raw::RawRun;

/// The job: what is written to its standard input, and so what it prints.
const LINE: &str = "hello\n";

/// The name of the hidden command that takes the yardstick.
pub const RAW_COMMAND: &str = "bench-raw";

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Jobs of each series.
    pub jobs: usize,
    /// Jobs under way in the saturated series.
    pub at_a_time: usize,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Through the fleet.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The yardstick.
    #[error("fork and exec could not be measured: {0}")]
    Raw(String),
}

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

/// One at a time, and many.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// One at a time.
    pub idle: Measured,
    /// [`Extent::at_a_time`] under way.
    pub saturated: Measured,
}

/// The fleet beside the yardstick, of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Jobs under way in the saturated series.
    pub at_a_time: usize,
    /// Fork and exec in the same root file system.
    pub raw: Series,
    /// Published, run, and the result in the subscriber's hands.
    pub fleet: Series,
    /// Jobs a second of the fleet over those of the yardstick, one at a time.
    pub idle_ratio: f64,
    /// The same, saturated.
    pub saturated_ratio: f64,
}

/// Measures the job of `runtime` (a program that copies a line) through the fleet at `bus`, and by fork and exec in `root`.
/// `tell` hears what is measured next.
pub async fn measure(
    bus: &Bus,
    runtime: &Runtime,
    root: &Path,
    extent: Extent,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Report, BenchError> {
    let source = source(runtime)?;
    let submission = Submission::new(runtime.reference())
        .source(source)
        .stdin(LINE);
    let work_dir = root.join("work");
    std::fs::write(work_dir.join(&runtime.source_file), source)
        .map_err(|error| BenchError::Raw(error.to_string()))?;
    tell("warming up");
    fleet::run(bus, &submission, extent.at_a_time, extent.at_a_time).await?;
    tell("fork and exec, one at a time");
    let raw_idle = raw(runtime, root, extent.jobs, 1).await?;
    tell("the fleet, one at a time");
    let fleet_idle = fleet::run(bus, &submission, extent.jobs, 1).await?;
    tell("fork and exec, saturated");
    let raw_saturated = raw(runtime, root, extent.jobs, extent.at_a_time).await?;
    tell("the fleet, saturated");
    let fleet_saturated = fleet::run(bus, &submission, extent.jobs, extent.at_a_time).await?;
    Ok(Report {
        at_a_time: extent.at_a_time,
        idle_ratio: fleet_idle.jobs_per_second / raw_idle.jobs_per_second,
        saturated_ratio: fleet_saturated.jobs_per_second / raw_saturated.jobs_per_second,
        raw: Series {
            idle: raw_idle,
            saturated: raw_saturated,
        },
        fleet: Series {
            idle: fleet_idle,
            saturated: fleet_saturated,
        },
    })
}

/// A program that copies a line, for the runtimes that interpret their source.
fn source(runtime: &Runtime) -> Result<&'static str, BenchError> {
    match runtime.name.as_str() {
        "python" => Ok("print(input())\n"),
        "bash" => Ok("read -r line; echo \"$line\"\n"),
        other => Err(BenchError::Raw(format!(
            "there is no job for {other}: expected python or bash"
        ))),
    }
}

/// Takes the yardstick in a process of its own, since it changes its root.
async fn raw(
    runtime: &Runtime,
    root: &Path,
    jobs: usize,
    at_a_time: usize,
) -> Result<Measured, BenchError> {
    let argv = runtime
        .run
        .command
        .iter()
        .map(|word| word.replace("{entry}", &runtime.source_file));
    let run = RawRun {
        root: root.to_owned(),
        work_dir: "/work".into(),
        argv: argv.collect(),
        env: runtime.env.clone().into_iter().collect(),
        stdin: LINE.to_owned(),
        expected: LINE.to_owned(),
        jobs,
        at_a_time,
    };
    let failed = |error: &dyn fmt::Display| BenchError::Raw(error.to_string());
    let order = serde_json::to_vec(&run).map_err(|error| failed(&error))?;
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let mut child = Command::new(program)
        .arg(RAW_COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(&order)
            .await
            .map_err(|error| failed(&error))?;
    }
    let output = child
        .wait_with_output()
        .await
        .map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(BenchError::Raw(format!("it ended with {}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<24} {:>8} {:>9} {:>9} {:>7}",
            "", "jobs/s", "p50 ms", "p99 ms", "ratio"
        )?;
        let mut row = |name: &str, measured: &Measured, ratio: f64| {
            let milliseconds = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
            let (p50, p99) = (milliseconds(measured.p50_us), milliseconds(measured.p99_us));
            writeln!(
                f,
                "{name:<24} {:>8.1} {p50:>9.1} {p99:>9.1} {ratio:>7.2}",
                measured.jobs_per_second
            )
        };
        row("raw, one at a time", &self.raw.idle, 1.0)?;
        row("fleet, one at a time", &self.fleet.idle, self.idle_ratio)?;
        row(
            &format!("raw, {} at a time", self.at_a_time),
            &self.raw.saturated,
            1.0,
        )?;
        row(
            &format!("fleet, {} at a time", self.at_a_time),
            &self.fleet.saturated,
            self.saturated_ratio,
        )
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
