//! `envicutor dead ls` and `dead export`: the letters, in short or whole.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use serde::Serialize;
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use super::which::Filters;
use crate::{
    bus::dead_letters::Letter,
    cli::{
        exit::{CliError, Exit},
        printer::say_json,
        report::word,
        terminal::{escape_line, say},
    },
    operations::{Operations, Selection},
    submission::dead_letter::DeadLetter,
};

/// The characters of a message that a line shows.
const MESSAGE: usize = 100;

/// List dead letters, the oldest first.
#[derive(Debug, Clone, clap::Args)]
pub struct Ls {
    #[command(flatten)]
    filters: Filters,
    /// Print an object for each, one a line: without the submission and the log.
    #[arg(long)]
    json: bool,
}

/// Write dead letters whole, one JSON object a line: the messages of the contract, each with its `sequence`.
#[derive(Debug, Clone, clap::Args)]
pub struct Export {
    #[command(flatten)]
    filters: Filters,
    /// Into this file, which must not be there yet; without it to standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// As it is without: an export is JSON.
    #[arg(long, hide = true)]
    json: bool,
}

/// A letter with its sequence, whole.
#[derive(Serialize)]
pub(super) struct Numbered<'a> {
    sequence: u64,
    #[serde(flatten)]
    letter: &'a DeadLetter,
}

impl<'a> From<&'a Letter> for Numbered<'a> {
    fn from(letter: &'a Letter) -> Self {
        Self {
            sequence: letter.sequence,
            letter: &letter.letter,
        }
    }
}

impl Ls {
    pub(super) async fn run(
        self,
        operations: &Operations,
        stop: &CancellationToken,
    ) -> Result<Exit, CliError> {
        let show = |letter: &Letter| {
            if self.json {
                say_json(&in_short(letter))
            } else {
                Ok(say(line(letter))?)
            }
        };
        let selection = self.filters.selection();
        each(operations, &selection, self.filters.limit, stop, show).await?;
        Ok(Exit::Ok)
    }
}

impl Export {
    pub(super) async fn run(
        self,
        operations: &Operations,
        stop: &CancellationToken,
    ) -> Result<Exit, CliError> {
        let mut output: Box<dyn io::Write + Send> = match &self.output {
            None => Box::new(BufWriter::new(io::stdout())),
            Some(path) => {
                let file = File::create_new(path).map_err(|source| CliError::File {
                    path: path.clone(),
                    source,
                })?;
                Box::new(BufWriter::new(file))
            }
        };
        let write = |letter: &Letter| {
            let text = serde_json::to_string(&Numbered::from(letter));
            let text = text.map_err(|error| CliError::Show(error.to_string()))?;
            Ok(writeln!(output, "{text}")?)
        };
        let selection = self.filters.selection();
        each(operations, &selection, self.filters.limit, stop, write).await?;
        output.flush()?;
        Ok(Exit::Ok)
    }
}

/// Does `what` with each letter that `selection` names, the first `limit` of them.
async fn each(
    operations: &Operations,
    selection: &Selection,
    limit: Option<usize>,
    stop: &CancellationToken,
    mut what: impl FnMut(&Letter) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut letters = operations.select(selection).await?;
    let mut count = 0;
    while limit.is_none_or(|limit| count < limit)
        && let Some(letter) = letters.next().await?
    {
        if stop.is_cancelled() {
            return Err(CliError::Interrupted);
        }
        what(&letter)?;
        count += 1;
    }
    Ok(())
}

fn line(Letter { sequence, letter }: &Letter) -> String {
    let generation = match letter.generation {
        0 => String::new(),
        generation => format!(" generation {generation}"),
    };
    let runtime = letter.runtime();
    let runtime = runtime.map_or_else(|| "?".to_owned(), |runtime| runtime.to_string());
    let message: String = letter.reason.message.chars().take(MESSAGE).collect();
    format!(
        "{sequence:>6}  {}  {}/{}{generation}  {}  {runtime}  {}: {}",
        letter.dead_at.format(&Rfc3339).unwrap_or_default(),
        letter.tenant,
        letter.id,
        letter.lane,
        word(&letter.reason.code),
        escape_line(&message),
    )
}

/// What `ls` says of a letter.
fn in_short(Letter { sequence, letter }: &Letter) -> serde_json::Value {
    json!({
        "sequence": sequence,
        "tenant": letter.tenant,
        "id": letter.id,
        "generation": letter.generation,
        "lane": letter.lane,
        "runtime": letter.runtime(),
        "reason": letter.reason,
        "attempts": letter.attempts.len(),
        "replays": letter.trail().replays().len(),
        "dead_at": letter.dead_at.format(&Rfc3339).unwrap_or_default(),
        "labels": letter.labels,
    })
}
