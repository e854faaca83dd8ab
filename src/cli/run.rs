//! `envicutor run FILE…`, or a project: one shot on this machine. Uses the `envicutor up` of the data directory where one runs; else starts
//! everything, and stops it again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    exit::{CliError, Exit},
    follow::{Patience, follow},
    options::Options,
    printer::{Form, Printer},
    program::{Program, ProgramArgs},
    terminal::tell,
    transfer::{self, Output},
};
use crate::{
    bus::Role,
    client::Client,
    config::Config,
    nats_server::{self, ServerError},
    runtimes::Runtimes,
    standalone::{Standalone, StandaloneError},
    submission::{
        message::Submission,
        names::{Lane, SubmissionId, Tenant},
        units::Micros,
    },
};

/// How often a data directory that is in use is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Run a program on this machine, now, in a container, and say what came of it.
///
/// What it writes to standard output and standard error goes to ours as it comes: on a terminal with control characters escaped,
/// else as it is. The report follows on standard output.
/// The first use prepares what is missing: the NATS server, the base image, the runtime's image.
///
/// Exits 0 finished and ok, 1 finished and not ok, 2 rejected, 3 failed, 5 when the time is over, 130 when interrupted.
#[derive(Debug, Clone, clap::Args)]
pub struct Run {
    #[command(flatten)]
    program: ProgramArgs,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    output: Output,
    /// Print the result as the message of the contract.
    #[arg(long)]
    json: bool,
}

impl Run {
    /// Runs it.
    pub async fn run(
        self,
        options: &Options,
        shutdown: CancellationToken,
    ) -> Result<Exit, CliError> {
        let config = options.load()?;
        let program = self.program(&config)?;
        let submission = &program.submission;
        let own = for_one_submission(&config);
        let fleet = tokio::select! {
            fleet = find_or_start(&config, &own) => fleet?,
            () = shutdown.cancelled() => return Err(CliError::Interrupted),
        };
        match fleet {
            Fleet::Running(url) => {
                let id = SubmissionId::generate();
                tokio::select! {
                    exit = self.follow(&config, &url, &id, submission) => exit,
                    () = shutdown.cancelled() => {
                        tell(format!("the submission goes on: envicutor watch {id}"));
                        Err(CliError::Interrupted)
                    }
                }
            }
            Fleet::Own(fleet) => {
                Box::pin(self.run_on(*fleet, &config, submission, &shutdown)).await
            }
        }
    }

    /// The submission, by this machine's own catalogue.
    fn program(&self, config: &Config) -> Result<Program, CliError> {
        let runtime = if let Some(runtime) = self.program.runtime() {
            runtime.clone()
        } else {
            let work_dir = config.data_dir.0.join("runtimes");
            let runtimes = Runtimes::load(config, &work_dir)?;
            self.program.guess(&runtimes.catalogue())?
        };
        self.program
            .program(runtime, self.program.events_to_watch())
    }

    /// Runs it on a fleet that is there for it alone.
    async fn run_on(
        &self,
        mut fleet: Standalone,
        config: &Config,
        submission: &Submission,
        shutdown: &CancellationToken,
    ) -> Result<Exit, CliError> {
        let id = SubmissionId::generate();
        let url = fleet.url(Role::Service);
        let exit = tokio::select! {
            exit = self.follow(config, &url, &id, submission) => exit,
            error = fleet.ended() => Err(error.into()),
            () = shutdown.cancelled() => Err(CliError::Interrupted),
        };
        let stopped = fleet.stop().await;
        let exit = exit?;
        if let Err(error) = stopped {
            tracing::warn!(%error, "the end was not in good order");
        }
        Ok(exit)
    }

    async fn follow(
        &self,
        config: &Config,
        url: &str,
        id: &SubmissionId,
        submission: &Submission,
    ) -> Result<Exit, CliError> {
        let mut config = config.clone();
        url.clone_into(&mut config.nats.url);
        let client = Client::connect_with(&config).await?;
        let tenant = Tenant::default_tenant();
        let submission = transfer::upload(&client, &tenant, submission).await?;
        let mut watch = client.watch(&tenant, id).await?;
        let lane = Lane::Interactive;
        client
            .submit(&tenant, lane, Some(id.clone()), &submission)
            .await?;
        let mut printer = Printer::new(Form::of_result(self.json));
        let time = self.patience.time(config.client.wait_timeout_us);
        let result = follow(&mut watch, &mut printer, (&tenant, id), None, time).await?;
        self.output.write(&client, &result).await?;
        client.close().await;
        Ok(Exit::of(&result))
    }
}

/// What runs the program.
pub(super) enum Fleet {
    /// Another process: where to connect.
    Running(String),
    /// This one.
    Own(Box<Standalone>),
}

/// The `envicutor up` of the data directory, or a fleet of our `own` configuration; waits while another `run` has one.
pub(super) async fn find_or_start(config: &Config, own: &Config) -> Result<Fleet, CliError> {
    let mut is_told = false;
    loop {
        if let Some(url) = nats_server::running_url(&config.data_dir.0, Role::Service) {
            return Ok(Fleet::Running(url));
        }
        match Box::pin(Standalone::start_for_one(own)).await {
            Ok(fleet) => return Ok(Fleet::Own(Box::new(fleet))),
            Err(StandaloneError::Server(ServerError::InUse(_))) => {
                if !is_told {
                    tell("waiting until another `envicutor run` is over");
                    is_told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The configuration for one submission: nothing is made ahead, and nothing is waited for at the end.
fn for_one_submission(config: &Config) -> Config {
    let mut config = config.clone();
    config.worker.slots = Some(1);
    config.worker.drain_grace_us = Micros(0);
    config.container.pool_size = Some(0);
    config.runtimes.preload.clear();
    config
}
