//! `envicutor status ID`: where a submission is.

use time::format_description::well_known::Rfc3339;

use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    report::word,
    terminal::{escape_line, say},
};
use crate::{
    bus::Role,
    client::Status as Found,
    submission::names::{SubmissionId, Tenant},
};

/// Say where a submission is: queued, running, finished or unknown.
///
/// Exits 0 whenever that could be told, also of one that is unknown.
#[derive(Debug, Clone, clap::Args)]
pub struct Status {
    /// The submission.
    id: SubmissionId,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant: Tenant,
    /// Print an object with the field `state`.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Asks and prints.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        let client = options.connect(Role::Service).await?;
        let status = client.status(&self.tenant, &self.id).await?;
        client.close().await;
        if self.json {
            say_json(&status)?;
        } else {
            say(line(&status))?;
        }
        Ok(Exit::Ok)
    }
}

/// What tells a replay.
fn replayed(generation: u64) -> String {
    match generation {
        0 => String::new(),
        generation => format!(", generation {generation}"),
    }
}

fn line(status: &Found) -> String {
    let instant = |at: &time::OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    match status {
        Found::Queued {
            generation,
            lane,
            published_at,
        } => format!(
            "queued in {lane} since {}{}",
            instant(published_at),
            replayed(*generation)
        ),
        Found::Running {
            generation,
            worker,
            attempt,
            started_at,
        } => format!(
            "running on {} since {}, attempt {attempt}{}",
            escape_line(worker),
            instant(started_at),
            replayed(*generation)
        ),
        Found::Finished { result } => {
            let verdict = result
                .verdict
                .map(|verdict| format!(": {}", word(&verdict)));
            format!(
                "{}{}{}",
                word(&result.outcome),
                verdict.unwrap_or_default(),
                replayed(result.generation)
            )
        }
        Found::Unknown => "unknown".to_owned(),
    }
}
