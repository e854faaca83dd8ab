//! `envicutor replay ID`: a submission that is over runs again.

use super::{
    dead::{TermArgs, connect, told},
    exit::{CliError, Exit},
    options::Options,
    printer::{Form, Printer, say_json},
    terminal::{say, tell},
};
use crate::{
    bus::Role,
    operations::replay::Replayed,
    submission::names::{SubmissionId, Tenant},
};

/// Have a submission run again that is over, whatever came of it: its next generation, whose result takes the place of the
/// one that stands. Needs the operator's rights.
///
/// One that failed is replayed from its dead letter, any other from its body as the fleet keeps it (nats.history_age_us).
#[derive(Debug, Clone, clap::Args)]
pub struct Replay {
    /// The submission.
    id: SubmissionId,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant: Tenant,
    #[command(flatten)]
    terms: TermArgs,
    /// Wait for the new result, print it, and exit as it says.
    #[arg(long)]
    wait: bool,
    /// Print an object, with --wait then the result.
    #[arg(long)]
    json: bool,
}

impl Replay {
    /// Publishes the next generation, and tells what came of it.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        let (tenant, id) = (&self.tenant, &self.id);
        let (bus, operations) = connect(options).await?;
        let terms = self.terms.clone().into();
        let replayed = operations.replay(tenant, id, &terms).await?;
        bus.close().await;
        if self.json {
            let mut shown = serde_json::to_value(&replayed)
                .map_err(|error| CliError::Show(error.to_string()))?;
            shown["tenant"] = tenant.as_str().into();
            shown["id"] = id.as_str().into();
            say_json(&shown)?;
        }
        let next = match replayed {
            Replayed::Replayed(next) | Replayed::WouldReplay(next) => next,
            Replayed::Skipped { message } | Replayed::Failed { message } => {
                return Err(CliError::Failed(format!("{tenant}/{id}: {message}")));
            }
        };
        if !self.json {
            let line = format!("{tenant}/{id}  {}", told(&next));
            if self.wait { tell(line) } else { say(line)? }
        }
        if !self.wait {
            return Ok(Exit::Ok);
        }
        let client = options.connect(Role::Operator).await?;
        let result = client.wait_for(tenant, id, next.generation, None).await?;
        client.close().await;
        Printer::new(Form::of_result(self.json)).result(&result)?;
        Ok(Exit::of(&result))
    }
}
