//! Follows a submission to its end, with a time limit.

use std::time::Duration;

use tokio::time::timeout;

use super::{exit::CliError, printer::Printer};
use crate::{
    client::{ClientError, Submitted, Update, Watch},
    submission::{
        names::{SubmissionId, Tenant},
        result::SubmissionResult,
        units::Micros,
    },
};

/// How long to wait.
#[derive(Debug, Clone, clap::Args)]
pub struct Patience {
    /// The longest wait for the result: `30s`, `10min`.
    #[arg(long, value_name = "TIME")]
    timeout: Option<Micros>,
}

impl Patience {
    /// The longest wait, given the configuration's.
    pub fn time(&self, configured: Micros) -> Duration {
        self.timeout.unwrap_or(configured).duration()
    }
}

/// Shows what happens until the result is there, and the result. Where `submitted` is given, a result of another submission
/// under its id is an error.
pub async fn follow(
    watch: &mut Watch,
    printer: &mut Printer,
    of: (&Tenant, &SubmissionId),
    submitted: Option<&Submitted>,
    time: Duration,
) -> Result<SubmissionResult, CliError> {
    let followed = timeout(time, until_result(watch, printer)).await;
    let result = followed.unwrap_or_else(|_| {
        Err(CliError::Client(ClientError::TimedOut {
            tenant: of.0.clone(),
            id: of.1.clone(),
            waited: time,
        }))
    })?;
    let result = match submitted {
        Some(submitted) => submitted.own(result)?,
        None => result,
    };
    printer.result(&result)?;
    Ok(result)
}

async fn until_result(
    watch: &mut Watch,
    printer: &mut Printer,
) -> Result<SubmissionResult, CliError> {
    while let Some(update) = watch.next().await {
        match update? {
            Update::Event(event) => printer.event(&event)?,
            Update::Result(result) => return Ok(*result),
        }
    }
    Err(ClientError::Closed.into())
}
