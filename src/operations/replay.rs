//! One submission runs again: its next generation is published, with the trail of who had that done and what was changed.
//!
//! A letter that was replayed is removed, as a job that is taken out of the dead set of a job queue: what stands in DEAD_LETTERS
//! is still to be seen to. What it said of its failure lives on in the trail (its reason) and in HISTORY (its body).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{OperationError, Operations, error::word, whereabouts::Whereabouts};
use crate::{
    bus::{
        api::{ApiError, code, header, header_of},
        dead_letters::{Letter, digest_of},
        history::{History, Kept},
        publish::{PublishError, Republication, submission_digest},
        results::Standing,
    },
    submission::{
        edit::{Edit, edit},
        encoding::Encoding,
        names::{Lane, SubmissionId, Tenant},
        replay::{Change, Replay, Trail},
        result::{FailureCode, Outcome},
    },
};

/// How a submission is to run again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// What is changed of its body.
    pub set: Vec<Edit>,
    /// The lane that it is queued in; absent is the one that it was in.
    pub lane: Option<Lane>,
    /// Whether it may replace a result that is no failure of this submission.
    pub replace: bool,
}

/// What became of one that was to be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Replayed {
    /// Its next generation is queued.
    Replayed(Next),
    /// It would be: nothing was published.
    WouldReplay(Next),
    /// There was nothing to do.
    Skipped {
        /// Why.
        message: String,
    },
    /// It could not be done, and the letter stays.
    Failed {
        /// Why.
        message: String,
    },
}

/// A submission's next generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Next {
    /// Its number.
    pub generation: u64,
    /// Where it is queued.
    pub lane: Lane,
    /// What differs from the one before.
    pub changes: Vec<Change>,
}

/// What a replay is part of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Occasion<'a> {
    pub(super) terms: &'a Terms,
    pub(super) batch: Option<&'a SubmissionId>,
    /// Whether nothing is to be published.
    pub(super) is_rehearsal: bool,
}

/// What a generation is made from: a letter, or what HISTORY keeps.
pub(super) struct Origin {
    pub(super) tenant: Tenant,
    pub(super) id: SubmissionId,
    pub(super) lane: Lane,
    /// The one that it makes.
    pub(super) generation: u64,
    pub(super) content_type: Option<String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
    /// Its sequence, and why it was dead.
    pub(super) letter: Option<(u64, FailureCode)>,
}

impl Operations {
    /// Has the submission of the letter under `sequence` run again, and removes the letter.
    pub(super) async fn replay_letter(
        &self,
        sequence: u64,
        occasion: Occasion<'_>,
    ) -> Result<Replayed, OperationError> {
        let mut patience = self.patience();
        loop {
            match self.try_letter(sequence, occasion).await {
                Err(error) => patience.spend_on(error).await?,
                done => return done,
            }
        }
    }

    /// The same once. Whatever an earlier try did is found.
    async fn try_letter(
        &self,
        sequence: u64,
        occasion: Occasion<'_>,
    ) -> Result<Replayed, OperationError> {
        let Some(letter) = self.letters().read(sequence).await? else {
            return Ok(skipped("it was replayed or removed meanwhile"));
        };
        if let Some(done) = self.skip_what_is_done(&letter, occasion).await? {
            return Ok(done);
        }
        let (again, next) = self.next(Origin::of_letter(letter)?, occasion)?;
        if occasion.is_rehearsal {
            return Ok(Replayed::WouldReplay(next));
        }
        match self.bus.publish_again(&again).await {
            Ok(true) => {}
            // Somebody else's, or an earlier try's: what it says of itself decides at the next try.
            Ok(false) | Err(PublishError::StillQueued { .. }) => {
                let generation = again.generation;
                let is_gone = match self.whereabouts(&again.tenant, &again.id).await? {
                    Whereabouts::Queued { .. } => false,
                    Whereabouts::Over(standing) => {
                        standing.is_none_or(|it| it.result.generation < generation)
                    }
                };
                return Err(if is_gone {
                    gone(&again)
                } else {
                    still_queued(&again.tenant, &again.id, generation)
                });
            }
            Err(error) => return Err(error.into()),
        }
        self.letters().delete(sequence).await?;
        Ok(Replayed::Replayed(next))
    }

    /// What became of a letter whose submission has gone on since; `None` where its next generation is to be published.
    async fn skip_what_is_done(
        &self,
        letter: &Letter,
        occasion: Occasion<'_>,
    ) -> Result<Option<Replayed>, OperationError> {
        let Letter { sequence, letter } = letter;
        let (tenant, id) = (&letter.tenant, &letter.id);
        match self.whereabouts(tenant, id).await? {
            Whereabouts::Queued { generation, trail } if generation > letter.generation => {
                let is_ours = generation == letter.generation + 1;
                let replay = trail.last().filter(|_| is_ours);
                let what = format!("generation {generation} is queued or running");
                let done = self.finish(*sequence, replay, occasion, letter.lane, &what);
                Ok(Some(done.await?))
            }
            // It is dead, and yet to be acknowledged.
            Whereabouts::Queued { generation, .. } => Err(still_queued(tenant, id, generation)),
            Whereabouts::Over(Some(standing)) if standing.result.generation > letter.generation => {
                let replay = self.replay_of(letter.generation, *sequence, tenant, id);
                let (what, replay) = (what_stands(&standing), replay.await?);
                let done = self.finish(*sequence, replay.as_ref(), occasion, letter.lane, &what);
                Ok(Some(done.await?))
            }
            Whereabouts::Over(standing) => {
                let digest = digest_of(letter);
                let is_other = |standing: &Standing| {
                    let result = &standing.result;
                    result.submission_digest != digest
                        || (result.generation == letter.generation
                            && result.outcome != Outcome::Failed)
                };
                match standing.filter(|it| is_other(it)) {
                    Some(standing) if !occasion.terms.replace => {
                        let what = what_stands(&standing);
                        Err(OperationError::OtherResult { what })
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    /// The end of a letter whose next generation is there already. Where `replay` says that it came of this letter, an earlier
    /// command was interrupted before it removed it.
    async fn finish(
        &self,
        sequence: u64,
        replay: Option<&Replay>,
        occasion: Occasion<'_>,
        lane: Lane,
        what: &str,
    ) -> Result<Replayed, OperationError> {
        let Some(replay) = replay.filter(|replay| replay.letter == Some(sequence)) else {
            return Ok(skipped(what));
        };
        if occasion.is_rehearsal {
            return Ok(skipped(format!("{what}: it came of this letter")));
        }
        self.letters().delete(sequence).await?;
        if replay.batch.as_ref() != occasion.batch {
            return Ok(skipped(format!("{what}: the letter is removed")));
        }
        Ok(Replayed::Replayed(Next {
            generation: replay.generation,
            lane: occasion.terms.lane.unwrap_or(lane),
            changes: replay.changes.clone(),
        }))
    }

    /// The replay that made a generation of this letter, as far as HISTORY still has it.
    async fn replay_of(
        &self,
        generation: u64,
        sequence: u64,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Option<Replay>, OperationError> {
        let replay = |kept: &Kept| {
            let trail = Trail::of_header(header_of(&kept.headers, header::REPLAYS));
            let last = trail.last().cloned();
            last.filter(|replay| {
                kept.generation == generation + 1 && replay.letter == Some(sequence)
            })
        };
        let found = History::new(&self.bus)
            .last(tenant, id, |kept| replay(kept).is_some())
            .await;
        match found {
            Ok(found) => Ok(found.as_ref().and_then(replay)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What is published, and what is told of it.
    pub(super) fn next(
        &self,
        origin: Origin,
        occasion: Occasion<'_>,
    ) -> Result<(Republication, Next), OperationError> {
        let Terms { set, lane, .. } = occasion.terms;
        let named = origin.headers.get(header::DIGEST).map(String::as_str);
        // Of the generation before: the header counts for a replay alone.
        let digest = submission_digest(origin.generation - 1, named, &origin.body);
        let (body, mut changes) = if set.is_empty() {
            (origin.body, Vec::new())
        } else {
            let edited = edit(&origin.body, origin.content_type.as_deref(), set)?;
            (edited.body, edited.changes)
        };
        if let Some(over) = expired(&body, origin.content_type.as_deref()) {
            return Err(OperationError::Expired(over));
        }
        let lane = lane.unwrap_or(origin.lane);
        if lane != origin.lane {
            changes.push(Change {
                path: "lane".into(),
                from: origin.lane.as_str().into(),
                to: lane.as_str().into(),
            });
        }
        let replay = Replay {
            generation: origin.generation,
            at: OffsetDateTime::now_utc(),
            by: self.by.clone(),
            letter: origin.letter.map(|(sequence, _)| sequence),
            reason: origin.letter.map(|(_, reason)| reason),
            batch: occasion.batch.cloned(),
            changes: changes.clone(),
        };
        let mut headers = origin.headers;
        let trail = Trail::of_header(headers.get(header::REPLAYS).map(String::as_str)).and(replay);
        headers.extend(
            trail
                .to_header()
                .map(|trail| (header::REPLAYS.to_owned(), trail)),
        );
        headers.insert(header::DIGEST.to_owned(), digest.to_string());
        let again = Republication {
            tenant: origin.tenant,
            lane,
            id: origin.id,
            generation: origin.generation,
            body,
            content_type: origin.content_type,
            headers,
        };
        let next = Next {
            generation: again.generation,
            lane,
            changes,
        };
        Ok((again, next))
    }
}

impl Origin {
    fn of_letter(letter: Letter) -> Result<Self, OperationError> {
        let Letter { sequence, letter } = letter;
        Ok(Self {
            generation: after(letter.generation)?,
            tenant: letter.tenant,
            id: letter.id,
            lane: letter.lane,
            content_type: letter.submission.content_type,
            headers: letter.submission.headers,
            body: letter.submission.body,
            letter: Some((sequence, letter.reason.code)),
        })
    }
}

pub(super) fn after(generation: u64) -> Result<u64, OperationError> {
    generation
        .checked_add(1)
        .ok_or(OperationError::LastGeneration(generation))
}

/// The `expires_at` of a body, where that is over.
fn expired(body: &[u8], content_type: Option<&str>) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        expires_at: Option<String>,
    }
    let encoding = Encoding::of_content_type(content_type).ok()?;
    let instant = encoding.decode::<Named>(body).ok()?.expires_at?;
    let is_over = OffsetDateTime::parse(&instant, &Rfc3339).ok()? <= OffsetDateTime::now_utc();
    is_over.then_some(instant)
}

fn what_stands(standing: &Standing) -> String {
    let result = &standing.result;
    format!(
        "generation {} has the result {}",
        result.generation,
        word(result.outcome)
    )
}

fn skipped(message: impl Into<String>) -> Replayed {
    Replayed::Skipped {
        message: message.into(),
    }
}

pub(super) fn still_queued(tenant: &Tenant, id: &SubmissionId, generation: u64) -> OperationError {
    OperationError::StillQueued {
        tenant: tenant.clone(),
        id: id.clone(),
        generation,
    }
}

pub(super) fn gone(again: &Republication) -> OperationError {
    OperationError::Gone {
        tenant: again.tenant.clone(),
        id: again.id.clone(),
        generation: again.generation,
    }
}

/// Whether a stream is not there: one that an older `nats apply` did not make.
fn is_missing(error: &ApiError) -> bool {
    error.code() == Some(code::STREAM_NOT_FOUND)
}
