//! Where a submission is on its way.

use serde::Serialize;
use time::OffsetDateTime;

use super::{Client, ClientError};
use crate::{
    bus::{api::generation_of, events::last_started},
    submission::{
        names::{Lane, SubmissionId, Tenant},
        result::SubmissionResult,
    },
};

/// Where a submission is. Its place among the queued ones is not known: a queue is drained from several ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Status {
    /// It waits for a worker.
    Queued {
        /// 0, and one more for each replay.
        generation: u64,
        /// Where.
        lane: Lane,
        /// Since when.
        #[serde(with = "time::serde::rfc3339")]
        published_at: OffsetDateTime,
    },
    /// A worker began, and has not ended.
    Running {
        /// 0, and one more for each replay.
        generation: u64,
        /// Who.
        worker: String,
        /// Which start of this generation, from 1.
        attempt: u64,
        /// When it began.
        #[serde(with = "time::serde::rfc3339")]
        started_at: OffsetDateTime,
    },
    /// Its result stands.
    Finished {
        /// The result.
        result: Box<SubmissionResult>,
    },
    /// Nothing is known of it: it was never published, or its result is older than what is kept.
    Unknown,
}

impl Client {
    /// Where a submission is. A message that waits to be tried again after a failed attempt shows as running.
    pub async fn status(&self, tenant: &Tenant, id: &SubmissionId) -> Result<Status, ClientError> {
        // The queue first: what leaves it between the questions has its result by then.
        let queued = self.queued(tenant, id).await?;
        let (result, started) =
            tokio::try_join!(self.result(tenant, id), self.last_start(tenant, id))?;
        let generation = queued.as_ref().map_or(0, |queued| queued.generation);
        if let Some(result) = result.filter(|result| result.generation >= generation) {
            let result = Box::new(result);
            return Ok(Status::Finished { result });
        }
        let started = started.filter(|event| event.generation >= generation);
        Ok(match (queued, started) {
            (None, _) => Status::Unknown,
            (Some(_), Some(event)) => Status::Running {
                generation: event.generation,
                worker: event.worker,
                attempt: event.attempt,
                started_at: event.at,
            },
            (Some(queued), None) => Status::Queued {
                generation,
                lane: queued.lane,
                published_at: queued.published_at,
            },
        })
    }

    async fn last_start(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Option<crate::submission::event::Event>, ClientError> {
        Ok(last_started(&self.bus, tenant, id).await?)
    }

    /// The message in the tenant's queue, if it is there.
    async fn queued(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Option<Queued>, ClientError> {
        let names = &self.bus.names;
        let stream = names.submissions_stream(tenant);
        for lane in Lane::ALL {
            let subject = names.submission(tenant, lane, id.as_str());
            if let Some(stored) = self.bus.get_last(&stream, &subject).await? {
                return Ok(Some(Queued {
                    lane,
                    published_at: stored.stored_at,
                    generation: generation_of(&stored.headers).unwrap_or(0),
                }));
            }
        }
        Ok(None)
    }
}

/// A submission that is queued or running.
struct Queued {
    lane: Lane,
    published_at: OffsetDateTime,
    generation: u64,
}
