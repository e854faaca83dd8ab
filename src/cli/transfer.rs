//! What goes to the object store before a publish, and what comes back with a result, with how far it is on standard error.

use std::{path::PathBuf, sync::Arc};

use super::{
    exit::CliError,
    progress::Progress,
    terminal::{escape_line, tell},
};
use crate::{
    client::{Client, Receiving, Sending},
    submission::{message::Submission, names::Tenant, result::SubmissionResult, units::ByteSize},
};

/// Files whose paths are told one by one.
const MOST_TOLD: usize = 20;

/// `submission` with all of it where it is to be for a publish.
pub async fn upload(
    client: &Client,
    tenant: &Tenant,
    submission: &Submission,
) -> Result<Submission, CliError> {
    let progress = Arc::new(Progress::of_bytes());
    let shown = Arc::clone(&progress);
    let on = move |sending| match sending {
        Sending::Reading { bytes } => shown.reach("reading", bytes, 0),
        Sending::Uploading { sent, all } => shown.reach("sending", sent, all),
    };
    let sent = client.upload(tenant, submission, Arc::new(on)).await;
    progress.end();
    Ok(sent?.into_owned())
}

/// Where what a submission left goes.
#[derive(Debug, Clone, clap::Args)]
pub struct Output {
    /// Write the collected files and what the program wrote, whole, to this directory (see --collect). It is made where it is
    /// missing; nothing is written outside of it.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace what is in that directory already.
    #[arg(long, requires = "output")]
    force: bool,
}

impl Output {
    /// Whether anything is to be written.
    pub fn is_wanted(&self) -> bool {
        self.output.is_some()
    }

    /// Writes it, if it is wanted.
    pub async fn write(&self, client: &Client, result: &SubmissionResult) -> Result<(), CliError> {
        let Some(dir) = &self.output else {
            return Ok(());
        };
        let progress = Progress::of_bytes();
        let on = |Receiving { received, all }| progress.reach("receiving", received, all);
        let fetched = client.fetch_telling(result, dir, self.force, &on).await;
        progress.end();
        let fetched = fetched?;
        for file in fetched.iter().take(MOST_TOLD) {
            let path = escape_line(&file.path.to_string_lossy());
            tell(format!("wrote {path} ({})", file.size_bytes));
        }
        if fetched.len() > MOST_TOLD {
            let bytes = fetched.iter().map(|file| file.size_bytes.0).sum();
            let (files, dir) = (fetched.len(), dir.display());
            tell(format!(
                "{files} files in all to {dir}, {}",
                ByteSize(bytes)
            ));
        }
        Ok(())
    }
}
