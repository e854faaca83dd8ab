//! `envicutor bench`: the fleet beside plain fork and exec, on this machine, in one run.

use std::io::Read as _;

use super::{
    exit::{CliError, Exit},
    options::Options,
    terminal::{say, tell},
};
use crate::{
    bench::{self, Extent, Report, raw, root},
    bus::{Bus, Role},
    config::Config,
    docker,
    runtimes::{Runtimes, progress},
    standalone::Standalone,
    submission::names::RuntimeRef,
};

/// Measure this machine: jobs a second and times of a small program through a fleet of one, and the ratio to fork and exec of
/// the same interpreter in the same root file system. Needs root, for chroot.
///
/// The program copies a line. Times are from the publish to the result in the subscriber's hands, of one job at a time and of
/// many.
#[derive(Debug, Clone, clap::Args)]
pub struct Bench {
    /// Jobs of each series.
    #[arg(long, value_name = "N", default_value_t = 50)]
    jobs: usize,
    /// Jobs under way in the saturated series. Without it: two for each processor.
    #[arg(long, value_name = "N")]
    at_a_time: Option<usize>,
    /// The runtime: python or bash.
    #[arg(long, default_value = "python")]
    runtime: RuntimeRef,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measures and prints.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        let config = options.load()?;
        let mut fleet = Standalone::start(&config).await?;
        let measured = self.measure(&config, &mut fleet).await;
        fleet.stop().await?;
        let report = measured?;
        if self.json {
            let json = serde_json::to_string(&report);
            say(json.map_err(|error| CliError::Show(error.to_string()))?)?;
        } else {
            say(report.to_string().trim_end())?;
        }
        Ok(Exit::Ok)
    }

    async fn measure(&self, config: &Config, fleet: &mut Standalone) -> Result<Report, CliError> {
        fleet.ready().await?;
        let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
        let runtimes = Runtimes::load(&config.runtimes, &config.data_dir.0.join("runtimes"))?;
        let runtime = runtimes.catalogue().find(&self.runtime).ok_or_else(|| {
            CliError::Usage(format!(
                "--runtime {}: there is no such runtime",
                self.runtime
            ))
        })?;
        let container = &config.container;
        let docker = docker::connect(container.docker_host.as_deref(), container.call_timeout_us);
        let docker = docker.await.map_err(|error| failed(&error))?;
        let (name, version) = (&runtime.name, &runtime.version);
        let image = runtimes
            .image(&docker, name, version, &progress::trace)
            .await?;
        tell("unpacking the root file system");
        let root = root::unpack(&docker, &image, &config.data_dir.0.join("bench")).await;
        let root = root.map_err(|error| failed(&error))?;
        let mut nats = config.nats.clone();
        nats.url = fleet.url(Role::Service);
        let bus = Bus::connect(&nats, Role::Service, "envicutor-bench").await;
        let bus = bus.map_err(|error| failed(&error))?;
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let extent = Extent {
            jobs: self.jobs.max(1),
            at_a_time: self.at_a_time.unwrap_or(2 * processors).max(1),
        };
        let report = bench::measure(&bus, runtime, &root, extent, &|step| tell(step)).await;
        bus.close().await;
        report.map_err(|error| failed(&error))
    }
}

/// Takes the yardstick: what to run comes on standard input, what was measured goes to standard output.
pub fn run_raw() -> Result<Exit, CliError> {
    let mut order = String::new();
    std::io::stdin().read_to_string(&mut order)?;
    let order = serde_json::from_str(&order).map_err(|error| CliError::Usage(error.to_string()))?;
    let measured = raw::run(&order).map_err(|error| CliError::Failed(error.to_string()))?;
    let json = serde_json::to_string(&measured);
    say(json.map_err(|error| CliError::Show(error.to_string()))?)?;
    Ok(Exit::Ok)
}
