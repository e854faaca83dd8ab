//! `envicutor dead replay`: the submissions of dead letters run again.

use tokio_util::sync::CancellationToken;

use super::{in_words, which::Which};
use crate::{
    cli::{
        exit::{CliError, Exit},
        printer::say_json,
        progress::Progress,
        terminal::{escape_line, say, tell},
    },
    operations::{
        Batch, Operations,
        batch::{Pace, Running, Seen},
        replay::{Next, Replayed, Terms},
    },
    submission::{
        edit::Edit,
        names::{Lane, SubmissionId},
    },
};

/// Up to so many letters are told one by one; more have a progress bar.
const LISTED: usize = 20;

/// Have the submissions of dead letters run again: each its next generation, which has a result of its own. The letter is
/// removed when that is queued.
///
/// Prints the id of the batch first, by which an interrupted one is gone on with. A letter whose submission has gone on already is
/// skipped. Exits 3 where one could not be replayed.
#[derive(Debug, Clone, clap::Args)]
pub struct Replay {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    terms: TermArgs,
    /// Also where another result than the failure stands for the id, which the new one then replaces.
    #[arg(long)]
    replace: bool,
    /// At most so many a second.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Go on with a batch that was interrupted: with its letters and changes.
    #[arg(long, value_name = "BATCH", conflicts_with_all = ["sequences", "all", "tenant", "id", "runtime", "reason", "label", "since", "limit", "set", "lane", "replace", "dry_run"])]
    resume: Option<SubmissionId>,
    /// Print the batch, an object for each letter, and the batch again, one a line.
    #[arg(long)]
    json: bool,
}

/// How a submission runs again.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TermArgs {
    /// Change a field of the submission: `run.limits.memory_bytes=512MiB`, `runtime=python@3.12`, `labels.note=again`. May be
    /// repeated. The value is JSON where it is JSON, else text.
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<Edit>,
    /// Queue it in this lane instead of its own.
    #[arg(long)]
    lane: Option<Lane>,
}

impl From<TermArgs> for Terms {
    fn from(args: TermArgs) -> Self {
        Self {
            set: args.set,
            lane: args.lane,
            replace: false,
        }
    }
}

impl Replay {
    pub(super) async fn run(
        self,
        operations: &Operations,
        stop: &CancellationToken,
    ) -> Result<Exit, CliError> {
        let running = match &self.resume {
            Some(batch) => operations.resume(batch).await?,
            None => match self.begin(operations, stop).await? {
                Some(running) => running,
                None => return Ok(Exit::Ok),
            },
        };
        let id = running.batch.batch.clone();
        let batch = self.go(operations, running, stop).await;
        let go_on = || tell(format!("go on with: envicutor dead replay --resume {id}"));
        let batch = batch.inspect_err(|_| go_on())?;
        if batch.finished_at.is_none() {
            go_on();
            return Err(CliError::Interrupted);
        }
        Ok(if batch.failed > 0 {
            Exit::Failed
        } else {
            Exit::Ok
        })
    }

    /// A new batch; `None` where there is nothing to do, or it was only to be said.
    async fn begin(
        &self,
        operations: &Operations,
        stop: &CancellationToken,
    ) -> Result<Option<Running>, CliError> {
        let selection = self.which.selection()?;
        let terms = Terms {
            replace: self.replace,
            ..self.terms.clone().into()
        };
        let plan = operations.plan(&selection, self.which.limit()).await?;
        if plan.letters.is_empty() {
            tell("there is no such dead letter");
            return Ok(None);
        }
        if self.dry_run {
            let told = |seen: &Seen| self.show(seen, true, tell);
            let rate = self.rate;
            let told = &told;
            operations
                .rehearse(&plan, &terms, &Pace { rate, stop, told })
                .await?;
            return Ok(None);
        }
        if !self.which.confirm("replay", plan.letters.len())? {
            tell("nothing is done");
            return Ok(None);
        }
        Ok(Some(operations.begin(plan, &selection, &terms).await?))
    }

    async fn go(
        &self,
        operations: &Operations,
        running: Running,
        stop: &CancellationToken,
    ) -> Result<Batch, CliError> {
        let left = running.left();
        if self.json {
            say_json(&running.batch)?;
        } else {
            let Batch {
                batch,
                last_sequence,
                ..
            } = &running.batch;
            say(format!(
                "batch {batch}: {left} dead letters, up to sequence {last_sequence}"
            ))?;
        }
        let is_listed = self.json || left <= LISTED;
        let progress = (!is_listed).then(|| Progress::new(left as u64));
        let told = |seen: &Seen| match &progress {
            None => self.show(seen, true, tell),
            Some(progress) => {
                self.show(seen, false, |line| progress.tell(&line));
                progress.step();
            }
        };
        let (rate, told) = (self.rate, &told);
        let batch = operations.run(running, &Pace { rate, stop, told }).await;
        if let Some(progress) = &progress {
            progress.end();
        }
        let batch = batch?;
        if self.json {
            say_json(&batch)?;
        } else {
            let Batch {
                replayed,
                skipped,
                failed,
                ..
            } = batch;
            say(format!(
                "{replayed} replayed, {skipped} skipped, {failed} failed"
            ))?;
        }
        Ok(batch)
    }

    /// What became of a letter. Nobody who stops reading this stops the batch.
    fn show(&self, seen: &Seen, is_listed: bool, complain: impl Fn(String)) {
        if self.json {
            let _ = say_json(seen);
            return;
        }
        let letter = &seen.letter;
        let name = format!("{:>6}  {}/{}", letter.sequence, letter.tenant, letter.id);
        match &seen.replayed {
            Replayed::Replayed(next) if is_listed => {
                let _ = say(format!("{name}  {}", told(next)));
            }
            Replayed::WouldReplay(next) => {
                let _ = say(format!("{name}  would be {}", told(next)));
            }
            Replayed::Skipped { message } if is_listed => {
                complain(format!("{name}  skipped: {}", escape_line(message)));
            }
            Replayed::Failed { message } => {
                complain(format!("{name}  failed: {}", escape_line(message)));
            }
            Replayed::Replayed(_) | Replayed::Skipped { .. } => {}
        }
    }
}

/// `generation 1 in batch: run.limits.memory_bytes 268435456 -> 536870912`.
pub(in crate::cli) fn told(next: &Next) -> String {
    let changes = match in_words(&next.changes) {
        none if none.is_empty() => none,
        changes => format!(": {}", escape_line(&changes)),
    };
    format!("generation {} in {}{changes}", next.generation, next.lane)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok();
    rate.filter(|rate| (0.001..=1e6).contains(rate))
        .ok_or_else(|| format!("{text:?} is no rate: expected letters a second, from 0.001 up"))
}
