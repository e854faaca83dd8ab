//! `envicutor runtime ls` and `runtime show`: what the fleet runs.

use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    terminal::{escape_line, say},
};
use crate::{
    bus::Role,
    submission::{
        catalogue::{Catalogue, Runtime as Entry, StageDefaults},
        names::RuntimeRef,
    },
};

/// Show the runtimes that the fleet offers.
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
}

impl Runtime {
    /// Asks a worker and prints.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        let client = options.connect(Role::Service).await?;
        let catalogue = client.runtimes().await?;
        client.close().await;
        match self {
            Self::Ls { json: true } => say_json(&catalogue)?,
            Self::Ls { json: false } => list(&catalogue)?,
            Self::Show { runtime, json } => {
                let unknown = || CliError::Usage(format!("the fleet has no runtime {runtime}"));
                let entry = catalogue.find(&runtime).ok_or_else(unknown)?;
                if json {
                    say_json(entry)?;
                } else {
                    say(shown(entry)?)?;
                }
            }
        }
        Ok(Exit::Ok)
    }
}

fn list(catalogue: &Catalogue) -> Result<(), CliError> {
    let width = |runtime: &Entry| runtime.reference().to_string().len();
    let width = catalogue.runtimes.iter().map(width).max().unwrap_or(0);
    for runtime in &catalogue.runtimes {
        let default = if runtime.default { "default" } else { "" };
        let description = escape_line(&runtime.description);
        let reference = runtime.reference().to_string();
        say(format!("{reference:<width$}  {default:<7}  {description}"))?;
    }
    Ok(())
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
