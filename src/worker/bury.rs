//! Burying: what cannot be run ends as a dead letter and a `failed` result, in this order, so that a `failed` result always has
//! its letter.

use time::OffsetDateTime;

use super::{
    attempts::History,
    life::{End, Life, Step},
    settle::Won,
};
use crate::{
    bus::{dead_letters::DeadLetters, publish::kept_headers},
    submission::{
        dead_letter::{DeadLetter, Original, Reason},
        names::SubmissionId,
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
        fail_point!(Buried, &self.facts.address.raw_id);
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
        let Won::Another(other) = self.settle(result).await? else {
            return Ok(());
        };
        let failed_too =
            other.outcome == Outcome::Failed && other.generation == self.facts.generation;
        // The letter is right, with this reason as with another.
        if failed_too || self.is_of_other_content(&other) {
            return Ok(());
        }
        if let Some(letter) = letter {
            let removed = DeadLetters::new(&self.fleet.bus).delete(letter).await;
            removed.map_err(|error| self.nats(&error))?;
        }
        Ok(())
    }

    /// The dead letter of this generation and content, published and acknowledged: its place in the stream. With the dead letters
    /// full the message waits. An id that breaks the rule has no letter.
    pub(super) async fn letter(
        &self,
        history: &History,
        code: FailureCode,
        stage: &str,
        message: &str,
    ) -> Step<Option<u64>> {
        let Some(id) = &self.facts.id else {
            return Ok(None);
        };
        let letters = DeadLetters::new(&self.fleet.bus);
        if self.delivery.num_delivered > 1 {
            // The server knows what it stored for a short time only.
            let (tenant, generation) = (&self.facts.address.tenant, self.facts.generation);
            let found = letters.find_content(tenant, id, generation, &self.facts.digest);
            if let Some(standing) = found.await.map_err(|error| self.nats(&error))? {
                return Ok(Some(standing));
            }
        }
        let reason = Reason {
            code,
            message: message.to_owned(),
            stage: stage.to_owned(),
        };
        self.journal.warn(&format!("dead: {message}"));
        let letter = self.compose(id.clone(), history, reason);
        let published = letters.publish(&letter, self.facts.encoding).await;
        published.map(Some).map_err(|error| {
            self.journal
                .warn(&format!("the dead letter was not stored: {error}"));
            End::HandBack(self.fleet.config.worker.retry_max_us.duration())
        })
    }

    fn compose(&self, id: SubmissionId, history: &History, reason: Reason) -> DeadLetter {
        DeadLetter {
            tenant: self.facts.address.tenant.clone(),
            id,
            generation: self.facts.generation,
            lane: self.facts.address.lane,
            reason,
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
        }
    }

    /// A `failed` result counts only with its letter: the worker that settled it may have died before, or lost it.
    pub(super) async fn ensure_letter(&self, result: &SubmissionResult) -> Step<()> {
        let Some(id) = &self.facts.id else {
            return Ok(());
        };
        let (tenant, generation) = (&self.facts.address.tenant, self.facts.generation);
        let found = DeadLetters::new(&self.fleet.bus)
            .find_content(tenant, id, generation, &self.facts.digest)
            .await;
        if found.map_err(|error| self.nats(&error))?.is_some() {
            return Ok(());
        }
        let history = self.history().await?;
        let missing = Failure {
            code: FailureCode::Internal,
            message: "its dead letter was missing".to_owned(),
            stage: "delivery".to_owned(),
            attempts: 0,
        };
        let failure = result.failure.as_ref().unwrap_or(&missing);
        self.letter(&history, failure.code, &failure.stage, &failure.message)
            .await
            .map(drop)
    }
}
