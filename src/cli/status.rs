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

fn line(status: &Found) -> String {
    let instant = |at: &time::OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    match status {
        Found::Queued { lane, published_at } => {
            format!("queued in {lane} since {}", instant(published_at))
        }
        Found::Running {
            worker,
            attempt,
            started_at,
        } => format!(
            "running on {} since {}, attempt {attempt}",
            escape_line(worker),
            instant(started_at)
        ),
        Found::Finished { result } => match result.verdict {
            Some(verdict) => format!("{}: {}", word(&result.outcome), word(&verdict)),
            None => word(&result.outcome),
        },
        Found::Unknown => "unknown".to_owned(),
    }
}
