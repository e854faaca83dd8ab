//! `envicutor result ID`: the result that stands.

use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::{Form, Printer},
    terminal::tell,
    transfer::Output,
};
use crate::{
    bus::Role,
    client::Status,
    submission::names::{SubmissionId, Tenant},
};

/// Print the result of a submission.
///
/// Exits as the result says: 0 finished and ok, 1 finished and not ok, 2 rejected, 3 failed; 5 when there is none (yet).
#[derive(Debug, Clone, clap::Args)]
pub struct Result {
    /// The submission.
    id: SubmissionId,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant: Tenant,
    #[command(flatten)]
    output: Output,
    /// Print the message of the contract.
    #[arg(long)]
    json: bool,
}

impl Result {
    /// Reads and prints.
    pub async fn run(self, options: &Options) -> std::result::Result<Exit, CliError> {
        let client = options.connect(Role::Service).await?;
        let status = client.status(&self.tenant, &self.id).await?;
        let (result, newer) = match status {
            Status::Finished { result } => (Some(*result), None),
            // A replay: the result before it stands until it has one of its own.
            Status::Queued { generation, .. } | Status::Running { generation, .. } => {
                let standing = client.result(&self.tenant, &self.id).await?;
                (standing, Some(generation))
            }
            Status::Unknown => (None, None),
        };
        let Some(result) = result else {
            client.close().await;
            let (tenant, id) = (self.tenant, self.id);
            return Err(CliError::NoResult { tenant, id });
        };
        if let Some(generation) = newer.filter(|newer| *newer > result.generation) {
            tell(format!(
                "generation {generation} is queued or running; this is the result of generation {}",
                result.generation
            ));
        }
        Printer::new(Form::of_result(self.json)).result(&result)?;
        self.output.write(&client, &result).await?;
        client.close().await;
        Ok(Exit::of(&result))
    }
}
