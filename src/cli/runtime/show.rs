//! `envicutor runtime show`: one runtime as the fleet offers it, and how its last installation ended. One whose only installation
//! failed is shown too: that is what its log is kept for.

use serde::Serialize;

use super::super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    report::word,
    terminal::{escape, escape_line, say, tell},
};
use crate::{
    bus::Role,
    submission::{
        catalogue::{Runtime, StageDefaults},
        installation::{Installation, InstallationState},
        names::RuntimeRef,
    },
};

/// Show one: its commands, environment and default limits, and how its last installation ended.
#[derive(Debug, Clone, clap::Args)]
pub struct Show {
    /// `python`, or with a version `python@3.11`.
    runtime: RuntimeRef,
    /// Print the log of its last installation too, as much of its end as is kept.
    #[arg(long)]
    log: bool,
    /// Print its part of the message of the contract, and the installation with its log as `installation`.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    runtime: Option<&'a Runtime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    installation: Option<&'a Installation>,
}

impl Show {
    pub(super) async fn run(&self, options: &Options) -> Result<Exit, CliError> {
        let client = options.connect(Role::Service).await?;
        let (catalogue, installation) =
            tokio::join!(client.runtimes(), client.installation(&self.runtime));
        client.close().await;
        let catalogue = catalogue?;
        let installation = installation.unwrap_or_else(|error| {
            tell(format!("its last installation cannot be read: {error}"));
            None
        });
        let runtime = catalogue.find(&self.runtime);
        if runtime.is_none() && installation.is_none() {
            let unknown = format!("the fleet has no runtime {}", self.runtime);
            return Err(CliError::Usage(unknown));
        }
        if self.json {
            say_json(&Shown {
                runtime,
                installation: installation.as_ref(),
            })?;
            return Ok(Exit::Ok);
        }
        match runtime {
            Some(runtime) => say(shown(runtime)?)?,
            None => say(format!("{}: the fleet does not have it", self.runtime))?,
        }
        match &installation {
            Some(installation) => self.say_installation(installation)?,
            None if self.log => tell("no installation of it is known, so there is no log"),
            None => {}
        }
        Ok(Exit::Ok)
    }

    fn say_installation(&self, installation: &Installation) -> Result<(), CliError> {
        say(ended(installation))?;
        for line in installation.error.iter().flat_map(|error| error.lines()) {
            say(format!("  {}", escape_line(line)))?;
        }
        let log = installation.log.trim_end();
        match (self.log, log.is_empty()) {
            (true, true) => tell("nothing of its log is kept yet"),
            (true, false) => {
                say("log of the last installation:")?;
                say(escape(log.as_bytes()))?;
            }
            (false, true) => {}
            (false, false) => tell(format!(
                "its log: envicutor runtime show {} --log",
                self.runtime
            )),
        }
        Ok(())
    }
}

/// How it ended, in a line.
fn ended(installation: &Installation) -> String {
    let state = match installation.state {
        InstallationState::Running => "under way",
        InstallationState::Installed => "installed",
        InstallationState::Failed => "failed",
        InstallationState::Unknown => "unknown to this program",
    };
    let at = match installation.ended_at {
        Some(at) => format!("at {at}"),
        None => format!("since {}", installation.started_at),
    };
    let image = installation.image.as_ref();
    let image = image.map_or_else(String::new, |image| format!(", image {image}"));
    format!(
        "last installation: {} {state} {at}, by {}{image}",
        installation.reference(),
        escape_line(&installation.installer)
    )
}

/// A runtime's commands, environment and default limits.
fn shown(runtime: &Runtime) -> Result<String, CliError> {
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
