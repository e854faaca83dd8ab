//! `envicutor submit FILE…`, or a project: publishes a submission. Prints its id; with `--wait` its result, with `--watch` also what happens
//! until then.

use serde::Serialize;

use super::{
    exit::{CliError, Exit},
    follow::{Patience, follow},
    options::Options,
    printer::{Form, Printer, say_json},
    program::ProgramArgs,
    terminal::{say, tell},
    transfer::{self, Output},
};
use crate::{
    bus::Role,
    client::{Client, Submitted, Watch},
    submission::{
        message::{EventsWanted, Submission},
        names::{Digest, Lane, SubmissionId, Tenant},
    },
};

/// Publish a submission and print its id.
///
/// What is too large for a message goes to the fleet's object store first; what is there already is not sent again.
///
/// Exits when the submission is stored: 0, or 2 when the fleet refuses it. With --wait, --watch or --output it exits as the result says: 0
/// finished and ok, 1 finished and not ok, 2 rejected, 3 failed, 5 when the time is over (the submission goes on).
#[derive(Debug, Clone, clap::Args)]
pub struct Submit {
    #[command(flatten)]
    program: ProgramArgs,
    /// The tenant whose queue it goes to.
    #[arg(long, default_value = "default")]
    tenant: Tenant,
    /// Its class of service.
    #[arg(long, value_enum, default_value = "interactive")]
    lane: Lane,
    /// Its id, which makes a repeated publish the same submission. Without it: a fresh one.
    #[arg(long)]
    id: Option<SubmissionId>,
    /// Wait for the result and print it.
    #[arg(long)]
    wait: bool,
    /// Show what happens until the result is there.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    output: Output,
    /// Print messages of the contract, one a line.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints of a submission that is stored.
#[derive(Serialize)]
struct Stored<'a> {
    tenant: &'a Tenant,
    id: &'a SubmissionId,
    lane: Lane,
    submission_digest: &'a Digest,
}

impl Submit {
    /// Publishes, and waits if asked to.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        // What is wrong with the files is told before a connection is needed.
        let named = self.program.runtime().cloned();
        let early = named.map(|runtime| self.program.program(runtime, self.events()));
        let early = early.transpose()?;
        let client = options.connect(Role::Service).await?;
        let program = if let Some(program) = early {
            program
        } else {
            let runtime = self.program.guess(&client.runtimes().await?)?;
            self.program.program(runtime, self.events())?
        };
        let exit = self.submit(options, &client, &program.submission).await;
        client.close().await;
        exit
    }

    async fn submit(
        &self,
        options: &Options,
        client: &Client,
        submission: &Submission,
    ) -> Result<Exit, CliError> {
        let submission = transfer::upload(client, &self.tenant, submission).await?;
        let id = self.id.clone().unwrap_or_else(SubmissionId::generate);
        let mut watch: Option<Watch> = None;
        if self.wait || self.watch || self.output.is_wanted() {
            watch = Some(client.watch(&self.tenant, &id).await?);
        }
        let submitted = client
            .submit(&self.tenant, self.lane, Some(id), &submission)
            .await?;
        let Some(mut watch) = watch else {
            return self.told(&submitted);
        };
        tell(format!("submitted {}", submitted.id));
        let form = if self.watch {
            Form::of_all(self.json)
        } else {
            Form::of_result(self.json)
        };
        let time = self.patience.time(options.load()?.client.wait_timeout_us);
        let of = (&submitted.tenant, &submitted.id);
        let mut printer = Printer::new(form);
        let result = follow(&mut watch, &mut printer, of, Some(&submitted), time).await?;
        self.output.write(client, &result).await?;
        Ok(Exit::of(&result))
    }

    fn told(&self, submitted: &Submitted) -> Result<Exit, CliError> {
        if self.json {
            say_json(&Stored {
                tenant: &submitted.tenant,
                id: &submitted.id,
                lane: submitted.lane,
                submission_digest: &submitted.submission_digest,
            })?;
        } else {
            say(submitted.id.as_str())?;
        }
        Ok(Exit::Ok)
    }

    fn events(&self) -> EventsWanted {
        if self.watch {
            self.program.events_to_watch()
        } else {
            EventsWanted::default()
        }
    }
}
