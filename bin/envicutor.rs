//! `envicutor`: the command line. See [`envicutor::cli`].

use std::process::ExitCode;

use clap::Parser as _;
use envicutor::cli::{self, Cli};

fn main() -> ExitCode {
    cli::main(Cli::parse().run())
}
