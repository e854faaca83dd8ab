//! What the programs tell while they run, on standard error: lines for people, or one JSON object a line.
//!
//! `RUST_LOG` says what is told, in the syntax of `tracing_subscriber`'s `EnvFilter`; without it the program's own filter
//! does, and `-v` says how much of it. What takes its time when something is used for the first time (see
//! [`TARGET`]) is told as plain lines.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Layer as _, filter, fmt, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt as _,
};

use crate::runtimes::progress::TARGET;

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What a program tells by itself, without `-v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A command: what takes its time, and errors of ours.
    Progress,
    /// A long-running program: also what it does.
    Steps,
}

impl Told {
    /// The filter for a number of `-v`.
    fn filter(self, verbosity: u8) -> String {
        let own = match (self, verbosity) {
            (Self::Progress, 0) => "error",
            (Self::Steps, 0) | (Self::Progress, 1) => "info",
            (Self::Steps, 1) | (Self::Progress, 2) => "debug",
            (Self::Steps | Self::Progress, _) => "trace",
        };
        let others = if verbosity > 2 { "debug" } else { "error" };
        format!("{others},envicutor={own},{TARGET}=info,envicutor::nats_server=info")
    }
}

/// Sets up the program's log. Called once, by `main`; where a log is set up already (in tests), that one stays.
pub fn init(format: LogFormat, told: Told, verbosity: u8) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(told.filter(verbosity)));
    let set_up = match format {
        LogFormat::Json => {
            let layer = fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(io::stderr);
            registry().with(layer.with_filter(filter)).try_init()
        }
        LogFormat::Text => {
            let is_progress =
                |target: &str| target == TARGET || target.starts_with("envicutor::nats_server");
            let has_colors = crate::cli::terminal::has_colors(io::stderr().is_terminal());
            let progress = fmt::layer()
                .without_time()
                .with_level(false)
                .with_target(false)
                .with_ansi(has_colors)
                .with_writer(io::stderr);
            let lines = fmt::layer().with_ansi(has_colors).with_writer(io::stderr);
            let one = filter::filter_fn(move |metadata| is_progress(metadata.target()));
            let other = filter::filter_fn(move |metadata| !is_progress(metadata.target()));
            registry()
                .with(filter)
                .with(progress.with_filter(one))
                .with(lines.with_filter(other))
                .try_init()
        }
    };
    // A second set-up is a test's, whose first one serves as well.
    drop(set_up);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_is_one() {
        for told in [Told::Progress, Told::Steps] {
            for verbosity in 0..5 {
                let filter = told.filter(verbosity);
                assert!(filter.parse::<EnvFilter>().is_ok(), "{filter}");
            }
        }
    }
}
