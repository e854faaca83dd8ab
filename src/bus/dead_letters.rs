//! The dead letters: whole submissions that the fleet could not run. Several may stand under one subject, one for each
//! generation, and one for each other content that was published under its id; each is addressed by its sequence.

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{ApiError, Stored, header, header_of},
    connect::Bus,
    outage::sit_out,
    publish::submission_digest,
    walk::Walk,
};
use crate::submission::{
    dead_letter::{DeadLetter, Original},
    encoding::{Encoding, EncodingError},
    names::{Digest, SubmissionId, Tenant},
};

/// A letter could not be stored, found or deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// It has no such encoding, or is none of ours.
    #[error("a dead letter cannot be encoded or read: {0}")]
    Encoding(#[from] EncodingError),
    /// The stream is full, or the server could not be asked: the submission stays in its queue.
    #[error("the dead letters cannot be used: {0}")]
    Api(#[from] ApiError),
}

/// The dead letters of a fleet.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    bus: Bus,
}

/// A letter with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its sequence in DEAD_LETTERS: what it is addressed by.
    pub sequence: u64,
    /// What it says.
    pub letter: DeadLetter,
}

impl DeadLetters {
    /// The dead letters that this connection reaches.
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// Stores the letter and waits until it is. A second one of the same generation and content soon after is dropped by the
    /// server. Returns its sequence.
    pub async fn publish(
        &self,
        letter: &DeadLetter,
        encoding: Encoding,
    ) -> Result<u64, DeadLetterError> {
        let DeadLetter {
            tenant,
            id,
            generation,
            ..
        } = letter;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, encoding.content_type());
        headers.insert(header::GENERATION, generation.to_string());
        // One id can have letters of several contents: one in each lane, and what used it again.
        let content = Digest::of(&letter.submission.body);
        headers.insert(
            header::MESSAGE_ID,
            format!("{tenant}.{id}.{generation}.{content}"),
        );
        let body = Bytes::from(encoding.encode(letter)?);
        let subject = self.bus.names.dead_letter(tenant, id);
        let publish = || {
            self.bus
                .publish_stored(&subject, headers.clone(), body.clone())
        };
        let ack = sit_out(self.bus.outage_timeout, publish).await?;
        if ack.duplicate && self.at(ack.sequence).await?.is_none() {
            // It was deleted within the window, so it is not there: stored without the id, as there is none to be double.
            return self.publish_again(letter, encoding).await;
        }
        Ok(ack.sequence)
    }

    async fn publish_again(
        &self,
        letter: &DeadLetter,
        encoding: Encoding,
    ) -> Result<u64, DeadLetterError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, encoding.content_type());
        headers.insert(header::GENERATION, letter.generation.to_string());
        let subject = self.bus.names.dead_letter(&letter.tenant, &letter.id);
        let body = encoding.encode(letter)?;
        Ok(self
            .bus
            .publish_stored(&subject, headers, body.into())
            .await?
            .sequence)
    }

    /// The sequence of the letter of a generation, as the leader has it.
    pub async fn find(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        generation: u64,
    ) -> Result<Option<u64>, DeadLetterError> {
        self.find_where(tenant, id, |letter| letter.generation == generation)
            .await
    }

    /// The same where this is the digest of what the letter's service published.
    pub async fn find_content(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        generation: u64,
        content: &Digest,
    ) -> Result<Option<u64>, DeadLetterError> {
        let is_it =
            |letter: &DeadLetter| letter.generation == generation && digest_of(letter) == *content;
        self.find_where(tenant, id, is_it).await
    }

    async fn find_where(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        is_it: impl Fn(&DeadLetter) -> bool,
    ) -> Result<Option<u64>, DeadLetterError> {
        let subject = self.bus.names.dead_letter(tenant, id);
        let mut from = 1;
        while let Some(stored) = self
            .get(&json!({ "seq": from, "next_by_subj": subject }))
            .await?
        {
            if read(&stored).is_ok_and(|letter| is_it(&letter)) {
                return Ok(Some(stored.sequence));
            }
            from = stored.sequence + 1;
        }
        Ok(None)
    }

    /// The letter under a sequence.
    pub async fn read(&self, sequence: u64) -> Result<Option<Letter>, DeadLetterError> {
        match self.at(sequence).await? {
            Some(stored) => Ok(Some(Letter {
                sequence,
                letter: read(&stored)?,
            })),
            None => Ok(None),
        }
    }

    /// The first letter at `from` or after it, of any tenant. What is no letter is passed over.
    pub async fn next(&self, from: u64) -> Result<Option<Letter>, DeadLetterError> {
        self.walk(None, None, from, u64::MAX).next().await
    }

    /// The sequence of the last letter that was stored, as the leader has it; 0 where there was none yet.
    pub async fn last_sequence(&self) -> Result<u64, DeadLetterError> {
        #[derive(Deserialize)]
        struct Info {
            state: State,
        }
        #[derive(Deserialize)]
        struct State {
            last_seq: u64,
        }
        let call = format!("STREAM.INFO.{}", self.bus.names.dead_letters_stream());
        let info: Info = self.bus.api(&call, &Value::Null).await?;
        Ok(info.state.last_seq)
    }

    /// The letters from the sequence `first` to `last`, both included, in this order: of one tenant and id, or of all.
    pub fn walk(
        &self,
        tenant: Option<&Tenant>,
        id: Option<&SubmissionId>,
        first: u64,
        last: u64,
    ) -> LetterWalk {
        let subject = self.bus.names.dead_letters(tenant, id);
        let stream = self.bus.names.dead_letters_stream();
        LetterWalk {
            walk: Walk::new(&self.bus, stream, subject, first, last),
        }
    }

    /// Deletes the letter under a sequence. Whether it was there.
    pub async fn delete(&self, sequence: u64) -> Result<bool, DeadLetterError> {
        let call = format!("STREAM.MSG.DELETE.{}", self.bus.names.dead_letters_stream());
        let deleted = self
            .bus
            .api::<Value>(&call, &json!({ "seq": sequence, "no_erase": true }))
            .await;
        match deleted {
            Ok(_) => Ok(true),
            Err(ApiError::Refused { .. }) if self.at(sequence).await?.is_none() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn at(&self, sequence: u64) -> Result<Option<Stored>, DeadLetterError> {
        self.get(&json!({ "seq": sequence })).await
    }

    async fn get(&self, which: &Value) -> Result<Option<Stored>, DeadLetterError> {
        let stream = self.bus.names.dead_letters_stream();
        Ok(self.bus.get_from_leader(&stream, which).await?)
    }
}

/// The digest of what the service published that a letter is of.
pub fn digest_of(letter: &DeadLetter) -> Digest {
    let Original { headers, body, .. } = &letter.submission;
    let named = headers.get(header::DIGEST).map(String::as_str);
    submission_digest(letter.generation, named, body)
}

/// A walk through the letters.
#[derive(Debug)]
pub struct LetterWalk {
    walk: Walk,
}

impl LetterWalk {
    /// The next letter; `None` when there is no more. What cannot be read is no letter, and passed over.
    pub async fn next(&mut self) -> Result<Option<Letter>, DeadLetterError> {
        while let Some(stored) = self.walk.next().await? {
            if let Ok(letter) = read(&stored) {
                let sequence = stored.sequence;
                return Ok(Some(Letter { sequence, letter }));
            }
        }
        Ok(None)
    }
}

fn read(stored: &Stored) -> Result<DeadLetter, EncodingError> {
    Encoding::of_content_type(header_of(&stored.headers, header::CONTENT_TYPE))?
        .decode(&stored.body)
}
