//! Burying: what cannot be run ends as a dead letter and a `failed` result, in this order, so that a `failed` result always has
//! its letter.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use time::OffsetDateTime;

use super::{
    attempts::History,
    life::{End, Life, Step},
};
use crate::{
    bus::dead_letters::DeadLetters,
    submission::{
        dead_letter::{DeadLetter, Original, Reason},
        result::{Failure, FailureCode, Outcome, SubmissionResult},
    },
};

impl Life {
    /// The dead letter, then the `failed` result; where another result of this generation stands, no letter.
    pub(super) async fn bury(
        &self,
        history: &History,
        code: FailureCode,
        stage: &str,
        message: String,
    ) -> Step<()> {
        let letter = self.letter(history, code, stage, &message).await?;
        let now = OffsetDateTime::now_utc();
        let mut result = self
            .facts
            .result(Outcome::Failed, history.attempts().max(1), now);
        result.failure = Some(Failure {
            code,
            message,
            stage: stage.to_owned(),
            attempts: history.attempts(),
        });
        if !self.settle(result).await? {
            let removed = DeadLetters::new(&self.fleet.bus).delete(letter).await;
            removed.map_err(|error| self.nats(&error))?;
        }
        Ok(())
    }

    /// The dead letter of this generation, published and acknowledged: its place in the stream. With the dead letters full
    /// the message waits.
    pub(super) async fn letter(
        &self,
        history: &History,
        code: FailureCode,
        stage: &str,
        message: &str,
    ) -> Step<u64> {
        let Some(id) = self.facts.address.id() else {
            self.journal
                .warn("it failed under an id that breaks the rule: it cannot be dead-lettered");
            return Err(End::HandBack(
                self.fleet.config.worker.retry_max_us.duration(),
            ));
        };
        let letter = DeadLetter {
            tenant: self.facts.address.tenant.clone(),
            id,
            generation: self.facts.generation,
            lane: self.facts.address.lane,
            reason: Reason {
                code,
                message: message.to_owned(),
                stage: stage.to_owned(),
            },
            attempts: history.list().to_vec(),
            submission: Original {
                content_type: self.facts.content_type.clone(),
                headers: kept_headers(&self.delivery.headers),
                body: self.delivery.body.to_vec(),
            },
            log_tail: self.journal.tail(),
            dead_at: OffsetDateTime::now_utc(),
            labels: self
                .plan()
                .map_or_else(|rejected| rejected.labels, |plan| plan.labels),
        };
        self.journal.warn(&format!("dead: {message}"));
        DeadLetters::new(&self.fleet.bus)
            .publish(&letter, self.facts.encoding)
            .await
            .map_err(|error| {
                self.journal
                    .warn(&format!("the dead letter was not stored: {error}"));
                End::HandBack(self.fleet.config.worker.retry_max_us.duration())
            })
    }

    /// A `failed` result counts only with its letter: the worker that settled it may have died before, or lost it.
    pub(super) async fn ensure_letter(&self, result: &SubmissionResult) -> Step<()> {
        let Some(id) = self.facts.address.id() else {
            return Ok(());
        };
        let letters = DeadLetters::new(&self.fleet.bus);
        let found = letters
            .find(&self.facts.address.tenant, &id, self.facts.generation)
            .await;
        if found.map_err(|error| self.nats(&error))?.is_none() {
            let history = self.history().await?;
            let (code, message, stage) = result.failure.as_ref().map_or(
                (
                    FailureCode::Internal,
                    "its dead letter was missing",
                    "delivery",
                ),
                |failure| {
                    (
                        failure.code,
                        failure.message.as_str(),
                        failure.stage.as_str(),
                    )
                },
            );
            self.letter(&history, code, stage, message).await?;
        }
        Ok(())
    }
}

/// The headers of a message that a dead letter keeps: ours and the trace's.
fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let kept =
        |name: &str| name.starts_with("Envicutor-") || matches!(name, "traceparent" | "tracestate");
    let pairs = headers.iter().filter(|(name, _)| kept(name.as_ref()));
    pairs
        .filter_map(|(name, values)| Some((name.to_string(), values.first()?.as_str().to_owned())))
        .collect()
}
