//! What stands decides: whether a message is done before it runs (step 4), and whose result it is in the end (step 7).
//!
//! The invariant: a message whose result another one stored is acked only when nothing of it is lost: its own content has that
//! result, or a dead letter.

use super::{
    attempts::History,
    facts::Facts,
    life::{End, Life, Step},
    watch::Outside,
};
use crate::{
    bus::{
        dead_letters::DeadLetters,
        results::{ResultError, Results, Settled, Settlement},
    },
    submission::{
        budget,
        result::{FailureCode, Outcome, SubmissionResult},
    },
};

/// Whose result stands after a settlement.
pub(super) enum Won {
    /// This one.
    Ours,
    /// Another one, of this generation or a later one.
    Another(Box<SubmissionResult>),
}

impl Life {
    /// Hears of results that others store, and of the drain's end.
    pub(super) async fn listen(&self) -> Step<Outside<'_>> {
        let Facts {
            address,
            generation,
            ..
        } = &self.facts;
        let (bus, hand_back) = (&self.fleet.bus, &self.fleet.hand_back);
        let outside = Outside::listen(bus, address, *generation, hand_back).await;
        outside.map_err(|error| self.nats(&error))
    }

    /// Step 4: goes on only where no result makes this message done.
    pub(super) async fn skip_what_is_done(&self) -> Step<()> {
        let results = Results::new(&self.fleet.bus);
        let standing = results
            .standing(&self.facts.address.tenant, &self.facts.address.raw_id)
            .await;
        let standing = match standing {
            Ok(standing) => standing.map(|standing| standing.result),
            Err(error) => return Err(self.result_error(&error).await),
        };
        match standing {
            Some(result) if result.generation >= self.facts.generation => {
                self.journal.note("a result stands already");
                self.done_by(&result).await?;
                Err(End::Ack)
            }
            _ => Ok(()),
        }
    }

    /// Sees to what is left of a message that `standing` makes done. Its id may have been used for another content; a `failed` result
    /// counts only with its letter, and any other without one.
    pub(super) async fn done_by(&self, standing: &SubmissionResult) -> Step<()> {
        if self.is_of_other_content(standing) {
            let message = format!(
                "the id {} has a result of other content already",
                self.facts.address.raw_id
            );
            let none = self.no_history();
            self.letter(&none, FailureCode::IdReused, "delivery", &message)
                .await?;
        } else if standing.generation == self.facts.generation {
            if standing.outcome == Outcome::Failed {
                self.ensure_letter(standing).await?;
            } else if self.delivery.num_delivered > 1 {
                self.remove_letter().await?;
            }
        }
        Ok(())
    }

    /// Whether `standing` is the result of another submission that had the same id: a result names what its service published,
    /// whatever a replay of it ran. A replay was made for the id as it stood.
    pub(super) fn is_of_other_content(&self, standing: &SubmissionResult) -> bool {
        self.facts.generation == 0 && standing.submission_digest != self.facts.digest
    }

    /// Removes the letter that an earlier delivery stored, and whose `failed` result lost to another one.
    async fn remove_letter(&self) -> Step<()> {
        let Some(id) = &self.facts.id else {
            return Ok(());
        };
        let letters = DeadLetters::new(&self.fleet.bus);
        let (tenant, generation) = (&self.facts.address.tenant, self.facts.generation);
        let found = letters.find_content(tenant, id, generation, &self.facts.digest);
        if let Some(letter) = found.await.map_err(|error| self.nats(&error))? {
            let removed = letters.delete(letter).await;
            removed.map_err(|error| self.nats(&error))?;
            self.journal
                .note("removed the letter of a result that lost");
        }
        Ok(())
    }

    /// Step 7: a result stands, this one or another of this generation or a later one.
    pub(super) async fn settle(&self, result: SubmissionResult) -> Step<Won> {
        let (outcome, verdict) = (result.outcome, result.verdict);
        let encoding = self.facts.encoding;
        let body = budget::fit(result, encoding).map_err(|error| self.unsettled(&error))?;
        let settlement = Settlement {
            tenant: &self.facts.address.tenant,
            raw_id: &self.facts.address.raw_id,
            generation: self.facts.generation,
            encoding,
            body: body.into(),
        };
        let patience = self.fleet.config.worker.retry_max_us.duration();
        let settled = Results::new(&self.fleet.bus)
            .settle(&settlement, patience)
            .await;
        let won = match settled {
            Ok(Settled::Stored(_)) => {
                self.journal
                    .note(&format!("settled: {outcome:?} {verdict:?}"));
                Won::Ours
            }
            Ok(Settled::Standing(other, _)) => {
                self.journal.note("another result won");
                Won::Another(other)
            }
            Err(error) => return Err(self.result_error(&error).await),
        };
        fail_point!(Settled, &self.facts.address.raw_id);
        Ok(won)
    }

    /// Settles a result that needs no letter.
    pub(super) async fn settle_and_be_done(&self, result: SubmissionResult) -> Step<()> {
        match self.settle(result).await? {
            Won::Ours => Ok(()),
            Won::Another(other) => self.done_by(&other).await,
        }
    }

    async fn result_error(&self, error: &ResultError) -> End {
        match error {
            ResultError::Unreadable { .. } => {
                self.journal.warn(&error.to_string());
                self.leave_to_another(&mut self.no_history()).await
            }
            ResultError::TooLarge { .. } => self.unsettled(error),
            error => self.nats(error),
        }
    }

    /// A bug: the backstop of deliveries ends it, if no other version of the program does.
    fn unsettled(&self, error: &dyn std::fmt::Display) -> End {
        self.journal
            .warn(&format!("no result can be made: {error}"));
        End::HandBack(self.fleet.config.worker.retry_max_us.duration())
    }

    /// No attempts of this message yet.
    pub(super) fn no_history(&self) -> History {
        History::none(self.facts.generation, self.delivery.stream_sequence)
    }
}
