//! `envicutor-installer`: installs runtimes for a fleet. SIGTERM or SIGINT ends it; what it was at is handed back.

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
    installer::Installer,
    logging::Told,
};

/// Installs runtimes for a fleet: takes their definitions from NATS, makes each image in a container that reaches nothing but what its
/// definition names, tries it, and registers it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    cli::main(run(Args::parse()))
}

async fn run(args: Args) -> Result<Exit, CliError> {
    let options = args.options;
    options.init_logging(Told::Steps);
    let shutdown = signals::shutdown()?;
    let config = options.load_for(Role::Installer)?;
    let installer = tokio::select! {
        installer = Installer::connect(&config) => installer?,
        () = shutdown.cancelled() => return Ok(Exit::Ok),
    };
    // Boxed: it is large.
    Box::pin(installer.run(shutdown)).await;
    Ok(Exit::Ok)
}
