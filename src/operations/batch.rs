//! Many letters are replayed: a batch, with a record in KV `replays` of what it is to do and how far it is.
//!
//! What it is to do is fixed at its start: the selection, the terms, and the last sequence of the letters then, so that a letter
//! that comes of a replay of this batch is not replayed by it again. Any command may go on with it; it begins at the first
//! letter that is not known to be done, and finds for each one what was done already.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    OperationError, Operations, Selection,
    error::Remedy,
    replay::{Occasion, Replayed, Terms},
};
use crate::{
    bus::{
        dead_letters::Letter,
        replays::{Replays, ReplaysError},
    },
    submission::names::{SubmissionId, Tenant},
};

/// The letters that are replayed at a time.
const AT_ONCE: usize = 16;
/// The letters between two notes of how far a batch is, where they are not slowed down.
const STRIDE: usize = 64;

/// A batch, as its record is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Its id: what it is gone on with by.
    pub batch: SubmissionId,
    /// Who began it.
    pub by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When every letter was seen to; absent while some were not.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Which letters.
    pub selection: Selection,
    /// How they run again.
    pub terms: Terms,
    /// The last letter that is part of it.
    pub last_sequence: u64,
    /// Every letter before this one is seen to.
    pub next_sequence: u64,
    /// How many letters there were at its start.
    pub letters: u64,
    /// How many of them were replayed.
    pub replayed: u64,
    /// How many there was nothing to do for.
    pub skipped: u64,
    /// How many could not be replayed, and stay.
    pub failed: u64,
}

/// The letters that a batch is to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The letters, in the order of their sequences.
    pub letters: Vec<LetterRef>,
    last: u64,
}

/// A letter, and whose submission it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LetterRef {
    /// Its sequence.
    pub sequence: u64,
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub id: SubmissionId,
}

/// A letter that was seen to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Which.
    #[serde(flatten)]
    pub letter: LetterRef,
    /// What became of it.
    #[serde(flatten)]
    pub replayed: Replayed,
}

/// A batch at work.
#[derive(Debug)]
pub struct Running {
    /// Its record.
    pub batch: Batch,
    revision: u64,
    letters: Vec<LetterRef>,
}

/// How a batch goes.
pub struct Pace<'a> {
    /// Letters a second, at most; absent is as fast as it goes.
    pub rate: Option<f64>,
    /// No more letters: what was begun is finished, and noted.
    pub stop: &'a CancellationToken,
    /// Told of each letter that was seen to.
    pub told: &'a (dyn Fn(&Seen) + Send + Sync),
}

impl Operations {
    /// The letters that `selection` names now, the first `limit` of them.
    pub async fn plan(
        &self,
        selection: &Selection,
        limit: Option<usize>,
    ) -> Result<Plan, OperationError> {
        let mut selected = self.select(selection).await?;
        let mut plan = Plan {
            letters: Vec::new(),
            last: selected.last,
        };
        while limit.is_none_or(|limit| plan.letters.len() < limit)
            && let Some(letter) = selected.next().await?
        {
            plan.letters.push(letter.into());
        }
        // Who names a letter means that one.
        let missing = |named: &&u64| {
            let found = plan.letters.binary_search_by_key(*named, |it| it.sequence);
            found.is_err()
        };
        if limit.is_none()
            && let Some(missing) = selection.sequences.iter().find(missing)
        {
            return Err(OperationError::NoLetter(*missing));
        }
        if limit.is_some() {
            plan.last = plan.letters.last().map_or(plan.last, |it| it.sequence);
        }
        Ok(plan)
    }

    /// Begins a batch: from here on it is known by its id.
    pub async fn begin(
        &self,
        plan: Plan,
        selection: &Selection,
        terms: &Terms,
    ) -> Result<Running, OperationError> {
        let batch = Batch {
            batch: SubmissionId::generate(),
            by: self.by.clone(),
            started_at: OffsetDateTime::now_utc(),
            finished_at: None,
            selection: selection.clone(),
            terms: terms.clone(),
            last_sequence: plan.last,
            next_sequence: 1,
            letters: plan.letters.len() as u64,
            replayed: 0,
            skipped: 0,
            failed: 0,
        };
        let revision = Replays::new(&self.bus)
            .update(&batch.batch, &batch, 0)
            .await?;
        Ok(Running {
            batch,
            revision,
            letters: plan.letters,
        })
    }

    /// Goes on with a batch that was interrupted, or finds that nothing is left of it. Letters that are gone since its last note
    /// count as replayed: it removed them before it could note that.
    pub async fn resume(&self, id: &SubmissionId) -> Result<Running, OperationError> {
        let replays = Replays::new(&self.bus);
        let Some((mut batch, revision)) = replays.read::<Batch>(id).await? else {
            let others = self.unfinished().await?;
            let batch = id.clone();
            return Err(OperationError::NoBatch { batch, others });
        };
        let mut letters = Vec::new();
        if batch.finished_at.is_none() {
            let Batch {
                next_sequence,
                last_sequence,
                ..
            } = batch;
            let mut left = self.select_between(&batch.selection, next_sequence, last_sequence);
            while let Some(letter) = left.next().await? {
                letters.push(letter.into());
            }
            let known = batch.replayed + batch.skipped + batch.failed + letters.len() as u64;
            batch.replayed += batch.letters.saturating_sub(known);
        }
        Ok(Running {
            batch,
            revision,
            letters,
        })
    }

    /// The batches that are not finished, for an error.
    async fn unfinished(&self) -> Result<String, OperationError> {
        let batches: Vec<Batch> = Replays::new(&self.bus).list().await?;
        let unfinished = batches.iter().filter(|batch| batch.finished_at.is_none());
        let shown: Vec<_> = unfinished.map(|batch| batch.batch.to_string()).collect();
        Ok(if shown.is_empty() {
            ": none is unfinished".to_owned()
        } else {
            format!("; unfinished are {}", shown.join(", "))
        })
    }

    /// What a batch would do: nothing is published, removed or noted.
    pub async fn rehearse(
        &self,
        plan: &Plan,
        terms: &Terms,
        pace: &Pace<'_>,
    ) -> Result<(), OperationError> {
        let occasion = Occasion {
            terms,
            batch: None,
            is_rehearsal: true,
        };
        let mut ticks = ticks(pace.rate);
        let (_, stopped) = self.stride(&plan.letters, occasion, pace, &mut ticks).await;
        stopped.map_or(Ok(()), Err)
    }

    /// Sees to the letters of a batch, notes how far it is, and returns it as it then is: with `finished_at` where none is left.
    /// An error stops it where it is; it can be gone on with.
    pub async fn run(
        &self,
        mut running: Running,
        pace: &Pace<'_>,
    ) -> Result<Batch, OperationError> {
        let (terms, id) = (running.batch.terms.clone(), running.batch.batch.clone());
        let occasion = Occasion {
            terms: &terms,
            batch: Some(&id),
            is_rehearsal: false,
        };
        let mut ticks = ticks(pace.rate);
        for letters in running.letters.chunks(stride(pace.rate)) {
            let (seen, stopped) = self.stride(letters, occasion, pace, &mut ticks).await;
            running.batch.take_in(letters, &seen);
            self.note(&running.batch, &mut running.revision).await?;
            if let Some(error) = stopped {
                return Err(error);
            }
            if pace.stop.is_cancelled() {
                break;
            }
        }
        let batch = &mut running.batch;
        let last = running.letters.last();
        let is_over = last.is_none_or(|last| batch.next_sequence > last.sequence);
        if batch.finished_at.is_none() && is_over {
            batch.finished_at = Some(OffsetDateTime::now_utc());
            batch.next_sequence = batch.last_sequence.saturating_add(1);
            self.note(&running.batch, &mut running.revision).await?;
        }
        Ok(running.batch)
    }

    async fn note(&self, batch: &Batch, revision: &mut u64) -> Result<(), OperationError> {
        let replays = Replays::new(&self.bus);
        let mut patience = self.patience();
        loop {
            let error = match replays.update(&batch.batch, batch, *revision).await {
                Ok(noted) => {
                    *revision = noted;
                    return Ok(());
                }
                Err(error) => error,
            };
            // Perhaps an earlier try's, whose answer was lost.
            if matches!(error, ReplaysError::Changed(_))
                && let Some((kept, noted)) = replays.read::<Batch>(&batch.batch).await?
                && kept == *batch
            {
                *revision = noted;
                return Ok(());
            }
            patience.spend_on(error.into()).await?;
        }
    }

    /// Sees to some letters, several at a time, and tells of each. Those that were seen to; and the error that stops all, after
    /// what was begun is finished.
    async fn stride(
        &self,
        letters: &[LetterRef],
        occasion: Occasion<'_>,
        pace: &Pace<'_>,
        ticks: &mut Option<Interval>,
    ) -> (Vec<Seen>, Option<OperationError>) {
        let mut left = letters.iter();
        let mut at_work = FuturesUnordered::new();
        let (mut seen, mut stopped) = (Vec::new(), None);
        loop {
            let is_halted = stopped.is_some() || pace.stop.is_cancelled();
            let may_begin = !is_halted && left.len() > 0 && at_work.len() < AT_ONCE;
            tokio::select! {
                Some((letter, replayed)) = at_work.next() => match as_told(replayed) {
                    Ok(replayed) => {
                        let one = Seen { letter, replayed };
                        (pace.told)(&one);
                        seen.push(one);
                    }
                    Err(error) => stopped = Some(stopped.unwrap_or(error)),
                },
                () = tick(ticks.as_mut()), if may_begin => {
                    at_work.extend(left.next().map(|letter| self.see_to(letter, occasion)));
                }
                () = pace.stop.cancelled(), if may_begin => {}
                else => return (seen, stopped),
            }
        }
    }

    async fn see_to(
        &self,
        letter: &LetterRef,
        occasion: Occasion<'_>,
    ) -> (LetterRef, Result<Replayed, OperationError>) {
        let replayed = self.replay_letter(letter.sequence, occasion).await;
        (letter.clone(), replayed)
    }
}

/// What became of a letter, where an error is its own; else the error that stops all.
fn as_told(replayed: Result<Replayed, OperationError>) -> Result<Replayed, OperationError> {
    match replayed {
        Err(error) if matches!(error.remedy(), Remedy::Tell | Remedy::Again) => {
            let message = error.to_string();
            Ok(Replayed::Failed { message })
        }
        replayed => replayed,
    }
}

/// The time of the next letter, at once where there is no rate.
async fn tick(ticks: Option<&mut Interval>) {
    if let Some(ticks) = ticks {
        ticks.tick().await;
    }
}

impl Running {
    /// How many letters are to be seen to.
    pub const fn left(&self) -> usize {
        self.letters.len()
    }
}

impl Batch {
    /// Takes in what was seen to of `letters`. Past the first letter that was not, only what was replayed counts now: its
    /// letter is gone, while the others come again.
    fn take_in(&mut self, letters: &[LetterRef], seen: &[Seen]) {
        let is_seen = |letter: &&LetterRef| seen.iter().any(|seen| seen.letter == **letter);
        let first_left = letters.iter().find(|letter| !is_seen(letter));
        let first_left = first_left.map(|letter| letter.sequence);
        for Seen { letter, replayed } in seen {
            let is_counted = first_left.is_none_or(|left| letter.sequence < left);
            match replayed {
                Replayed::Replayed(_) => self.replayed += 1,
                Replayed::Skipped { .. } if is_counted => self.skipped += 1,
                Replayed::Failed { .. } if is_counted => self.failed += 1,
                _ => {}
            }
        }
        let after_all = letters.last().map(|last| last.sequence + 1);
        self.next_sequence = first_left.or(after_all).unwrap_or(self.next_sequence);
    }
}

impl From<Letter> for LetterRef {
    fn from(letter: Letter) -> Self {
        Self {
            sequence: letter.sequence,
            tenant: letter.letter.tenant,
            id: letter.letter.id,
        }
    }
}

/// The letters between two notes: fewer where they are slow, so that a note comes each second or so.
fn stride(rate: Option<f64>) -> usize {
    let slow = |rate: f64| {
        (1..STRIDE).find(|letters| f64::from(u32::try_from(*letters).unwrap_or(u32::MAX)) >= rate)
    };
    rate.and_then(slow).unwrap_or(STRIDE)
}

fn ticks(rate: Option<f64>) -> Option<Interval> {
    let mut ticks = interval(Duration::try_from_secs_f64(1.0 / rate?).ok()?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{operations::replay::Next, submission::names::Lane};

    fn batch() -> Batch {
        Batch {
            batch: SubmissionId::generate(),
            by: "ann@ops".into(),
            started_at: OffsetDateTime::UNIX_EPOCH,
            finished_at: None,
            selection: Selection::default(),
            terms: Terms::default(),
            last_sequence: 9,
            next_sequence: 1,
            letters: 4,
            replayed: 0,
            skipped: 0,
            failed: 0,
        }
    }

    fn letters(sequences: &[u64]) -> Vec<LetterRef> {
        let letter = |sequence: &u64| LetterRef {
            sequence: *sequence,
            tenant: Tenant::default_tenant(),
            id: "a1".parse().expect("valid"),
        };
        sequences.iter().map(letter).collect()
    }

    fn seen(sequence: u64, is_replayed: bool) -> Seen {
        let next = Next {
            generation: 1,
            lane: Lane::Batch,
            changes: Vec::new(),
        };
        let skipped = Replayed::Skipped {
            message: "done".into(),
        };
        let replayed = if is_replayed {
            Replayed::Replayed(next)
        } else {
            skipped
        };
        let letter = letters(&[sequence]).remove(0);
        Seen { letter, replayed }
    }

    #[test]
    fn a_batch_goes_on_at_the_first_letter_that_was_not_seen_to() {
        let mut batch = batch();
        batch.take_in(
            &letters(&[2, 4, 6, 9]),
            &[seen(2, false), seen(6, true), seen(9, false)],
        );
        assert_eq!(
            (batch.next_sequence, batch.replayed, batch.skipped),
            (4, 1, 1)
        );
        batch.take_in(&letters(&[4, 9]), &[seen(9, false), seen(4, true)]);
        assert_eq!(
            (batch.next_sequence, batch.replayed, batch.skipped),
            (10, 2, 2)
        );
    }

    #[test]
    fn a_record_is_kept_whole() {
        let mut batch = batch();
        batch.terms.set = vec!["run.limits.memory_bytes=512MiB".parse().expect("an edit")];
        batch.terms.lane = Some(Lane::Interactive);
        let kept = serde_json::to_string(&batch).expect("encodes");
        assert_eq!(
            serde_json::from_str::<Batch>(&kept).expect("decodes"),
            batch
        );
    }

    #[test]
    fn a_slow_batch_is_noted_each_second() {
        assert_eq!(stride(None), STRIDE);
        assert_eq!(stride(Some(1000.0)), STRIDE);
        assert_eq!(stride(Some(0.1)), 1);
        assert_eq!(stride(Some(2.5)), 3);
    }
}
