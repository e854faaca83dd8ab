//! The attempts of a generation that ended otherwise than by a result, kept in KV `attempts`.
//!
//! A delivery is not an attempt: it becomes one when `started` is published. A start without an end is a lost worker.

use time::OffsetDateTime;

use crate::{
    bus::{
        Bus,
        attempts::{Attempts, AttemptsError, Record, Revised},
        events::{self, EventError},
    },
    config,
    submission::{
        dead_letter::Attempt,
        names::{SubmissionId, Tenant},
        result::FailureCode,
    },
};

/// The attempts so far.
#[derive(Debug, Clone)]
pub(crate) struct History {
    record: Record,
    /// Of what is kept; absent where that was not looked at, as at a first delivery.
    revision: Option<u64>,
}

/// The attempts could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    #[error(transparent)]
    Attempts(#[from] AttemptsError),
    #[error(transparent)]
    Started(#[from] EventError),
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
    pub(crate) async fn read(
        mut self,
        bus: &Bus,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Self, HistoryError> {
        let Revised { record, revision } = Attempts::new(bus).read(tenant, id).await?;
        self.revision = Some(revision);
        let (generation, sequence) = (self.record.generation, self.record.sequence);
        if let Some(kept) =
            record.filter(|kept| (kept.generation, kept.sequence) == (generation, sequence))
        {
            self.record = kept;
        }
        let started = events::last_started(bus, tenant, id).await?;
        let lost = started
            .filter(|event| event.generation == generation && event.attempt >= self.next_attempt());
        if let Some(started) = lost {
            let error = "the worker was lost: it started and never ended";
            self.push(
                &started.worker,
                "",
                started.at,
                FailureCode::WorkerLost,
                error,
            );
            self.write(bus, tenant, id).await?;
        }
        Ok(self)
    }

    /// Keeps the history, where no other worker wrote it since it was read.
    pub(crate) async fn write(
        &mut self,
        bus: &Bus,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<(), HistoryError> {
        let attempts = Attempts::new(bus);
        let revision = match self.revision {
            Some(revision) => revision,
            None => attempts.read(tenant, id).await?.revision,
        };
        self.revision = Some(attempts.update(tenant, id, &self.record, revision).await?);
        Ok(())
    }

    /// An attempt failed, and counts.
    pub(crate) fn push(
        &mut self,
        worker: &str,
        host: &str,
        started_at: OffsetDateTime,
        code: FailureCode,
        error: &str,
    ) {
        self.record.attempts.push(Attempt {
            worker: worker.to_owned(),
            host: host.to_owned(),
            started_at,
            ended_at: OffsetDateTime::now_utc(),
            error: error.to_owned(),
        });
        self.record.last_code = Some(code);
    }

    /// The delivery is handed back, and does not count; nor does its start, where it had `started`.
    pub(crate) fn handed_back(&mut self, started: bool) {
        self.record.uncounted += 1;
        self.record.handed_back += u64::from(started);
    }

    /// The attempts that count.
    pub(crate) fn attempts(&self) -> u64 {
        self.record.attempts.len() as u64
    }

    /// How each of them ended.
    pub(crate) fn list(&self) -> &[Attempt] {
        &self.record.attempts
    }

    /// The number of the next start, from 1.
    pub(crate) fn next_attempt(&self) -> u64 {
        self.attempts() + self.record.handed_back + 1
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

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(times: usize) -> History {
        let mut history = History::none(0, 1);
        for _ in 0..times {
            history.push(
                "w",
                "h",
                OffsetDateTime::now_utc(),
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
        history.handed_back(true);
        assert_eq!((history.attempts(), history.next_attempt()), (1, 3));
    }

    #[test]
    fn the_deliveries_are_a_backstop() {
        let limits = config::Worker::default();
        assert_eq!(History::none(0, 1).exhausted(&limits, 50), None);
        let mut handed_back = History::none(0, 1);
        handed_back.handed_back(false);
        assert_eq!(handed_back.exhausted(&limits, 51), None);
        assert!(matches!(
            History::none(0, 1).exhausted(&limits, 51),
            Some((FailureCode::Deliveries, _))
        ));
    }
}
