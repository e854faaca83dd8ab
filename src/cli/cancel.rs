//! `envicutor cancel ID`: ends a submission, queued or running.

use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    report::word,
    terminal::say,
};
use crate::{
    bus::Role,
    submission::{
        cancellation::{Cancellation, Cancelled},
        names::{SubmissionId, Tenant},
    },
};

/// Cancel a submission, queued or running; one that runs is killed.
///
/// Prints what it is now: cancelled, finished (it was over before) or unknown. Exits 0 where it is cancelled, also where it was so
/// before, else 1. With an operator's rights it needs no worker.
#[derive(Debug, Clone, clap::Args)]
pub struct Cancel {
    /// The submission.
    id: SubmissionId,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant: Tenant,
    /// Print the message of the contract.
    #[arg(long)]
    json: bool,
}

impl Cancel {
    /// Asks and prints.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        let client = options.connect(Role::Operator).await?;
        let state = client.cancel(&self.tenant, &self.id).await?;
        client.close().await;
        if self.json {
            say_json(&Cancellation { state })?;
        } else {
            say(word(&state))?;
        }
        Ok(match state {
            Cancelled::Cancelled => Exit::Ok,
            Cancelled::Finished | Cancelled::Unknown => Exit::NotOk,
        })
    }
}
