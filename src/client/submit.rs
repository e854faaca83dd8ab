//! Publishing a submission until JetStream has it, or says that it never will.
//!
//! A publish whose answer is lost may have been stored, so it is tried again under the same id: the subject takes it once.
//! The same content seen in the queue after a try of our own that was not answered is therefore our own submission, and counts as
//! published. That the server says so does not: see [`PublishError::NotSeen`].

use std::{sync::Arc, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;

use super::{Client, ClientError, wait::Waiting};
use crate::{
    bus::{
        outage::Backoff,
        publish::{MAX_SUBMISSION_BYTES, PublishError},
    },
    submission::{
        check::check_shape,
        content::Content,
        encoding::{Encoding, EncodingError},
        message::Submission,
        names::{Digest, Lane, SubmissionId, Tenant},
        result::SubmissionResult,
    },
};

/// Before the second try; doubled for each one after it.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
const BACKOFF_MOST: Duration = Duration::from_secs(5);
/// The same for a full queue: room comes when submissions end.
const FULL_FIRST: Duration = Duration::from_secs(1);
const FULL_MOST: Duration = Duration::from_secs(30);

/// A submission that JetStream has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Whose.
    pub tenant: Tenant,
    /// Where it queues.
    pub lane: Lane,
    /// Its id: what to ask for the result by.
    pub id: SubmissionId,
    /// The SHA-256 of the body as published; the result echoes it.
    pub submission_digest: Digest,
}

impl Client {
    /// Validates a submission as far as that needs no fleet, sends what is too large for a message to the object store (see
    /// [`upload`](Self::upload)), publishes it and waits until it is stored. Without an `id` it
    /// gets a fresh one, which sorts by time. An unanswered publish and a full queue are tried again, `client.publish_tries`
    /// times in all, with exponential backoff and jitter; what failed after that says how long to wait
    /// ([`ClientError::retry_after`]).
    ///
    /// ```no_run
    /// # async fn example(client: envicutor::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use envicutor::submission::{message::{Submission, Test}, names::{Lane, Tenant}};
    ///
    /// let submission = Submission::new("cpp".parse()?)
    ///     .source(std::fs::read("sum.cpp")?)
    ///     .test(Test::new("1 2\n").named("small").expecting("3\n"))
    ///     .label("course", "cs101");
    /// let id = "homework-17".parse()?;
    /// let submitted = client.submit(&Tenant::default_tenant(), Lane::Batch, Some(id), &submission).await?;
    /// println!("queued as {}", submitted.id);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn submit(
        &self,
        tenant: &Tenant,
        lane: Lane,
        id: Option<SubmissionId>,
        submission: &Submission,
    ) -> Result<Submitted, ClientError> {
        let submission = self.upload(tenant, submission, Arc::new(|_| ())).await?;
        let (body, encoding) = self.encode(&submission)?;
        check_shape(&body, encoding)
            .map_err(|rejected| ClientError::Rejected(Box::new(rejected)))?;
        let submitted = Submitted {
            tenant: tenant.clone(),
            lane,
            id: id.unwrap_or_else(SubmissionId::generate),
            submission_digest: Digest::of(&body),
        };
        self.publish(&submitted, body.into(), encoding).await?;
        Ok(submitted)
    }

    /// [`submit`](Self::submit), then [`wait`](Self::wait) for as long as `client.wait_timeout_us` says. An id whose result
    /// stands already gives that result, if it is of the same submission.
    pub async fn submit_and_wait(
        &self,
        tenant: &Tenant,
        lane: Lane,
        id: Option<SubmissionId>,
        submission: &Submission,
    ) -> Result<SubmissionResult, ClientError> {
        // It listens before it publishes, in one write: what stands under an id of its own making need not be read.
        let (id, is_new) = match id {
            Some(id) => (id, false),
            None => (SubmissionId::generate(), true),
        };
        let mut waiting = Waiting::start(self, tenant, &id).await?;
        if is_new {
            waiting.expect_nothing();
        }
        let submitted = self.submit(tenant, lane, Some(id), submission).await?;
        let time = self.config.wait_timeout_us.duration();
        submitted.own(waiting.result_within(time).await?)
    }

    /// The body, and its encoding: JSON where all content is text and it fits, since people can read it on the wire; else
    /// MessagePack, which holds any bytes as they are. The same submission always gives the same body, so that publishing it
    /// again is recognized.
    pub(super) fn encode(
        &self,
        submission: &Submission,
    ) -> Result<(Vec<u8>, Encoding), EncodingError> {
        if let Some(encoding) = self.encoding {
            return Ok((encoding.encode(submission)?, encoding));
        }
        if is_text(submission) {
            let body = Encoding::Json.encode(submission)?;
            if body.len() <= MAX_SUBMISSION_BYTES {
                return Ok((body, Encoding::Json));
            }
        }
        let body = Encoding::MessagePack.encode(submission)?;
        Ok((body, Encoding::MessagePack))
    }

    async fn publish(
        &self,
        submitted: &Submitted,
        body: Bytes,
        encoding: Encoding,
    ) -> Result<(), PublishError> {
        let mut tries = 1;
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MOST);
        let mut backoff_from_full = Backoff::new(FULL_FIRST, FULL_MOST);
        // An earlier try of ours may have been stored.
        let mut is_unsure = false;
        loop {
            let Submitted {
                tenant, lane, id, ..
            } = submitted;
            let (body, headers) = (body.clone(), HeaderMap::new());
            let published = self
                .bus
                .publish_submission(tenant, *lane, id, body, encoding, headers);
            let error = match published.await {
                Ok(_) => return Ok(()),
                Err(PublishError::StillQueued { is_same: true, .. }) if is_unsure => return Ok(()),
                Err(error) => error,
            };
            is_unsure |= matches!(
                error,
                PublishError::Unknown(_)
                    | PublishError::NotSeen { .. }
                    | PublishError::NoConnection
                    | PublishError::Refused(_)
            );
            // A server that has just come back knows its streams a moment later.
            let is_passing = error.is_passing()
                || (is_unsure && matches!(error, PublishError::NoSuchQueue { .. }));
            if !is_passing || tries >= self.config.publish_tries {
                return Err(error);
            }
            let wait = if matches!(error, PublishError::QueueFull { .. }) {
                let wait = backoff_from_full.next_wait();
                tracing::warn!(%id, %tenant, ?wait, "the queue is full: the publish is tried again");
                wait
            } else {
                tracing::debug!(%id, tries, %error, "the publish is tried again");
                backoff.next_wait()
            };
            tokio::time::sleep(wait).await;
            tries += 1;
        }
    }
}

impl Submitted {
    /// `result`, where it is of this submission and not of another one that used its id before.
    pub fn own(&self, result: SubmissionResult) -> Result<SubmissionResult, ClientError> {
        if result.submission_digest == self.submission_digest {
            return Ok(result);
        }
        Err(ClientError::OtherContent {
            id: self.id.clone(),
            standing: result.submission_digest,
        })
    }
}

/// Whether JSON shows all content as it is.
fn is_text(submission: &Submission) -> bool {
    submission.contents().all(|content| match content {
        Content::Inline(data) => std::str::from_utf8(data).is_ok(),
        Content::Blob(_) | Content::Local(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_goes_as_json() {
        let submission = Submission::new("python".parse().expect("valid")).source("print(1)");
        assert!(is_text(&submission));
        assert!(!is_text(&submission.file("logo.png", &b"\x89PNG\xff"[..])));
    }
}
