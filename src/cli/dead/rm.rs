//! `envicutor dead rm`: letters that are seen to in another way, or by nobody.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::which::Which;
use crate::{
    cli::{
        exit::{CliError, Exit},
        printer::say_json,
        progress::Progress,
        terminal::{say, tell},
    },
    operations::{Operations, batch::LetterRef},
};

/// Up to so many letters are told one by one; more have a progress bar.
const LISTED: usize = 20;

/// Remove dead letters. Their submissions keep the result `failed`; `dead export` keeps the letters.
#[derive(Debug, Clone, clap::Args)]
pub struct Rm {
    #[command(flatten)]
    which: Which,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print an object for each letter, one a line.
    #[arg(long)]
    json: bool,
}

impl Rm {
    pub(super) async fn run(
        self,
        operations: &Operations,
        stop: &CancellationToken,
    ) -> Result<Exit, CliError> {
        let selection = self.which.selection()?;
        let letters = operations
            .plan(&selection, self.which.limit())
            .await?
            .letters;
        if letters.is_empty() {
            tell("there is no such dead letter");
            return Ok(Exit::Ok);
        }
        if !self.dry_run && !self.which.confirm("remove", letters.len())? {
            tell("nothing is done");
            return Ok(Exit::Ok);
        }
        let is_listed = self.json || self.dry_run || letters.len() <= LISTED;
        let progress = (!is_listed).then(|| Progress::new(letters.len() as u64));
        let mut removed = 0;
        for letter in &letters {
            if stop.is_cancelled() {
                return Err(CliError::Interrupted);
            }
            let is_there = self.dry_run || operations.remove(letter.sequence).await?;
            removed += u64::from(is_there);
            match &progress {
                Some(progress) => progress.step(),
                None => self.show(letter, is_there)?,
            }
        }
        if let Some(progress) = &progress {
            progress.end();
            say(format!("{removed} removed"))?;
        }
        Ok(Exit::Ok)
    }

    fn show(&self, letter: &LetterRef, is_there: bool) -> Result<(), CliError> {
        let outcome = match (self.dry_run, is_there) {
            (true, _) => "would_remove",
            (false, true) => "removed",
            (false, false) => "gone",
        };
        let LetterRef {
            sequence,
            tenant,
            id,
        } = letter;
        if self.json {
            return say_json(
                &json!({"sequence": sequence, "tenant": tenant, "id": id, "outcome": outcome}),
            );
        }
        let outcome = match outcome {
            "would_remove" => "would be removed",
            outcome => outcome,
        };
        Ok(say(format!("{sequence:>6}  {tenant}/{id}  {outcome}"))?)
    }
}
