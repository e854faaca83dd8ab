//! `envicutor result ID`: the result that stands.

use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::{Form, Printer},
};
use crate::{
    bus::Role,
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
    /// Print the message of the contract.
    #[arg(long)]
    json: bool,
}

impl Result {
    /// Reads and prints.
    pub async fn run(self, options: &Options) -> std::result::Result<Exit, CliError> {
        let client = options.connect(Role::Service).await?;
        let result = client.result(&self.tenant, &self.id).await?;
        client.close().await;
        let Some(result) = result else {
            let (tenant, id) = (self.tenant, self.id);
            return Err(CliError::NoResult { tenant, id });
        };
        Printer::new(Form::of_result(self.json)).result(&result)?;
        Ok(Exit::of(&result))
    }
}
