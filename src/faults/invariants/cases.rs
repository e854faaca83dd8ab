//! What is known of one submission, from the whole evidence.

use std::collections::BTreeMap;

use crate::{
    faults::{
        evidence::{Evidence, Letter},
        history::{Operation, Seen, What},
    },
    submission::names::Digest,
};

/// Every submission that anything is known of.
#[derive(Debug)]
pub struct Cases<'a> {
    /// By their ids.
    pub by_id: BTreeMap<&'a str, Case<'a>>,
    /// What they were put together from.
    pub evidence: &'a Evidence,
}

/// What is known of one submission.
#[derive(Debug, Default)]
pub struct Case<'a> {
    /// What was published under its id.
    pub contents: BTreeMap<&'a Digest, Content<'a>>,
    /// Results that a subscriber got or a client read.
    pub seen: Vec<&'a Seen>,
    /// What the last read by id found; absent where nobody read.
    pub last_read: Option<Option<&'a Seen>>,
    /// What stands at the end.
    pub results: Vec<&'a Seen>,
    /// Its dead letters.
    pub letters: Vec<&'a Letter>,
}

/// What became of the publishes of one content under one id.
#[derive(Debug, Default)]
pub struct Content<'a> {
    /// What its program prints.
    pub nonce: &'a str,
    /// Publishes.
    pub invoked: usize,
    /// Those of which it is known that the content is stored.
    pub acknowledged: usize,
    /// Those of which it is known that they stored nothing.
    pub refused: usize,
}

impl Content<'_> {
    /// Whether no publish of it can have been stored.
    pub fn is_refused(&self) -> bool {
        self.invoked > 0 && self.refused == self.invoked
    }
}

impl<'a> Cases<'a> {
    /// Puts the evidence together.
    pub fn of(evidence: &'a Evidence) -> Self {
        let mut by_id: BTreeMap<&str, Case<'_>> = BTreeMap::new();
        for entry in &evidence.history {
            match &entry.what {
                What::Client { id, operation } => by_id.entry(id).or_default().take(operation),
                What::Live { seen, .. } => by_id.entry(&seen.id).or_default().seen.push(seen),
                _ => {}
            }
        }
        for result in &evidence.standing.results {
            by_id.entry(&result.id).or_default().results.push(result);
        }
        for letter in &evidence.standing.letters {
            by_id.entry(&letter.id).or_default().letters.push(letter);
        }
        Self { by_id, evidence }
    }
}

impl<'a> Case<'a> {
    fn take(&mut self, operation: &'a Operation) {
        match operation {
            Operation::Invoked { content, nonce } => {
                let content = self.contents.entry(content).or_default();
                content.nonce = nonce;
                content.invoked += 1;
            }
            Operation::Acknowledged { content, .. } => {
                self.contents.entry(content).or_default().acknowledged += 1;
            }
            Operation::Refused { content, .. } => {
                self.contents.entry(content).or_default().refused += 1;
            }
            Operation::Read(seen) => {
                self.seen.extend(seen);
                self.last_read = Some(seen.as_ref());
            }
            Operation::Unknown { .. } | Operation::GaveUp => {}
        }
    }
}
