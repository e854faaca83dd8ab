//! What an installation takes from submissions: the same job through a fleet of one, saturated, while a runtime is installed on it and
//! while none is, in turns. The installation is made anew each time, with its packages fetched again, and works on as many processors
//! as there are; it is under way for the whole of its series. The fleet has a data directory of its own, which is removed.

use std::{
    fmt,
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use async_nats::Subscriber;
use bollard::{Docker, query_parameters::RemoveImageOptionsBuilder};
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::time::timeout;

use super::{
    fleet::{self, FleetError},
    job::Job,
    report::Spread,
    series::{Length, Measured, Series},
};
use crate::{
    bus::{
        Bus, ConnectError, Role,
        installations::{self, InstallationError, Records},
    },
    config::Config,
    docker::{self, DockerError},
    installer::LogLine,
    nats_server::binary,
    standalone::{Standalone, StandaloneError},
    submission::{
        installation::{Installation, InstallationState},
        message::Submission,
        names::{NameError, RuntimeName},
        units::Micros,
    },
};

/// The runtime that is installed.
const NAME: &str = "bench-install";

/// How long nothing may be heard of an installation.
const PATIENCE: Duration = Duration::from_hours(1);

/// How often it is looked whether it is over, besides being told.
const LOOK: Duration = Duration::from_secs(1);

/// How long jobs run that are not measured, before the first round.
const WARM: Duration = Duration::from_secs(2);

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Extent {
    /// The job of which there is a throughput.
    pub job: Job,
    /// How often each series is taken.
    pub rounds: usize,
    /// The most that a series takes. It ends with its installation.
    pub most: Duration,
    /// The worker's slots.
    pub slots: usize,
    /// Jobs under way.
    pub at_a_time: usize,
    /// What is installed, from the base image's own archive.
    pub packages: Vec<String>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum InstallBenchError {
    /// The disk.
    #[error("the benchmark's files cannot be written: {0}")]
    Io(#[from] io::Error),
    /// There is no program of a server.
    #[error(transparent)]
    Binary(#[from] binary::BinaryError),
    /// The fleet.
    #[error(transparent)]
    Standalone(#[from] StandaloneError),
    /// The connection to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The Engine.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// A job's runtime can be none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The jobs.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// An installation cannot be asked for.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// Events cannot be listened to.
    #[error("events cannot be subscribed to: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// It failed.
    #[error(
        "the installation failed, so that nothing is measured of it: {0}. Where Debian's mirror has an address that is not global, egress.allow_networks has to name its network"
    )]
    Failed(String),
    /// It is silent.
    #[error("nothing was heard of the installation for {PATIENCE:?}")]
    Silence,
}

/// What an installation took.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of this program.
    pub version: &'static str,
    /// The machine's processors.
    pub processors: usize,
    /// The worker's slots.
    pub slots: usize,
    /// Jobs under way.
    pub at_a_time: usize,
    /// The job.
    pub job: Job,
    /// What was installed.
    pub packages: Vec<String>,
    /// The weight of its container; that of a slot's is 1024.
    pub cpu_shares: i64,
    /// How much of the processors it may use where others leave nothing.
    pub busy_percent: u64,
    /// How much of a processor its image's way into the store may take.
    pub export_percent: u64,
    /// Each turn.
    pub rounds: Vec<Round>,
    /// Jobs a second with an installation over those without one in the same round.
    pub ratio: Spread,
}

/// One turn.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Jobs while it was under way.
    pub with: Measured,
    /// Jobs for as long while none was.
    pub without: Measured,
    /// From its container's start to its registration, in microseconds.
    pub installation_us: Micros,
    /// Whether it outlived the longest series, and went on after it.
    pub outlived: bool,
    /// The one throughput over the other.
    pub ratio: f64,
}

/// A series beside an installation.
struct Beside {
    series: Series,
    took: Duration,
    outlived: bool,
}

/// Installs and measures. Everything of it is kept in `dir`, and `tell` hears what is done next.
pub async fn measure(
    config: &Config,
    dir: &Path,
    extent: &Extent,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Report, InstallBenchError> {
    let mut own = config.clone();
    let cache = config.data_dir.0.join("nats");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&cache)?;
    own.nats.server = Some(binary::obtain(config.nats.server.as_deref(), &cache).await?);
    own.nats.server_port = 0;
    dir.clone_into(&mut own.data_dir.0);
    own.worker.slots = Some(extent.slots);
    // Nothing else runs beside what is measured.
    own.runtimes.measure_after_us = Micros(u64::MAX / 4);
    let mut fleet = Box::pin(Standalone::start(&own)).await?;
    let url = fleet.url(Role::Service);
    let measured = async {
        fleet.ready().await?;
        tokio::select! {
            measured = rounds(&own, url, extent, tell) => measured,
            error = fleet.ended() => Err(error.into()),
        }
    };
    let measured = measured.await;
    fleet.stop().await?;
    let rounds = measured?;
    let ratios = rounds.iter().map(|round| round.ratio).collect();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        slots: extent.slots,
        at_a_time: extent.at_a_time,
        job: extent.job,
        packages: extent.packages.clone(),
        cpu_shares: own.installer.cpu_shares,
        busy_percent: own.installer.busy_percent,
        export_percent: own.installer.export_percent,
        rounds,
        ratio: Spread::of(ratios),
    })
}

async fn rounds(
    config: &Config,
    url: String,
    extent: &Extent,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Round>, InstallBenchError> {
    let mut nats = config.nats.clone();
    nats.url = url;
    let container = &config.container;
    let docker = docker::connect(container.docker_host.as_deref(), container.call_timeout_us);
    let bench = Bench {
        bus: Bus::connect(&nats, Role::Service, "envicutor-bench").await?,
        docker: docker.await?,
        name: NAME.parse()?,
        submission: extent.job.submission()?,
        extent,
    };
    let measured = bench.rounds(tell).await;
    bench.bus.close().await;
    measured
}

/// A fleet on which something is installed.
struct Bench<'a> {
    bus: Bus,
    docker: Docker,
    name: RuntimeName,
    submission: Submission,
    extent: &'a Extent,
}

impl Bench<'_> {
    async fn rounds(&self, tell: &(dyn Fn(&str) + Sync)) -> Result<Vec<Round>, InstallBenchError> {
        tell("warming up: the job, and an installation, which stores the base image");
        self.alone(WARM).await?;
        let (mut events, sequence) = self.publish(&definition(&[], "true")).await?;
        let first = self.end(&mut events, sequence).await?;
        self.forget(&first).await;
        let mut rounds: Vec<Round> = Vec::new();
        let mut last: Option<Duration> = None;
        for number in 1..=self.extent.rounds {
            tell(&format!("round {number} of {}", self.extent.rounds));
            // Which of the two is first changes, as soon as it is known how long it takes.
            let before = match last.filter(|_| number % 2 == 0) {
                Some(time) => Some(self.alone(time).await?),
                None => None,
            };
            let Beside {
                series: with,
                took,
                outlived,
            } = self.beside().await?;
            last = Some(with.elapsed);
            let without = match before {
                Some(before) => before,
                None => self.alone(with.elapsed).await?,
            };
            let ratio = with.rate() / without.rate().max(f64::EPSILON);
            tell(&format!(
                "round {number}: {:.1} jobs/s beside an installation, {:.1} without: {ratio:.3}",
                with.rate(),
                without.rate()
            ));
            rounds.push(Round {
                with: with.measured(),
                without: without.measured(),
                installation_us: Micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
                outlived,
                ratio,
            });
        }
        Ok(rounds)
    }

    /// Jobs for so long, and nothing else.
    async fn alone(&self, time: Duration) -> Result<Series, InstallBenchError> {
        let at_a_time = self.extent.at_a_time;
        let ran = fleet::run(&self.bus, &self.submission, Length::Time(time), at_a_time).await?;
        Ok(ran.series)
    }

    /// Jobs from the start of an installation's container to its registration, or for the longest time.
    async fn beside(&self) -> Result<Beside, InstallBenchError> {
        let definition = definition(&self.extent.packages, SCRIPT);
        let (mut events, sequence) = self.publish(&definition).await?;
        self.begun(&mut events, sequence).await?;
        let began = Instant::now();
        let over = AtomicBool::new(false);
        let watching = async {
            let ended = self.end(&mut events, sequence).await;
            over.store(true, Ordering::Relaxed);
            ended.map(|record| (record, began.elapsed()))
        };
        let most = self.extent.most;
        let running = async {
            let goes_on = |_| !over.load(Ordering::Relaxed) && began.elapsed() < most;
            let at_a_time = self.extent.at_a_time;
            let ran = fleet::run_while(&self.bus, &self.submission, goes_on, at_a_time).await;
            (ran, !over.load(Ordering::Relaxed))
        };
        let (ended, (ran, outlived)) = tokio::join!(watching, running);
        let (record, took) = ended?;
        self.forget(&record).await;
        Ok(Beside {
            series: ran?.series,
            took,
            outlived,
        })
    }

    /// Asks for an installation: what is told of it, and its place in the stream.
    async fn publish(&self, definition: &str) -> Result<(Subscriber, u64), InstallBenchError> {
        let subject = self.bus.names.installation_event(self.name.as_str(), "*");
        let events = self.bus.client.subscribe(subject).await?;
        // The acknowledgement of the one before may be on its way yet.
        let published = loop {
            match installations::publish(&self.bus, &self.name, definition).await {
                Err(InstallationError::Underway(_)) => tokio::time::sleep(LOOK).await,
                published => break published?,
            }
        };
        Ok((events, published))
    }

    /// Waits until its container starts.
    async fn begun(&self, events: &mut Subscriber, sequence: u64) -> Result<(), InstallBenchError> {
        loop {
            let event = timeout(PATIENCE, events.next()).await;
            let event = event.ok().flatten().ok_or(InstallBenchError::Silence)?;
            if let Ok(line) = serde_json::from_slice::<LogLine>(&event.payload)
                && line.sequence == sequence
                && line.step
                && line.line.ends_with(": installing")
            {
                return Ok(());
            }
            if let Some(record) = self.ended(sequence).await? {
                return good(record).map(drop);
            }
        }
    }

    /// Waits until it is over, and well.
    async fn end(
        &self,
        events: &mut Subscriber,
        sequence: u64,
    ) -> Result<Installation, InstallBenchError> {
        let mut heard = Instant::now();
        loop {
            if let Some(record) = self.ended(sequence).await? {
                return good(record);
            }
            // Lines of its log come by the dozen: they are no reason to look.
            let look = tokio::time::sleep(LOOK);
            tokio::pin!(look);
            loop {
                tokio::select! {
                    () = &mut look => break,
                    event = events.next() => {
                        let event = event.ok_or(InstallBenchError::Silence)?;
                        heard = Instant::now();
                        if event.subject.ends_with(".ended") {
                            break;
                        }
                    }
                }
            }
            if heard.elapsed() > PATIENCE {
                return Err(InstallBenchError::Silence);
            }
        }
    }

    async fn ended(&self, sequence: u64) -> Result<Option<Installation>, InstallBenchError> {
        let record = Records::new(&self.bus).of(&self.name, sequence).await?;
        Ok(record.filter(Installation::has_ended))
    }

    /// Removes the image that was made; what is in the store goes with the data directory.
    async fn forget(&self, record: &Installation) {
        let Some(image) = &record.image else { return };
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        let removed = self
            .docker
            .remove_image(image.as_str(), Some(options), None)
            .await;
        if let Err(error) = removed {
            tracing::warn!(%error, %image, "the image of the benchmark stays");
        }
    }
}

/// An installation that went well.
fn good(record: Installation) -> Result<Installation, InstallBenchError> {
    if record.state == InstallationState::Installed {
        return Ok(record);
    }
    Err(InstallBenchError::Failed(record.error.unwrap_or_default()))
}

/// After the packages: every processor compresses what there is now.
const SCRIPT: &str =
    "find /usr -xdev -type f -print0 | xargs -0 -P \"$(nproc)\" -n 100 gzip -1 -c >/dev/null";

/// A definition that no image was made of before.
fn definition(packages: &[String], script: &str) -> String {
    let packages: Vec<String> = packages.iter().map(|it| format!("{it:?}")).collect();
    format!(
        "name = \"{NAME}\"\nversion = \"1\"\ndefault = true\ndescription = \"A benchmark's\"\nsource_file = \"main.sh\"\n\
         packages = [{}]\nscript = '''\n# {:016x}\n{script}\n'''\nrun.command = [\"/bin/bash\", \"{{entry}}\"]\n\
         [[tests]]\nname = \"runs\"\nsource = \"echo runs\"\nexpected = \"runs\"\n",
        packages.join(", "),
        rand::random::<u64>()
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "envicutor {}, {} processors, {} slots, {} jobs under way; job {}",
            self.version, self.processors, self.slots, self.at_a_time, self.job
        )?;
        writeln!(
            f,
            "installed beside it: {}; weight {} (a slot's is 1024), {} % of the processors where nothing idles, {} % of one for the image's way into the store\n",
            self.packages.join(" "),
            self.cpu_shares,
            self.busy_percent,
            self.export_percent
        )?;
        writeln!(
            f,
            "round  jobs/s with  without  ratio  p50 with  without (ms)  installation (s)"
        )?;
        let milliseconds = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
        for (number, round) in self.rounds.iter().enumerate() {
            let outlived = if round.outlived {
                ", longer than its series"
            } else {
                ""
            };
            writeln!(
                f,
                "{:>5}  {:>11.1}  {:>7.1}  {:>5.3}  {:>8.1}  {:>12.1}  {:>16.1}{outlived}",
                number + 1,
                round.with.jobs_per_second,
                round.without.jobs_per_second,
                round.ratio,
                milliseconds(round.with.p50_us),
                milliseconds(round.without.p50_us),
                round.installation_us.duration().as_secs_f64()
            )?;
        }
        writeln!(
            f,
            "\nthroughput beside an installation over that without one: median {:.3}, {:.3} to {:.3}",
            self.ratio.median, self.ratio.least, self.ratio.most
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtimes::definition::Definition;

    #[test]
    fn what_is_installed_is_a_definition_that_was_never_made_before() {
        let packages = ["g++".to_owned(), "cmake".to_owned()];
        let parsed = |text: &str| Definition::parse("x", text).expect("valid");
        let first = parsed(&definition(&packages, SCRIPT));
        assert_eq!(first.packages, packages);
        let second = parsed(&definition(&packages, SCRIPT));
        assert_ne!(first.image_digest("base"), second.image_digest("base"));
    }
}
