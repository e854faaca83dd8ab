//! `envicutor`: the command line. See [`envicutor::cli`].

use std::process::ExitCode;

use clap::Parser as _;
use envicutor::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    cli::end(Cli::parse().run().await)
}
