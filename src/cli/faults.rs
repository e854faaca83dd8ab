//! `envicutor bench --faults`: a fleet of its own under faults, and whether it kept its promise.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use rand::RngExt as _;

use super::{
    exit::{CliError, Exit},
    options::Options,
    terminal::{say, tell},
};
use crate::{
    faults::{
        self,
        plan::{Kind, Plan},
        report::Report,
    },
    submission::units::Micros,
};

/// The wait for a redelivery where nothing else is said: a run with the default of 10 s would mostly wait.
const ACK_WAIT: Micros = Micros(3_000_000);

/// The program of the workers, beside our own.
const WORKER: &str = "envicutor-worker";

/// What `--faults` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "With --faults")]
pub struct Faults {
    /// Put a fleet under faults instead: kill, freeze and cut off workers, NATS servers and containers while submissions go
    /// through it, then check that the promise was kept: docs/faults.md. Without any --…-every, every fault strikes at a pace
    /// of its own.
    #[arg(long = "faults", conflicts_with_all = ["job", "time", "jobs", "rounds", "kills"])]
    pub(super) asked: bool,
    /// What everything random follows from; without it one is picked, and told.
    #[arg(long, value_name = "N", requires = "asked")]
    seed: Option<u64>,
    /// Submissions.
    #[arg(long, value_name = "N", default_value_t = 1_000, requires = "asked")]
    submissions: usize,
    /// Worker processes.
    #[arg(long, value_name = "N", default_value_t = 3, requires = "asked")]
    workers: usize,
    /// NATS servers: 1, or 3 as a cluster.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_servers, requires = "asked")]
    servers: usize,
    /// `nats.ack_wait_us`, how long a delivery may go without a renewal; without it 3 s.
    #[arg(long, value_name = "TIME", requires = "asked")]
    ack_wait: Option<Micros>,
    /// How long nothing at all may come of what was submitted, before that is given up.
    #[arg(long, value_name = "TIME", default_value = "2min", requires = "asked")]
    patience: Micros,
    /// Keep the directory of the run, with its history and the logs, though the promise was kept.
    #[arg(long, requires = "asked")]
    keep: bool,
    #[command(flatten)]
    paces: Paces,
}

/// The mean time between two faults of a kind.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "With --faults, the mean time from one to the next")]
struct Paces {
    /// A worker is killed (SIGKILL), and started anew.
    #[arg(long = "kill-every", value_name = "TIME", requires = "asked")]
    kill: Option<Micros>,
    /// A worker is stopped (SIGSTOP) for one and a half ack waits.
    #[arg(long = "freeze-every", value_name = "TIME", requires = "asked")]
    freeze: Option<Micros>,
    /// A worker drains (SIGTERM), and is started anew.
    #[arg(long = "drain-every", value_name = "TIME", requires = "asked")]
    drain: Option<Micros>,
    /// The NATS server that leads a stream is killed (SIGKILL), and started again.
    #[arg(long = "leader-kill-every", value_name = "TIME", requires = "asked")]
    leader_kill: Option<Micros>,
    /// The connections of a worker or of the clients are cut.
    #[arg(long = "cut-every", value_name = "TIME", requires = "asked")]
    cut: Option<Micros>,
    /// The connections of a worker or of the clients carry nothing for one and a half ack waits.
    #[arg(long = "silence-every", value_name = "TIME", requires = "asked")]
    silence: Option<Micros>,
    /// A container is removed by hand.
    #[arg(long = "container-every", value_name = "TIME", requires = "asked")]
    container: Option<Micros>,
    /// An agent is killed (SIGKILL). Needs root.
    #[arg(long = "agent-every", value_name = "TIME", requires = "asked")]
    agent: Option<Micros>,
}

impl Paces {
    /// Those that were asked for; without any, all of them.
    fn paces(&self) -> BTreeMap<Kind, Duration> {
        let asked = [
            (Kind::WorkerKilled, self.kill),
            (Kind::WorkerFrozen, self.freeze),
            (Kind::WorkerDrained, self.drain),
            (Kind::LeaderKilled, self.leader_kill),
            (Kind::ConnectionCut, self.cut),
            (Kind::ConnectionSilent, self.silence),
            (Kind::ContainerRemoved, self.container),
            (Kind::AgentKilled, self.agent),
        ];
        let paces: BTreeMap<_, _> = asked
            .into_iter()
            .filter_map(|(kind, pace)| Some((kind, pace?.duration())))
            .collect();
        if paces.is_empty() {
            Kind::ALL.map(|kind| (kind, kind.pace())).into()
        } else {
            paces
        }
    }
}

impl Faults {
    /// Runs it and prints the report. Exit code 1 where an invariant does not hold.
    pub(super) async fn run(
        self,
        options: &Options,
        slots: usize,
        at_a_time: Option<usize>,
        json: bool,
    ) -> Result<Exit, CliError> {
        let keep = self.keep;
        let plan = self.plan(options, slots, at_a_time)?;
        let data_dir = &plan.config.data_dir.0;
        let dir = data_dir.join("faults");
        fs::create_dir_all(data_dir)?;
        let lock = File::create(data_dir.join("faults.lock"))?;
        if lock.try_lock().is_err() {
            let message = format!("another run under faults uses {}", dir.display());
            return Err(CliError::Failed(message));
        }
        empty(&dir)?;
        tell(format!("seed {}", plan.seed));
        let report = faults::run(&plan, &dir, &|line| tell(line)).await;
        let report = report.map_err(|error| CliError::Failed(error.to_string()))?;
        show(&report, json)?;
        if keep || !report.is_kept() {
            tell(format!("its history and logs are in {}", dir.display()));
        } else {
            empty(&dir)?;
        }
        Ok(if report.is_kept() {
            Exit::Ok
        } else {
            Exit::NotOk
        })
    }

    fn plan(
        self,
        options: &Options,
        slots: usize,
        at_a_time: Option<usize>,
    ) -> Result<Plan, CliError> {
        let mut config = options.load()?;
        config.nats.ack_wait_us = self.ack_wait.unwrap_or(ACK_WAIT).max(Micros(1_000_000));
        let workers = self.workers.max(1);
        Ok(Plan {
            seed: self
                .seed
                .unwrap_or_else(|| rand::rng().random_range(0..1_000_000)),
            submissions: self.submissions,
            // So many that every slot has work while what was lost waits to be delivered again.
            at_a_time: at_a_time.unwrap_or(workers * slots * 8).max(1),
            workers,
            slots,
            servers: self.servers,
            paces: self.paces.paces(),
            patience: self.patience.duration(),
            worker: worker_program()?,
            config,
        })
    }
}

fn parse_servers(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("expected 1 or 3".to_owned()),
    }
}

fn show(report: &Report, json: bool) -> Result<(), CliError> {
    if json {
        let json = serde_json::to_string(report);
        say(json.map_err(|error| CliError::Show(error.to_string()))?)?;
    } else {
        say(report.to_string().trim_end())?;
    }
    Ok(())
}

/// Removes what an earlier run left.
fn empty(dir: &Path) -> Result<(), CliError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn worker_program() -> Result<PathBuf, CliError> {
    let own = std::env::current_exe()?;
    let worker = own.with_file_name(WORKER);
    if worker.is_file() {
        return Ok(worker);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(WORKER))
        .find(|file| file.is_file());
    found.ok_or_else(|| {
        CliError::Failed(format!(
            "there is no {WORKER} beside {} or on the PATH",
            own.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[arg(long)]
        job: bool,
        #[arg(long)]
        time: bool,
        #[arg(long)]
        jobs: bool,
        #[arg(long)]
        rounds: bool,
        #[arg(long)]
        kills: bool,
        #[command(flatten)]
        faults: Faults,
    }

    fn paces(line: &[&str]) -> BTreeMap<Kind, Duration> {
        let words = ["bench", "--faults"].iter().chain(line);
        let line = Line::try_parse_from(words).expect("a valid line");
        line.faults.paces.paces()
    }

    #[test]
    fn only_the_faults_that_are_asked_for_strike_and_without_any_all_do() {
        let asked = paces(&["--kill-every", "2s", "--leader-kill-every", "20s"]);
        let expected = [(Kind::WorkerKilled, 2), (Kind::LeaderKilled, 20)];
        assert_eq!(
            asked,
            expected
                .map(|(kind, pace)| (kind, Duration::from_secs(pace)))
                .into()
        );
        assert_eq!(paces(&[]).len(), Kind::ALL.len());
    }
}
