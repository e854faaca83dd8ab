//! Ending a submission without running it: it was cancelled, or it expired before anybody took it.
//!
//! The invariant: first its result is settled by compare-and-set, so that a worker's own may win; only after ours is stored are the
//! messages that were seen before it purged, and no other. Whoever dies in between leaves messages that the next worker finds
//! done. A worker that runs it is told by the result itself.

use std::time::Duration;

use async_nats::HeaderMap;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    api::{ApiError, Stored, code, generation_of, header, header_of},
    connect::Bus,
    dead_letters::{DeadLetterError, DeadLetters},
    events, history,
    publish::submission_digest,
    results::{ResultError, Results, Settled, Settlement},
};
use crate::submission::{
    cancellation::Cancelled,
    check::check_shape,
    encoding::{Encoding, EncodingError},
    names::{Digest, Lane, SubmissionId, Tenant},
    result::{Outcome, SubmissionResult},
    units::Micros,
};

/// A submission could not be ended, or that is not known. To try again is safe.
#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    /// The queue or its messages.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Its result.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// Its result has no encoding.
    #[error("the result of a submission that was withdrawn cannot be encoded: {0}")]
    Encoding(#[from] EncodingError),
}

/// Who withdraws, and how long they try.
#[derive(Debug, Clone, Copy)]
pub struct Withdrawal<'a> {
    /// The connection, with the rights of a worker or an operator.
    pub bus: &'a Bus,
    /// Whom the result names as its worker.
    pub by: &'a str,
    /// How long the settlement is tried.
    pub patience: Duration,
}

/// A message in a tenant's queue, in a worker's hands or not.
#[derive(Debug, Clone)]
pub struct Queued {
    tenant: Tenant,
    id: SubmissionId,
    message: Stored,
}

impl Queued {
    /// `None` for a message whose id breaks the rule: it is a worker's to reject.
    pub fn of(bus: &Bus, message: Stored) -> Option<Self> {
        let address = bus.names.address(&message.subject)?;
        let id = address.id()?;
        Some(Self {
            tenant: address.tenant,
            id,
            message,
        })
    }

    /// The message.
    pub fn message(&self) -> &Stored {
        &self.message
    }

    fn generation(&self) -> u64 {
        // One that is no number is a worker's to reject, as of generation 0.
        generation_of(&self.message.headers).unwrap_or(0)
    }

    /// Of the body that its service published.
    fn digest(&self) -> Digest {
        let named = header_of(&self.message.headers, header::DIGEST);
        submission_digest(self.generation(), named, &self.message.body)
    }

    /// Its body's encoding; JSON where it names none that there is.
    pub fn encoding(&self) -> Encoding {
        Encoding::of_content_type(header_of(&self.message.headers, header::CONTENT_TYPE))
            .unwrap_or_default()
    }
}

impl Withdrawal<'_> {
    /// Cancels a submission, queued or running, in both lanes.
    pub async fn cancel(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Cancelled, WithdrawError> {
        // The queue first: what leaves it before the second look has its result by then.
        let queued = self.queued(tenant, id).await?;
        let Some(latest) = queued.iter().max_by_key(|queued| queued.generation()) else {
            return self.what_stands(tenant, id).await;
        };
        match self.settle(latest, Outcome::Cancelled).await? {
            Settled::Stored(_) => {
                self.clear(&queued).await;
                Ok(Cancelled::Cancelled)
            }
            // Who cancelled it before may have died since. One of other content under its id is a worker's to judge.
            Settled::Standing(result, _) if result.outcome == Outcome::Cancelled => {
                let mut done = queued;
                done.retain(|it| it.digest() == result.submission_digest);
                self.clear(&done).await;
                Ok(Cancelled::Cancelled)
            }
            // Whoever settled it acknowledges the message, or the next worker does.
            Settled::Standing(..) => Ok(Cancelled::Finished),
        }
    }

    /// Ends a submission that nobody took in time. Whether it was this that ended it.
    pub async fn expire(&self, queued: Queued) -> Result<bool, WithdrawError> {
        let settled = self.settle(&queued, Outcome::Expired).await?;
        let is_ours = matches!(settled, Settled::Stored(_));
        if is_ours {
            self.clear(&[queued]).await;
        }
        Ok(is_ours)
    }

    /// The messages of this id, in whatever lane, as the leader has them.
    async fn queued(&self, tenant: &Tenant, id: &SubmissionId) -> Result<Vec<Queued>, ApiError> {
        let names = &self.bus.names;
        let stream = names.submissions_stream(tenant);
        let mut queued = Vec::new();
        for lane in Lane::ALL {
            let subject = names.submission(tenant, lane, id.as_str());
            let which = json!({ "last_by_subj": subject });
            match self.bus.get_from_leader(&stream, &which).await {
                Ok(stored) => {
                    queued.extend(stored.and_then(|message| Queued::of(self.bus, message)));
                }
                // An unknown tenant has nothing queued.
                Err(error) if error.code() == Some(code::STREAM_NOT_FOUND) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(queued)
    }

    async fn what_stands(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Cancelled, WithdrawError> {
        let standing = Results::new(self.bus).standing(tenant, id.as_str()).await;
        Ok(match standing {
            Ok(None) => Cancelled::Unknown,
            Ok(Some(standing)) if standing.result.outcome == Outcome::Cancelled => {
                Cancelled::Cancelled
            }
            // What another version wrote is a result too.
            Ok(Some(_)) | Err(ResultError::Unreadable { .. }) => Cancelled::Finished,
            Err(error) => return Err(error.into()),
        })
    }

    async fn settle(&self, queued: &Queued, outcome: Outcome) -> Result<Settled, WithdrawError> {
        let encoding = queued.encoding();
        let result = self.result(queued, outcome).await;
        let settlement = Settlement {
            tenant: &queued.tenant,
            raw_id: queued.id.as_str(),
            generation: queued.generation(),
            encoding,
            body: encoding.encode(&result)?.into(),
        };
        let results = Results::new(self.bus);
        Ok(results.settle(&settlement, self.patience).await?)
    }

    /// The result without a run. What is known of its start is a live view's knowledge: without it, it never started.
    async fn result(&self, queued: &Queued, outcome: Outcome) -> SubmissionResult {
        let Queued {
            tenant,
            id,
            message,
        } = queued;
        let generation = queued.generation();
        let started = events::last_started(self.bus, tenant, id).await;
        let started = started.ok().flatten();
        let started = started.filter(|event| event.generation == generation);
        let now = OffsetDateTime::now_utc();
        let started_at = started.as_ref().map_or(now, |event| event.at);
        let waited = (started_at - message.stored_at).whole_microseconds();
        let labels = match check_shape(&message.body, queued.encoding()) {
            Ok(submission) => submission.labels,
            Err(rejected) => rejected.labels,
        };
        SubmissionResult {
            tenant: tenant.clone(),
            id: id.to_string(),
            generation,
            attempt: started.map_or(1, |event| event.attempt),
            outcome,
            verdict: None,
            runtime: None,
            image: None,
            submission_digest: queued.digest(),
            isolation: None,
            start: None,
            worker: self.by.to_owned(),
            compile: None,
            runs: Vec::new(),
            collected: Vec::new(),
            collect_errors: Vec::new(),
            errors: Vec::new(),
            failure: None,
            published_at: message.stored_at,
            started_at,
            finished_at: now,
            // The clocks of two machines: one may be behind the other.
            queued_us: Micros(u64::try_from(waited).unwrap_or(0)),
            labels,
        }
    }

    /// Removes what is left of these messages, and no later one of their subjects. What cannot be removed stays queued: the next
    /// worker finds it done, and does this.
    async fn clear(&self, done: &[Queued]) {
        for queued in done {
            let cleared = match self.remove_letter(queued).await {
                Ok(()) => self
                    .keep_and_purge(queued)
                    .await
                    .map_err(DeadLetterError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = cleared {
                let Queued { tenant, id, .. } = queued;
                tracing::warn!(%tenant, %id, %error, "a submission that was withdrawn stays queued for the next worker");
            }
        }
    }

    /// Removes the letter of a worker that died before it could settle `failed`.
    async fn remove_letter(&self, queued: &Queued) -> Result<(), DeadLetterError> {
        let letters = DeadLetters::new(self.bus);
        let content = queued.digest();
        let found = letters.find_content(&queued.tenant, &queued.id, queued.generation(), &content);
        if let Some(letter) = found.await? {
            letters.delete(letter).await?;
        }
        Ok(())
    }

    async fn keep_and_purge(&self, queued: &Queued) -> Result<(), ApiError> {
        let Stored {
            subject,
            headers,
            body,
            ..
        } = &queued.message;
        if let Some(address) = self.bus.names.address(subject) {
            history::keep(self.bus, &address, headers, body.clone()).await;
        }
        let stream = self.bus.names.submissions_stream(&queued.tenant);
        let call = format!("STREAM.PURGE.{stream}");
        let which = json!({ "filter": queued.message.subject, "seq": queued.message.sequence + 1 });
        self.bus.api::<Value>(&call, &which).await.map(drop)
    }
}

/// Asks the workers to cancel a submission; one of them answers.
pub async fn ask_to_cancel(
    bus: &Bus,
    tenant: &Tenant,
    id: &SubmissionId,
) -> Result<Cancelled, WithdrawError> {
    let subject = bus.names.cancel(tenant, id);
    let answer = bus.ask(&subject, HeaderMap::new(), "".into()).await?;
    let headers = answer.headers.unwrap_or_default();
    let encoding = Encoding::of_content_type(header_of(&headers, header::CONTENT_TYPE))?;
    let cancellation: crate::submission::cancellation::Cancellation =
        encoding.decode(&answer.payload)?;
    Ok(cancellation.state)
}
