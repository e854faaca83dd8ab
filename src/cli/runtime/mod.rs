//! `envicutor runtime`: what the fleet runs. [`install`] adds to it, `change` takes away and puts back, [`mod@test`] holds it against its
//! self-tests.

mod change;
pub mod install;
pub mod test;
pub mod tested;

use tokio_util::sync::CancellationToken;

use self::{change::Change, install::Install};
use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    report::word,
    terminal::{escape_line, say},
    until,
};
use crate::{
    bus::Role,
    submission::{
        catalogue::{Catalogue, Runtime as Entry, StageDefaults},
        names::RuntimeRef,
        units::Micros,
    },
};

/// Show, change and test the runtimes that the fleet offers.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Runtime {
    /// List them.
    Ls {
        /// Print the message of the contract.
        #[arg(long)]
        json: bool,
    },
    /// Show one: its commands, environment and default limits.
    Show {
        /// `python`, or with a version `python@3.11`.
        runtime: RuntimeRef,
        /// Print its part of the message of the contract.
        #[arg(long)]
        json: bool,
    },
    #[allow(missing_docs, reason = "the command's help is that of its own type")]
    Install(Install),
    /// Take an installed version out of the catalogue. Submissions that run go on.
    Rm {
        /// `go`, or with a version `go@1.19`.
        runtime: RuntimeRef,
    },
    /// Put back what a version was before its last installation or removal.
    Rollback {
        /// `go`, or with a version `go@1.19`.
        runtime: RuntimeRef,
    },
    #[allow(missing_docs, reason = "the command's help is that of its own type")]
    Test(test::Test),
}

impl Runtime {
    /// Asks a worker and prints; or has an installer change something; or tests.
    pub async fn run(
        self,
        options: &Options,
        shutdown: CancellationToken,
    ) -> Result<Exit, CliError> {
        let remove = |runtime| change::run(options, runtime, Change::Remove);
        let roll_back = |runtime| change::run(options, runtime, Change::RollBack);
        match &self {
            Self::Ls { json } => until(&shutdown, Box::pin(ls(options, *json))).await,
            Self::Install(install) => until(&shutdown, Box::pin(install.run(options))).await,
            Self::Rm { runtime } => until(&shutdown, Box::pin(remove(runtime))).await,
            Self::Rollback { runtime } => until(&shutdown, Box::pin(roll_back(runtime))).await,
            Self::Show { runtime, json } => {
                until(&shutdown, Box::pin(show(options, runtime, *json))).await
            }
            Self::Test(test) => Box::pin(test.clone().run(options, shutdown)).await,
        }
    }
}

async fn catalogue(options: &Options) -> Result<Catalogue, CliError> {
    let client = options.connect(Role::Service).await?;
    let catalogue = client.runtimes().await?;
    client.close().await;
    Ok(catalogue)
}

async fn ls(options: &Options, json: bool) -> Result<Exit, CliError> {
    let catalogue = catalogue(options).await?;
    if json {
        say_json(&catalogue)?;
    } else {
        list(&catalogue)?;
    }
    Ok(Exit::Ok)
}

async fn show(options: &Options, runtime: &RuntimeRef, json: bool) -> Result<Exit, CliError> {
    let catalogue = catalogue(options).await?;
    let unknown = || CliError::Usage(format!("the fleet has no runtime {runtime}"));
    let entry = catalogue.find(runtime).ok_or_else(unknown)?;
    if json {
        say_json(entry)?;
    } else {
        say(shown(entry)?)?;
    }
    Ok(Exit::Ok)
}

fn list(catalogue: &Catalogue) -> Result<(), CliError> {
    let width = |runtime: &Entry| runtime.reference().to_string().len();
    let width = catalogue.runtimes.iter().map(width).max().unwrap_or(0);
    for runtime in &catalogue.runtimes {
        let default = if runtime.default { "default" } else { "" };
        let description = escape_line(&runtime.description);
        let reference = runtime.reference().to_string();
        let cost = cost(runtime);
        say(format!(
            "{reference:<width$}  {default:<7}  {cost:>25}  {description}"
        ))?;
    }
    Ok(())
}

/// What starting it costs, where that is known.
fn cost(runtime: &Entry) -> String {
    runtime.start_cost.as_ref().map_or(String::new(), |cost| {
        let milliseconds = |us: Micros| us.duration().as_secs_f64() * 1000.0;
        format!(
            "starts in {:.1} ms, {}",
            milliseconds(cost.wall_us),
            cost.memory_bytes
        )
    })
}

/// A runtime as TOML, which reads well and has the same field names.
fn shown(runtime: &Entry) -> Result<String, CliError> {
    let mut lines = vec![
        format!(
            "{}: {}",
            runtime.reference(),
            escape_line(&runtime.description)
        ),
        format!("default: {}", if runtime.default { "yes" } else { "no" }),
        format!("source file: {}", escape_line(&runtime.source_file)),
    ];
    if let Some(cost) = &runtime.start_cost {
        lines.push(format!(
            "a program that does nothing: cpu {} us, wall {} us, memory {} bytes (isolation {})",
            cost.cpu_us.0,
            cost.wall_us.0,
            cost.memory_bytes.0,
            word(&cost.isolation)
        ));
    }
    for (name, value) in &runtime.env {
        lines.push(format!("env: {}", escape_line(&format!("{name}={value}"))));
    }
    let stages = runtime.compile.iter().map(|stage| ("compile", stage));
    for (name, stage) in stages.chain([("run", &runtime.run)]) {
        lines.push(format!("{name}: {}", escape_line(&stage.command.join(" "))));
        lines.extend(limits(stage)?);
    }
    Ok(lines.join("\n"))
}

/// The limits by their fields, in the messages' units.
fn limits(stage: &StageDefaults) -> Result<Vec<String>, CliError> {
    let fields = serde_json::to_value(&stage.limits);
    let fields = fields.map_err(|error| CliError::Show(error.to_string()))?;
    let fields = fields.as_object().into_iter().flatten();
    Ok(fields
        .map(|(name, value)| format!("  {name} = {value}"))
        .collect())
}
