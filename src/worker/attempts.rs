//! The attempts of a generation that ended otherwise than by a result, kept in KV `attempts`.
//!
//! A delivery is not an attempt: it becomes one when `started` is published. A start without an end is a lost worker. The first
//! start is told by its event alone, which a crash of the server may forget; each later one is noted here before it is told.
//!
//! The invariant: a change is made to what is kept at that moment, never to what was read before. Two workers may write: the one
//! that lost the delivery, and the one that has it.

use time::OffsetDateTime;

use crate::{
    bus::{
        Bus,
        attempts::{Attempts, AttemptsError, Record, Revised, Start},
        events,
    },
    config,
    submission::{
        dead_letter::Attempt,
        names::{Lane, SubmissionId, Tenant},
        result::FailureCode,
    },
};

/// What a start without an end comes to.
const LOST: &str = "the worker was lost: it started and never ended";

/// How often a change is made again on what another worker wrote meanwhile.
const TRIES: u32 = 5;

/// Whose attempts they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept<'a> {
    pub(crate) bus: &'a Bus,
    pub(crate) tenant: &'a Tenant,
    pub(crate) lane: Lane,
    pub(crate) id: &'a SubmissionId,
}

/// The attempts so far.
#[derive(Debug, Clone)]
pub(crate) struct History {
    record: Record,
    /// Of what is kept; absent where that was not looked at, as at a first delivery.
    revision: Option<u64>,
}

/// How careful the next attempt is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// As ever.
    None,
    /// In a container that nobody had and nobody gets after it: an attempt has failed.
    Fresh,
    /// Also with nothing else in the worker: workers were lost under it, and this is its last attempt. Whoever only ran
    /// beside the one that kills workers comes through here.
    Alone,
}

impl History {
    /// No attempts yet, of the message at `sequence` of its queue.
    pub(crate) fn none(generation: u64, sequence: u64) -> Self {
        let record = Record {
            generation,
            sequence,
            ..Record::default()
        };
        Self {
            record,
            revision: None,
        }
    }

    /// What is kept of a message that was delivered before, with a start that never ended taken for a lost worker.
    pub(crate) async fn read(mut self, kept: Kept<'_>) -> Result<Self, AttemptsError> {
        self.refresh(kept).await?;
        if let Some((number, start)) = self.unended(kept).await {
            self.change(kept, |record| lose(record, number, &start))
                .await?;
        }
        Ok(self)
    }

    /// The start that has no end, and its number.
    async fn unended(&self, kept: Kept<'_>) -> Option<(u64, Start)> {
        if let Some(start) = &self.record.running {
            return Some((self.next_attempt(), start.clone()));
        }
        let started = events::last_started_of(kept.bus, kept.tenant, kept.id).await;
        let started = started.unwrap_or_else(|error| {
            // Events are never promised: without them a first start may go uncounted.
            tracing::warn!(%error, "it is not known whether the submission had started");
            None
        });
        started.and_then(|(event, sequence)| {
            let is_ours = event.generation == self.record.generation
                && sequence.is_none_or(|sequence| sequence == self.record.sequence);
            let start = Start {
                worker: event.worker,
                host: String::new(),
                at: event.at,
            };
            (is_ours && event.attempt >= self.next_attempt()).then_some((event.attempt, start))
        })
    }

    async fn refresh(&mut self, kept: Kept<'_>) -> Result<(), AttemptsError> {
        let attempts = Attempts::new(kept.bus);
        let Revised { record, revision } = attempts.read(kept.tenant, kept.lane, kept.id).await?;
        let (generation, sequence) = (self.record.generation, self.record.sequence);
        // Of another message it is what an earlier use of the id left.
        let record = record.filter(|it| (it.generation, it.sequence) == (generation, sequence));
        self.record = record.unwrap_or_else(|| Self::none(generation, sequence).record);
        self.revision = Some(revision);
        Ok(())
    }

    async fn change(
        &mut self,
        kept: Kept<'_>,
        change: impl Fn(&mut Record),
    ) -> Result<(), AttemptsError> {
        let attempts = Attempts::new(kept.bus);
        let mut tries = 1;
        loop {
            let Some(revision) = self.revision else {
                self.refresh(kept).await?;
                continue;
            };
            let mut record = self.record.clone();
            change(&mut record);
            let updated = attempts.update(kept.tenant, kept.lane, kept.id, &record, revision);
            match updated.await {
                Ok(revision) => {
                    (self.record, self.revision) = (record, Some(revision));
                    return Ok(());
                }
                Err(AttemptsError::Changed { .. }) if tries < TRIES => {
                    tries += 1;
                    self.revision = None;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Notes that an attempt starts, before it is told.
    pub(crate) async fn begin(
        &mut self,
        kept: Kept<'_>,
        start: &Start,
    ) -> Result<(), AttemptsError> {
        self.change(kept, |record| record.running = Some(start.clone()))
            .await
    }

    /// An attempt failed, and counts.
    pub(crate) async fn fail(
        &mut self,
        kept: Kept<'_>,
        start: &Start,
        code: FailureCode,
        error: &str,
    ) -> Result<(), AttemptsError> {
        self.change(kept, |record| push(record, start, code, error))
            .await
    }

    /// The delivery is handed back, and does not count; nor does its start, where it had `started`.
    pub(crate) async fn hand_back(
        &mut self,
        kept: Kept<'_>,
        started: bool,
    ) -> Result<(), AttemptsError> {
        self.change(kept, |record| hand_back(record, started)).await
    }

    /// The attempt `number` ended, and does not count, since the worker lives: it lost the delivery, or NATS was away. Whoever took it
    /// for a lost worker is put right.
    pub(crate) async fn end_uncounted(
        &mut self,
        kept: Kept<'_>,
        number: u64,
        worker: &str,
    ) -> Result<(), AttemptsError> {
        self.change(kept, |record| end_uncounted(record, number, worker))
            .await
    }

    /// The attempts that count.
    pub(crate) fn attempts(&self) -> u64 {
        self.record.attempts.len() as u64
    }

    /// The deliveries that do not.
    pub(crate) fn uncounted(&self) -> u64 {
        self.record.uncounted
    }

    /// How each of them ended.
    pub(crate) fn list(&self) -> &[Attempt] {
        &self.record.attempts
    }

    /// The number of the next start, from 1.
    pub(crate) fn next_attempt(&self) -> u64 {
        next_attempt(&self.record)
    }

    /// How careful the next attempt is to be.
    pub(crate) fn care(&self, limits: &config::Worker) -> Care {
        let is_last = self.attempts() + 1 >= limits.max_attempts;
        match (self.attempts(), self.record.workers_lost) {
            (0, _) => Care::None,
            (_, 1..) if is_last => Care::Alone,
            _ => Care::Fresh,
        }
    }

    /// Why it is not to be tried again, where the attempts or the deliveries are used up.
    pub(crate) fn exhausted(
        &self,
        limits: &config::Worker,
        deliveries: u64,
    ) -> Option<(FailureCode, String)> {
        if self.attempts() >= limits.max_attempts {
            let last = self
                .record
                .attempts
                .last()
                .map_or("", |attempt| attempt.error.as_str());
            let code = self.record.last_code.unwrap_or(FailureCode::Internal);
            return Some((
                code,
                format!(
                    "{} attempts failed, the last one so: {last}",
                    self.attempts()
                ),
            ));
        }
        if deliveries.saturating_sub(self.record.uncounted) > limits.max_deliveries {
            let message = format!("it was delivered {deliveries} times without an end");
            return Some((FailureCode::Deliveries, message));
        }
        None
    }
}

fn next_attempt(record: &Record) -> u64 {
    record.attempts.len() as u64 + record.handed_back + 1
}

fn push(record: &mut Record, start: &Start, code: FailureCode, error: &str) {
    record.attempts.push(Attempt {
        worker: start.worker.clone(),
        host: start.host.clone(),
        started_at: start.at,
        ended_at: OffsetDateTime::now_utc(),
        error: error.to_owned(),
    });
    record.last_code = Some(code);
    record.running = None;
}

fn lose(record: &mut Record, number: u64, start: &Start) {
    // Unless its end was noted meanwhile.
    if number >= next_attempt(record) {
        push(record, start, FailureCode::WorkerLost, LOST);
        record.workers_lost += 1;
    }
}

fn hand_back(record: &mut Record, started: bool) {
    record.uncounted += 1;
    if started {
        record.handed_back += 1;
        record.running = None;
    }
}

fn end_uncounted(record: &mut Record, number: u64, worker: &str) {
    if number >= next_attempt(record) {
        return hand_back(record, true);
    }
    let is_it = |attempt: &Attempt| attempt.worker == worker && attempt.error == LOST;
    if let Some(place) = record.attempts.iter().rposition(is_it) {
        record.attempts.remove(place);
        record.workers_lost = record.workers_lost.saturating_sub(1);
        record.uncounted += 1;
        record.handed_back += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(worker: &str) -> Start {
        Start {
            worker: worker.to_owned(),
            host: "h".to_owned(),
            at: OffsetDateTime::now_utc(),
        }
    }

    fn failed(times: usize) -> History {
        let mut history = History::none(0, 1);
        for _ in 0..times {
            push(
                &mut history.record,
                &start("w"),
                FailureCode::Container,
                "no container",
            );
        }
        history
    }

    #[test]
    fn the_attempts_are_used_up_at_their_bound() {
        let limits = config::Worker::default();
        assert_eq!(failed(2).exhausted(&limits, 3), None);
        let (code, message) = failed(3).exhausted(&limits, 3).expect("used up");
        assert_eq!(code, FailureCode::Container);
        assert!(message.contains("no container"), "{message}");
    }

    #[test]
    fn what_was_handed_back_numbers_the_next_start_but_does_not_count() {
        let mut history = failed(1);
        hand_back(&mut history.record, true);
        assert_eq!((history.attempts(), history.next_attempt()), (1, 3));
    }

    #[test]
    fn the_deliveries_are_a_backstop() {
        let limits = config::Worker::default();
        assert_eq!(History::none(0, 1).exhausted(&limits, 50), None);
        let mut handed_back = History::none(0, 1);
        hand_back(&mut handed_back.record, false);
        assert_eq!(handed_back.exhausted(&limits, 51), None);
        assert!(matches!(
            History::none(0, 1).exhausted(&limits, 51),
            Some((FailureCode::Deliveries, _))
        ));
    }

    #[test]
    fn the_last_attempt_after_a_lost_worker_runs_alone() {
        let limits = config::Worker::default();
        let mut history = History::none(0, 1);
        assert_eq!(history.care(&limits), Care::None);
        lose(&mut history.record, 1, &start("w1"));
        assert_eq!(history.care(&limits), Care::Fresh);
        push(&mut history.record, &start("w2"), FailureCode::Agent, "");
        assert_eq!(history.care(&limits), Care::Alone);
        assert_eq!(failed(2).care(&limits), Care::Fresh);
    }

    #[test]
    fn a_delivery_that_was_lost_is_no_lost_worker_whoever_notes_first() {
        let mut first = History::none(0, 1);
        end_uncounted(&mut first.record, 1, "w1");
        lose(&mut first.record, 1, &start("w1"));
        let mut second = History::none(0, 1);
        lose(&mut second.record, 1, &start("w1"));
        end_uncounted(&mut second.record, 1, "w1");
        for history in [first, second] {
            assert_eq!((history.attempts(), history.next_attempt()), (0, 2));
            assert_eq!((history.uncounted(), history.record.workers_lost), (1, 0));
        }
    }
}
