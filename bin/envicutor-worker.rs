//! `envicutor-worker`: a worker of a fleet. The first SIGTERM or SIGINT drains it, a second one ends it at once.

use std::process::ExitCode;

use clap::Parser;
use envicutor::{
    bus::Role,
    cli::{
        self,
        exit::{CliError, Exit},
        options::Options,
        signals,
    },
    logging::Told,
    worker::Worker,
};

/// Runs the submissions of a fleet: takes them from NATS, runs each in a container, stores the results.
///
/// The first SIGTERM or SIGINT drains: no new submission is taken, what runs may finish within `worker.drain_grace_us`, the rest is
/// handed back. A second one ends it at once.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// Submissions at a time; without it one for each processor.
    #[arg(long, value_name = "N")]
    slots: Option<usize>,
    /// The worker's id; without it the host's name and a random part.
    #[arg(long)]
    id: Option<String>,
}

fn main() -> ExitCode {
    cli::main(run(Args::parse()))
}

async fn run(args: Args) -> Result<Exit, CliError> {
    let options = args
        .options
        .with("worker.slots", args.slots)
        .with("worker.id", args.id);
    options.init_logging(Told::Steps);
    let shutdown = signals::shutdown()?;
    let config = options.load_for(Role::Worker)?;
    let worker = tokio::select! {
        worker = Worker::connect(&config) => worker?,
        () = shutdown.cancelled() => return Ok(Exit::Ok),
    };
    // Boxed: it is large.
    Box::pin(worker.run(shutdown)).await?;
    Ok(Exit::Ok)
}
