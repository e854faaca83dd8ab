//! `envicutor doctor`: what this machine allows, what isolation a worker gives here, and for each thing that is missing the one
//! command that would allow it.

use tokio_util::sync::CancellationToken;

use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    report::word,
    terminal::{escape_line, say},
};
use crate::{container::State, doctor::Diagnosis};

/// Say what this machine allows, and which isolation a worker gives here.
///
/// Makes a slot as a worker would. For each thing that is missing, the one command that would allow it. Exits with 0 where what is
/// configured is given, else with 1.
#[derive(Debug, Clone, clap::Args)]
pub struct Doctor {
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Looks, tries, prints.
    pub async fn run(
        self,
        options: &Options,
        shutdown: CancellationToken,
    ) -> Result<Exit, CliError> {
        let config = options.load()?;
        let id = format!("doctor-{:08x}", rand::random::<u32>());
        let diagnosis = tokio::select! {
            diagnosis = Diagnosis::make(&config, &id) => diagnosis,
            () = shutdown.cancelled() => return Err(CliError::Interrupted),
        };
        if self.json {
            say_json(&diagnosis)?;
        } else {
            print(&diagnosis)?;
        }
        Ok(if diagnosis.given.is_some() {
            Exit::Ok
        } else {
            Exit::NotOk
        })
    }
}

fn print(diagnosis: &Diagnosis) -> Result<(), CliError> {
    let width = diagnosis.findings.iter().map(|it| it.name.len()).max();
    let width = width.unwrap_or_default();
    for finding in &diagnosis.findings {
        let mark = match finding.state {
            State::Well => "ok     ",
            State::Weak => "weak   ",
            State::Missing => "missing",
        };
        let (name, found) = (&finding.name, escape_line(&finding.found));
        say(format!("{mark}  {name:<width$}  {found}"))?;
        if let Some(command) = &finding.command {
            say(format!("         {command}"))?;
        }
    }
    let configured = word(&diagnosis.configured);
    let given = diagnosis.given.map_or_else(
        || "none: a worker does not start".to_owned(),
        |it| word(&it),
    );
    say(format!(
        "isolation  {given} (container.isolation = {configured:?})"
    ))?;
    if let Some(problem) = &diagnosis.problem {
        say(format!(
            "sandbox    cannot be given: {}",
            escape_line(problem)
        ))?;
    }
    Ok(())
}
