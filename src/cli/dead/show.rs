//! `envicutor dead show SEQUENCE`: a letter whole.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{in_words, list::Numbered};
use crate::{
    bus::dead_letters::Letter,
    cli::{
        exit::{CliError, Exit},
        printer::say_json,
        report::word,
        terminal::{Place as _, escape, escape_line, say, stdout},
    },
    operations::Operations,
    submission::{dead_letter::Attempt, replay::Replay},
};

/// Show dead letters whole: why, every attempt, the replays that led there, the log, the submission.
#[derive(Debug, Clone, clap::Args)]
pub struct Show {
    /// The letters, by their sequences.
    #[arg(required = true, value_name = "SEQUENCE")]
    sequences: Vec<u64>,
    /// Print the messages of the contract, one a line, each with its `sequence`.
    #[arg(long)]
    json: bool,
    /// Print nothing but the submission's body, as it was published.
    #[arg(long, conflicts_with = "json")]
    body: bool,
}

impl Show {
    pub(super) async fn run(self, operations: &Operations) -> Result<Exit, CliError> {
        for sequence in &self.sequences {
            let letter = operations.letter(*sequence).await?;
            if self.json {
                say_json(&Numbered::from(&letter))?;
            } else if self.body {
                print(&letter.letter.submission.body)?;
            } else {
                say(shown(&letter).trim_end())?;
            }
        }
        Ok(Exit::Ok)
    }
}

/// On a terminal with its control characters escaped, elsewhere as it is.
fn print(body: &[u8]) -> Result<(), CliError> {
    let mut out = stdout();
    out.write(body)?;
    out.end()?;
    Ok(io::stdout().flush()?)
}

fn shown(Letter { sequence, letter }: &Letter) -> String {
    let mut lines = Lines::default();
    lines.pair("sequence", &sequence.to_string());
    lines.pair("submission", &format!("{}/{}", letter.tenant, letter.id));
    lines.pair("generation", &letter.generation.to_string());
    lines.pair("lane", letter.lane.as_str());
    if let Some(runtime) = letter.runtime() {
        lines.pair("runtime", &runtime.to_string());
    }
    lines.pair("dead since", &instant(letter.dead_at));
    lines.pair("reason", &word(&letter.reason.code));
    lines.pair("stage", &letter.reason.stage);
    lines.pair("message", &letter.reason.message);
    for (key, value) in &letter.labels {
        lines.pair("label", &format!("{key}={value}"));
    }
    lines.list("attempts", letter.attempts.iter().map(attempt));
    lines.list("replays", letter.trail().replays().iter().map(replay));
    lines.list("log", letter.log_tail.iter().cloned());
    let content_type = letter.submission.content_type.as_deref();
    let content_type = content_type.unwrap_or("application/json");
    let body = &letter.submission.body;
    lines.pair("body", &format!("{content_type}, {} bytes", body.len()));
    if let Ok(text) = std::str::from_utf8(body) {
        lines.text.push_str(&escape(text.as_bytes()));
    }
    lines.text
}

/// What is shown. Whatever a submission or a worker wrote is escaped.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn pair(&mut self, label: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{label:<10} {}", escape_line(value));
    }

    fn list(&mut self, label: &str, items: impl Iterator<Item = String>) {
        for (number, item) in items.enumerate() {
            if number == 0 {
                let _ = writeln!(self.text, "{label}");
            }
            let _ = writeln!(self.text, "  {}", escape_line(&item));
        }
    }
}

fn attempt(attempt: &Attempt) -> String {
    format!(
        "{} to {} on {} ({}): {}",
        instant(attempt.started_at),
        instant(attempt.ended_at),
        attempt.worker,
        attempt.host,
        attempt.error
    )
}

/// `generation 1 at … by ann@ops from letter 17 (worker_lost) in batch …: run.limits.memory_bytes 268435456 -> 536870912`.
fn replay(replay: &Replay) -> String {
    let Replay {
        generation, at, by, ..
    } = replay;
    let mut text = format!("generation {generation} at {} by {by}", instant(*at));
    let letter = replay.letter.map(|letter| format!(" from letter {letter}"));
    let reason = replay.reason.map(|reason| format!(" ({})", word(&reason)));
    let batch = replay.batch.as_ref();
    let batch = batch.map(|batch| format!(" in batch {batch}"));
    let changes = Some(in_words(&replay.changes)).filter(|changes| !changes.is_empty());
    let changes = changes.map(|changes| format!(": {changes}"));
    text.extend([letter, reason, batch, changes].into_iter().flatten());
    text
}

fn instant(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}
