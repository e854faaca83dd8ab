//! Where a submission's newest generation is, as the leaders have it: what every decision of a replay is built on.

use serde_json::json;

use super::{OperationError, Operations};
use crate::{
    bus::{
        api::{Stored, code, generation_of, header, header_of},
        results::{Results, Standing},
    },
    submission::{
        names::{SubmissionId, Tenant},
        replay::Trail,
    },
};

/// Where a submission's newest generation is.
pub(super) enum Whereabouts {
    /// Queued or running.
    Queued { generation: u64, trail: Trail },
    /// Its result stands, or nothing is known.
    Over(Option<Box<Standing>>),
}

impl Operations {
    /// Where a submission is. The queue first: what leaves it between the two questions has its result by then.
    pub(super) async fn whereabouts(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Whereabouts, OperationError> {
        if let Some(queued) = self.queued(tenant, id).await? {
            return Ok(Whereabouts::Queued {
                generation: generation_of(&queued.headers).unwrap_or(0),
                trail: Trail::of_header(header_of(&queued.headers, header::REPLAYS)),
            });
        }
        let standing = Results::new(&self.bus)
            .standing(tenant, id.as_str())
            .await?;
        Ok(Whereabouts::Over(standing.map(Box::new)))
    }

    /// The message in the tenant's queue, as the leader has it.
    async fn queued(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Option<Stored>, OperationError> {
        let names = &self.bus.names;
        let subject = names.submission_in_any_lane(tenant, id.as_str());
        let which = json!({ "last_by_subj": subject });
        let stream = names.submissions_stream(tenant);
        match self.bus.get_from_leader(&stream, &which).await {
            // A tenant that was removed has no queue.
            Err(error) if error.code() == Some(code::STREAM_NOT_FOUND) => Ok(None),
            queued => Ok(queued?),
        }
    }
}
