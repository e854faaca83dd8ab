//! `envicutor watch ID`: what happens with a submission, from its beginning as far as that is still known, to its result.

use super::{
    exit::{CliError, Exit},
    follow::{Patience, follow},
    options::Options,
    printer::{Form, Printer},
};
use crate::{
    bus::Role,
    submission::names::{SubmissionId, Tenant},
};

/// Show what happens with a submission until its result is there.
///
/// Exits as the result says: 0 finished and ok, 1 finished and not ok, 2 rejected, 3 failed; 5 when the time is over.
#[derive(Debug, Clone, clap::Args)]
pub struct Watch {
    /// The submission. It need not be published yet.
    id: SubmissionId,
    /// Whose it is.
    #[arg(long, default_value = "default")]
    tenant: Tenant,
    #[command(flatten)]
    patience: Patience,
    /// Print each event and the result as messages of the contract, one a line.
    #[arg(long)]
    json: bool,
}

impl Watch {
    /// Watches and prints.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        let client = options.connect(Role::Service).await?;
        let time = self.patience.time(options.load()?.client.wait_timeout_us);
        let mut watch = client.watch_all(&self.tenant, &self.id).await?;
        let mut printer = Printer::new(Form::of_all(self.json));
        let of = (&self.tenant, &self.id);
        let result = follow(&mut watch, &mut printer, of, None, time).await;
        client.close().await;
        Ok(Exit::of(&result?))
    }
}
