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
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    record: Record,
    revision: u64,
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
    /// The history of a generation that was delivered before.
    pub(crate) async fn read(
        bus: &Bus,
        tenant: &Tenant,
        id: &SubmissionId,
        generation: u64,
    ) -> Result<Self, HistoryError> {
        let Revised { record, revision } = Attempts::new(bus).read(tenant, id).await?;
        let kept = record.filter(|record| record.generation == generation);
        let mut history = Self {
            record: kept.unwrap_or(Record {
                generation,
                ..Record::default()
            }),
            revision,
        };
        let started = events::last_started(bus, tenant, id).await?;
        let lost = started.filter(|event| {
            event.generation == generation && event.attempt >= history.next_attempt()
        });
        if let Some(started) = lost {
            let error = "the worker was lost: it started and never ended";
            history.push(
                &started.worker,
                "",
                started.at,
                FailureCode::WorkerLost,
                error,
            );
            history.write(bus, tenant, id).await?;
        }
        Ok(history)
    }

    /// Keeps the history, where no other worker wrote it since it was read.
    pub(crate) async fn write(
        &mut self,
        bus: &Bus,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<(), HistoryError> {
        self.revision = Attempts::new(bus)
            .update(tenant, id, &self.record, self.revision)
            .await?;
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

    /// A start was handed back: it ended, and does not count.
    pub(crate) fn handed_back(&mut self) {
        self.record.handed_back += 1;
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
        if deliveries > limits.max_deliveries {
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
        let mut history = History::default();
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
        history.handed_back();
        assert_eq!((history.attempts(), history.next_attempt()), (1, 3));
    }

    #[test]
    fn the_deliveries_are_a_backstop() {
        let limits = config::Worker::default();
        assert_eq!(History::default().exhausted(&limits, 50), None);
        assert!(matches!(
            History::default().exhausted(&limits, 51),
            Some((FailureCode::Deliveries, _))
        ));
    }
}
