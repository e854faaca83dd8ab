//! The same job through the whole fleet: published, run, and the result in the subscriber's hands.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::Measured;
use crate::{
    bus::{Bus, publish::PublishError},
    submission::{
        encoding::{Encoding, EncodingError},
        message::Submission,
        names::{Lane, SubmissionId, Tenant},
        result::{SubmissionResult, Verdict},
    },
};

/// How long a single result may be waited for.
const PATIENCE: Duration = Duration::from_mins(10);

/// Why the fleet could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A submission was refused.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A message is none.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// The results cannot be listened to.
    #[error("the results cannot be subscribed to: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// No result.
    #[error("no result came for {PATIENCE:?}, {left} are missing")]
    Silence {
        /// How many.
        left: usize,
    },
    /// A result that is not ok.
    #[error("{id} ended as {outcome}, expected ok: nothing is measured of a job that fails")]
    NotOk {
        /// Which.
        id: String,
        /// How.
        outcome: String,
    },
}

/// Runs `submission` `jobs` times with `at_a_time` of them under way.
pub async fn run(
    bus: &Bus,
    submission: &Submission,
    jobs: usize,
    at_a_time: usize,
) -> Result<Measured, FleetError> {
    let tenant = Tenant::default_tenant();
    let body = Bytes::from(Encoding::MessagePack.encode(submission)?);
    let mut results = bus.client.subscribe(bus.names.result(&tenant, "*")).await?;
    let mut under_way: HashMap<String, Instant> = HashMap::new();
    let mut times = Vec::with_capacity(jobs);
    let mut left = jobs;
    let began = Instant::now();
    while times.len() < jobs {
        while left > 0 && under_way.len() < at_a_time {
            let id = SubmissionId::generate();
            under_way.insert(id.to_string(), Instant::now());
            let (lane, encoding) = (Lane::Interactive, Encoding::MessagePack);
            bus.publish_submission(&tenant, lane, &id, body.clone(), encoding, HeaderMap::new())
                .await?;
            left -= 1;
        }
        let silence = FleetError::Silence {
            left: under_way.len(),
        };
        let next = tokio::time::timeout(PATIENCE, results.next()).await;
        let Ok(Some(message)) = next else {
            return Err(silence);
        };
        let Some(id) = message.subject.rsplit('.').next() else {
            continue;
        };
        let Some(published) = under_way.remove(id) else {
            continue;
        };
        times.push(published.elapsed());
        let result: SubmissionResult = Encoding::MessagePack.decode(&message.payload)?;
        if result.verdict != Some(Verdict::Ok) {
            let outcome = format!("{:?} {:?}", result.outcome, result.verdict);
            return Err(FleetError::NotOk {
                id: result.id,
                outcome,
            });
        }
    }
    Ok(Measured::new(began.elapsed(), times))
}
