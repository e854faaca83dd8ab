//! `envicutor bench`: the fleet beside plain fork and exec, on this machine, in one run. With `--faults` it is [`super::faults`].

use std::{
    fmt::Display,
    io::BufRead as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{
    exit::{CliError, Exit},
    faults::Faults,
    options::Options,
    terminal::{say, tell},
};
use crate::{
    bench::{
        self, Bench as Measurement, Extent, cost::Meter, files, install, job::Job, raw::RawRun,
        redelivery, report::Report, root, series::Length, up::Up,
    },
    bus::{Bus, Role},
    config::Config,
    docker, nats_server,
    runtimes::{Runtimes, progress},
    submission::{
        names::SubmissionId,
        units::{ByteSize, Micros},
    },
};

/// Measure this machine: small programs through a fleet of one, beside fork and exec of the same programs in the same root
/// file system. Needs root, for chroot.
///
/// Times are from the publish to the result in the subscriber's hands. Each series is taken in rounds, the fleet's after fork
/// and exec's; a ratio is the median over the rounds.
#[derive(Debug, Clone, clap::Args)]
pub struct Bench {
    /// What is run: python, bash and cpp copy a line, no-op is /bin/true. Without it python, cpp and no-op.
    #[arg(value_enum)]
    job: Vec<Job>,
    /// How long each series is. Without it 3 s; with --install the most that one is, and without it 10 min.
    #[arg(long, value_name = "TIME")]
    time: Option<Micros>,
    /// End each series after so many jobs instead.
    #[arg(long, value_name = "N", conflicts_with = "time")]
    jobs: Option<usize>,
    /// How often each series is taken.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// A worker's slots, and the programs that fork and exec has under way when it is saturated. Without it 8, with --faults 2.
    #[arg(long, value_name = "N")]
    slots: Option<usize>,
    /// Submissions under way when the fleet is saturated. Without it two for each slot, so that no slot waits for us; with
    /// --faults eight.
    #[arg(long, value_name = "N")]
    at_a_time: Option<usize>,
    /// Something else: kill so many workers, one after the other, and measure how long what they held waits for its next start.
    #[arg(long, value_name = "N", conflicts_with_all = ["job", "time", "jobs", "rounds", "at_a_time"])]
    kills: Option<usize>,
    /// With --kills: how many tenants the submissions are spread over.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "kills")]
    tenants: usize,
    /// Something else: submit, run and collect a project of so many files, and measure what that takes of memory and of the
    /// network; then what submissions that share an input do.
    #[arg(long, value_name = "N", conflicts_with_all = ["job", "time", "jobs", "rounds", "at_a_time", "kills"])]
    files: Option<usize>,
    /// With --files: what the project's files hold together.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "512MiB",
        requires = "files"
    )]
    project_bytes: ByteSize,
    /// With --files: how many submissions share an input.
    #[arg(long, value_name = "N", default_value_t = 1_000, requires = "files")]
    sharing: usize,
    /// With --files: the input that they share.
    #[arg(long, value_name = "SIZE", default_value = "16MiB", requires = "files")]
    input_bytes: ByteSize,
    /// Something else: measure the throughput of a job while a runtime is installed on the fleet, and while none is, in turns.
    #[arg(long, conflicts_with_all = ["jobs", "kills", "files"])]
    install: bool,
    /// With --install: the packages that are installed, anew in each round.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "g++,cmake",
        requires = "install"
    )]
    packages: Vec<String>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    faults: Faults,
}

/// A directory of its own below `dir`, since what an earlier fleet left in its queues would be measured too; with a short name, since a
/// socket's path has little room.
fn own_directory(dir: &Path) -> std::io::Result<PathBuf> {
    let own = dir.join(format!("{:08x}", rand::random::<u32>()));
    std::fs::create_dir_all(&own)?;
    Ok(own)
}

/// How long a series is where nothing else is said: to be measured, and the most beside an installation.
const TIME: (Duration, Duration) = (Duration::from_secs(3), Duration::from_mins(10));

/// A worker's slots where nothing else is said: to be measured, and under faults, where most of a worker's life is its start.
const SLOTS: (usize, usize) = (8, 2);

impl Bench {
    /// Measures and prints.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        if self.faults.asked {
            let slots = self.slots.unwrap_or(SLOTS.1).max(1);
            let Self {
                faults,
                at_a_time,
                json,
                ..
            } = self;
            return faults.run(options, slots, at_a_time, json).await;
        }
        let config = options.load()?;
        let dir = config.data_dir.0.join("bench");
        std::fs::create_dir_all(&dir)?;
        if let Some(kills) = self.kills {
            let report = self.redelivery(&config, kills, &dir).await?;
            return self.show(&report);
        }
        if let Some(files) = self.files {
            let report = Box::pin(self.large(&config, files, &dir)).await?;
            return self.show(&report);
        }
        if self.install {
            let report = Box::pin(self.installing(&config, &dir)).await?;
            return self.show(&report);
        }
        let (id, slots) = (SubmissionId::generate().to_string(), self.slots());
        let up = Up::start(&options.arguments(), &id, slots, &dir.join("up.log")).await;
        let up = up.map_err(failed)?;
        let measured = self.measure(&config, &up, id).await;
        up.stop().await.map_err(failed)?;
        self.show(&measured?)
    }

    fn show(&self, report: &(impl Serialize + Display)) -> Result<Exit, CliError> {
        if self.json {
            let json = serde_json::to_string(report);
            say(json.map_err(|error| CliError::Show(error.to_string()))?)?;
        } else {
            say(report.to_string().trim_end())?;
        }
        Ok(Exit::Ok)
    }

    async fn redelivery(
        &self,
        config: &Config,
        kills: usize,
        dir: &Path,
    ) -> Result<redelivery::Report, CliError> {
        let dir = &own_directory(dir)?;
        let extent = redelivery::Extent {
            kills,
            tenants: self.tenants,
            slots: self.slots(),
        };
        let report = redelivery::measure(config, dir, extent, &|step| tell(step)).await;
        let report = report.map_err(failed)?;
        std::fs::remove_dir_all(dir)?;
        Ok(report)
    }

    async fn large(
        &self,
        config: &Config,
        files: usize,
        dir: &Path,
    ) -> Result<files::Report, CliError> {
        let dir = &own_directory(dir)?;
        let extent = files::Extent {
            files: files.max(1),
            bytes: self.project_bytes,
            sharing: self.sharing,
            input: self.input_bytes,
        };
        let report = Box::pin(files::measure(config, dir, extent, &|step| tell(step))).await;
        let report = report.map_err(failed)?;
        std::fs::remove_dir_all(dir)?;
        Ok(report)
    }

    async fn installing(&self, config: &Config, dir: &Path) -> Result<install::Report, CliError> {
        let dir = &own_directory(dir)?;
        let slots = self.slots.unwrap_or(processors()).max(1);
        let time = self.time.map_or(TIME.1, Micros::duration);
        let extent = install::Extent {
            job: self.job.first().copied().unwrap_or(Job::Python),
            rounds: self.rounds.max(1),
            most: time.max(Duration::from_millis(1)),
            slots,
            at_a_time: self.at_a_time.unwrap_or(2 * slots).max(1),
            packages: self.packages.clone(),
        };
        let report = Box::pin(install::measure(config, dir, &extent, &|step| tell(step))).await;
        std::fs::remove_dir_all(dir)?;
        report.map_err(failed)
    }

    async fn measure(
        &self,
        config: &Config,
        up: &Up,
        worker_id: String,
    ) -> Result<Report, CliError> {
        let runtimes = Runtimes::load(config, &config.data_dir.0.join("runtimes"))?;
        let container = &config.container;
        let docker = docker::connect(container.docker_host.as_deref(), container.call_timeout_us);
        let docker = docker.await.map_err(failed)?;
        let mut nats = config.nats.clone();
        up.service().clone_into(&mut nats.url);
        let bus = Bus::connect(&nats, Role::Service, "envicutor-bench").await;
        let bus = bus.map_err(failed)?;
        let nats_server = nats_server::running_pid(&config.data_dir.0)
            .ok_or_else(|| CliError::Failed("the fleet's nats-server has no pid file".into()))?;
        let meter = Meter {
            worker: up.pid(),
            worker_id,
            nats_server,
            docker: docker.clone(),
        };
        let extent = self.extent();
        let measurement = Measurement {
            bus: &bus,
            meter: &meter,
            extent,
            tell: &|step| tell(step),
        };
        let mut jobs = Vec::new();
        for job in self.jobs() {
            let plan = bench::plan(job, &runtimes.catalogue(), &config.ceilings.0);
            let plan = plan.map_err(failed)?;
            let (name, version) = &plan.runtime;
            let image = runtimes
                .image(&docker, name, version, &progress::trace)
                .await?;
            tell(format!("{job}: unpacking the root file system"));
            let root = root::unpack(&docker, &image, &config.data_dir.0.join("bench")).await;
            let root = root.map_err(failed)?;
            let measured = measurement.measure(job, &plan, &root).await;
            jobs.push(measured.map_err(failed)?);
        }
        let limits = measurement.measure_limits().await.map_err(failed)?;
        bus.close().await;
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            processors: processors(),
            slots: extent.slots,
            at_a_time: extent.at_a_time,
            rounds: extent.rounds,
            jobs,
            limits,
        })
    }

    fn extent(&self) -> Extent {
        let slots = self.slots();
        let time = self.time.map_or(TIME.0, Micros::duration);
        let time = time.max(Duration::from_millis(1));
        Extent {
            rounds: self.rounds.max(1),
            length: self
                .jobs
                .map_or(Length::Time(time), |jobs| Length::Jobs(jobs.max(1))),
            slots,
            at_a_time: self.at_a_time.unwrap_or(2 * slots).max(1),
        }
    }

    fn slots(&self) -> usize {
        self.slots.unwrap_or(SLOTS.0).max(1)
    }

    fn jobs(&self) -> Vec<Job> {
        if self.job.is_empty() {
            Job::DEFAULT.to_vec()
        } else {
            self.job.clone()
        }
    }
}

/// Of this machine.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

/// Takes the yardstick: what to run comes on standard input, what was measured goes to standard output.
pub fn run_raw() -> Result<Exit, CliError> {
    let (mut requests, mut order) = (std::io::stdin().lock(), String::new());
    requests.read_line(&mut order)?;
    let order: RawRun =
        serde_json::from_str(&order).map_err(|error| CliError::Usage(error.to_string()))?;
    order
        .run(requests, std::io::stdout().lock())
        .map_err(failed)?;
    Ok(Exit::Ok)
}
