//! What operators do with submissions that are over: look at the dead letters, have submissions run again, remove letters.
//!
//! | | |
//! | --- | --- |
//! | [`selection`] | which letters |
//! | [`replay`], [`finished`] | one submission runs again, from its letter or from what is kept: its next generation |
//! | [`batch`] | many, with a record of how far it is |
//! | [`whereabouts`] | where a submission is now |
//! | [`error`], [`patience`] | what can go wrong, for one submission or for all; what is tried again |
//!
//! The invariant: a generation is published once, whatever is interrupted and repeated. What is queued is looked at before what
//! has a result, since a worker settles before it acknowledges; the generation after it is refused by its subject while it is
//! queued, by its message id for a while longer, and by its result for as long as that stands. A letter is removed only after
//! the generation that came of it was seen to be stored.

pub mod batch;
pub mod error;
mod finished;
mod patience;
pub mod replay;
pub mod selection;
mod whereabouts;

use std::time::Duration;

use patience::Patience;

pub use self::{batch::Batch, error::OperationError, selection::Selection};
use crate::{
    bus::{
        Bus,
        dead_letters::{DeadLetters, Letter, LetterWalk},
    },
    config::Config,
};

/// An operator's hands on a fleet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operations {
    bus: Bus,
    /// How often it is tried to do what may succeed a moment later.
    tries: u32,
    /// How long a replay waits for room in a queue.
    wait: Duration,
    /// Who replays: the user and host of the command, for the trail.
    by: String,
}

impl Operations {
    /// Over the operator's connection `bus`, for the person or program that `by` names.
    pub fn new(bus: &Bus, config: &Config, by: &str) -> Self {
        Self {
            bus: bus.clone(),
            tries: config.client.publish_tries.max(1),
            wait: config.client.wait_timeout_us.duration(),
            by: by.to_owned(),
        }
    }

    /// The letter under a sequence.
    pub async fn letter(&self, sequence: u64) -> Result<Letter, OperationError> {
        let letter = self.letters().read(sequence).await?;
        letter.ok_or(OperationError::NoLetter(sequence))
    }

    /// The letters that `selection` names and that stand now, in the order of their sequences.
    pub async fn select(&self, selection: &Selection) -> Result<Selected, OperationError> {
        let last = self.letters().last_sequence().await?;
        Ok(self.select_between(selection, 1, last))
    }

    fn select_between(&self, selection: &Selection, first: u64, last: u64) -> Selected {
        let (tenant, id) = (selection.tenant.as_ref(), selection.id.as_ref());
        Selected {
            letters: self.letters(),
            walk: self.letters().walk(tenant, id, first, last),
            selection: selection.clone(),
            first,
            last,
            at: 0,
        }
    }

    /// Removes the letter under a sequence. Whether it was there.
    pub async fn remove(&self, sequence: u64) -> Result<bool, OperationError> {
        Ok(self.letters().delete(sequence).await?)
    }

    fn patience(&self) -> Patience {
        Patience::new(self.tries, self.wait)
    }

    fn letters(&self) -> DeadLetters {
        DeadLetters::new(&self.bus)
    }
}

/// Letters, one after the other.
#[derive(Debug)]
pub struct Selected {
    letters: DeadLetters,
    walk: LetterWalk,
    selection: Selection,
    first: u64,
    /// The sequence that the selection ends at: what comes later is not part of it.
    pub last: u64,
    /// How many of the named sequences were looked at.
    at: usize,
}

impl Selected {
    /// The next one; `None` when there is no more.
    pub async fn next(&mut self) -> Result<Option<Letter>, OperationError> {
        if !self.selection.sequences.is_empty() {
            return self.next_named().await;
        }
        while let Some(letter) = self.walk.next().await? {
            if self.selection.holds_of(&letter.letter) {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    async fn next_named(&mut self) -> Result<Option<Letter>, OperationError> {
        while let Some(sequence) = self.selection.sequences.get(self.at).copied() {
            self.at += 1;
            if !(self.first..=self.last).contains(&sequence) {
                continue;
            }
            if let Some(letter) = self.letters.read(sequence).await? {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }
}
