//! `envicutor`, the command line: one file for each command.
//!
//! | | |
//! | --- | --- |
//! | [`run`], [`up`] | a fleet on this machine: for one program, or to stay |
//! | [`submit`], [`status`], [`watch`], [`result`], [`cancel`] | a submission's way, seen from outside |
//! | [`dead`], [`replay`] | what could not be run; what runs again |
//! | [`runtime`], [`worker`], [`blobs`] | what the fleet has |
//! | [`nats`], [`config`] | what it stands on |
//! | [`doctor`] | what this machine allows |
//! | [`mod@bench`], [`faults`] | how fast it is here; whether it keeps its promise |
//! | [`options`], [`program`], [`guess`] | from flags and files to a configuration and a submission |
//! | [`transfer`] | what goes to the object store and comes back |
//! | [`follow`], [`printer`], [`report`], [`progress`], [`terminal`] | what is shown, and where |
//! | [`threads`], [`exit`], [`signals`] | what it runs on, and how it ends |
//!
//! Ids and data go to standard output, messages to standard error.

pub mod bench;
pub mod blobs;
pub mod cancel;
pub mod config;
pub mod dead;
pub mod doctor;
pub mod exit;
pub mod faults;
pub mod follow;
pub mod guess;
pub mod nats;
pub mod options;
pub mod printer;
pub mod program;
pub mod progress;
pub mod replay;
pub mod report;
pub mod result;
pub mod run;
pub mod runtime;
pub mod signals;
pub mod status;
pub mod submit;
pub mod terminal;
mod threads;
pub mod transfer;
pub mod up;
pub mod watch;
pub mod worker;

use std::future::Future;

use tokio_util::sync::CancellationToken;

use self::{
    exit::{CliError, Exit},
    options::Options,
};
use crate::logging::Told;

/// Runs untrusted code in containers: submissions over NATS JetStream, results as events.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "envicutor",
    version,
    after_help = "Exit codes: 0 finished and ok, 1 finished and not ok, 2 wrong usage or rejected, 3 failed, \
                  4 no connection, 5 the wait timed out, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

/// What can be done.
#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    Run(run::Run),
    Up(up::Up),
    Submit(submit::Submit),
    Status(status::Status),
    Watch(watch::Watch),
    Result(result::Result),
    Cancel(cancel::Cancel),
    Replay(replay::Replay),
    #[command(subcommand)]
    Dead(dead::Dead),
    #[command(subcommand)]
    Runtime(runtime::Runtime),
    #[command(subcommand)]
    Worker(worker::Worker),
    #[command(subcommand)]
    Blobs(blobs::Blobs),
    #[command(subcommand)]
    Nats(nats::Nats),
    Config(config::Config),
    Doctor(doctor::Doctor),
    Bench(bench::Bench),
    /// What `bench` starts to measure fork and exec.
    #[command(name = crate::bench::RAW_COMMAND, hide = true)]
    BenchRaw,
}

impl Cli {
    /// Sets up the log, and does what was asked.
    pub async fn run(self) -> Result<Exit, CliError> {
        let told = match self.command {
            Command::Up(_) => Told::Steps,
            _ => Told::Progress,
        };
        self.options.init_logging(told);
        let shutdown = signals::shutdown()?;
        // Boxed: together they are large, and only one is needed.
        Box::pin(self.command.run(&self.options, shutdown)).await
    }
}

impl Command {
    async fn run(self, options: &Options, shutdown: CancellationToken) -> Result<Exit, CliError> {
        let stop = shutdown.clone();
        match self {
            Self::Run(run) => Box::pin(run.run(options, stop)).await,
            Self::Up(up) => Box::pin(up.run(options, stop)).await,
            Self::Submit(submit) => until(&shutdown, Box::pin(submit.run(options))).await,
            Self::Status(status) => until(&shutdown, Box::pin(status.run(options))).await,
            Self::Watch(watch) => until(&shutdown, Box::pin(watch.run(options))).await,
            Self::Result(result) => until(&shutdown, Box::pin(result.run(options))).await,
            Self::Cancel(cancel) => until(&shutdown, Box::pin(cancel.run(options))).await,
            Self::Replay(replay) => until(&shutdown, Box::pin(replay.run(options))).await,
            Self::Dead(dead) => Box::pin(dead.run(options, stop)).await,
            Self::Runtime(runtime) => Box::pin(runtime.run(options, stop)).await,
            Self::Worker(worker) => until(&shutdown, Box::pin(worker.run(options))).await,
            Self::Blobs(blobs) => until(&shutdown, Box::pin(blobs.run(options))).await,
            Self::Nats(nats) => until(&shutdown, Box::pin(nats.run(options))).await,
            Self::Config(config) => config.run(options),
            Self::Doctor(doctor) => Box::pin(doctor.run(options, stop)).await,
            Self::Bench(bench) => until(&shutdown, Box::pin(bench.run(options))).await,
            Self::BenchRaw => bench::run_raw(),
        }
    }
}

/// A command that has nothing to tidy up: a signal ends it where it stands.
async fn until(
    shutdown: &CancellationToken,
    command: impl Future<Output = Result<Exit, CliError>> + Unpin,
) -> Result<Exit, CliError> {
    tokio::select! {
        exit = command => exit,
        () = shutdown.cancelled() => Err(CliError::Interrupted),
    }
}

/// Runs a program: its exit code, with its error told.
pub fn main(
    program: impl Future<Output = Result<Exit, CliError>> + Send + 'static,
) -> std::process::ExitCode {
    let exit = match threads::run(program) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = error.exit();
            if exit != Exit::Ok {
                terminal::tell(format!("envicutor: {error}"));
            }
            exit
        }
    };
    exit.into()
}
