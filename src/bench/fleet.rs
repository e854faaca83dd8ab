//! The same job through the whole fleet: published, run, and the result in the subscriber's hands.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::series::{Length, Series};
use crate::{
    bus::{Bus, publish::PublishError},
    submission::{
        encoding::{Encoding, EncodingError},
        message::Submission,
        names::{Lane, NameError, SubmissionId, Tenant},
        result::{Isolation, Start, SubmissionResult, Verdict},
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
    /// A submission's runtime can be none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The results cannot be listened to.
    #[error("the results cannot be subscribed to: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// No result.
    #[error("no result came for {PATIENCE:?}, {left} are missing")]
    Silence {
        /// How many.
        left: usize,
    },
    /// A result that is not what was to be measured.
    #[error("{id} ended as {outcome}, expected {expected:?}: nothing is measured of such a job")]
    Otherwise {
        /// Which.
        id: String,
        /// How.
        outcome: String,
        /// How it was to end.
        expected: Verdict,
    },
}

/// What came of a series of jobs through the fleet.
#[derive(Debug, Clone, Default)]
pub struct Ran {
    /// From the publish to the result in our hands.
    pub series: Series,
    /// CPU time that the results report of the stages, all together.
    pub stages: Duration,
    /// How many began from a template.
    pub warm: usize,
    /// As the results have it.
    pub isolation: Option<Isolation>,
}

/// Runs `submission` again and again with `at_a_time` of them under way.
pub async fn run(
    bus: &Bus,
    submission: &Submission,
    length: Length,
    at_a_time: usize,
) -> Result<Ran, FleetError> {
    let began = Instant::now();
    run_while(
        bus,
        submission,
        |jobs| length.goes_on(began, jobs),
        at_a_time,
    )
    .await
}

/// The same for as long as it `goes_on`, which is told how many jobs have begun.
pub async fn run_while(
    bus: &Bus,
    submission: &Submission,
    goes_on: impl Fn(usize) -> bool,
    at_a_time: usize,
) -> Result<Ran, FleetError> {
    let tenant = Tenant::default_tenant();
    let encoding = Encoding::MessagePack;
    let body = Bytes::from(encoding.encode(submission)?);
    let publish = async |id: SubmissionId| {
        let (lane, body, headers) = (Lane::Interactive, body.clone(), HeaderMap::new());
        bus.publish_submission(&tenant, lane, &id, body, encoding, headers)
            .await
    };
    let mut results = bus.client.subscribe(bus.names.result(&tenant, "*")).await?;
    let mut publishing = FuturesUnordered::new();
    let mut under_way: HashMap<String, Instant> = HashMap::new();
    let mut ran = Ran::default();
    let began = Instant::now();
    loop {
        while under_way.len() < at_a_time && goes_on(ran.series.times.len() + under_way.len()) {
            let id = SubmissionId::generate();
            under_way.insert(id.to_string(), Instant::now());
            publishing.push(publish(id));
        }
        if under_way.is_empty() && publishing.is_empty() {
            ran.series.elapsed = began.elapsed();
            return Ok(ran);
        }
        tokio::select! {
            Some(published) = publishing.next() => {
                published?;
            }
            message = tokio::time::timeout(PATIENCE, results.next()) => {
                let left = under_way.len();
                let message = message.ok().flatten().ok_or(FleetError::Silence { left })?;
                ran.take(&message, &mut under_way)?;
            }
        }
    }
}

/// Runs `submission` once, which is to end with the verdict `expected`: its result.
pub async fn run_one(
    bus: &Bus,
    submission: &Submission,
    expected: Verdict,
) -> Result<SubmissionResult, FleetError> {
    let (tenant, id) = (Tenant::default_tenant(), SubmissionId::generate());
    let encoding = Encoding::MessagePack;
    let body = Bytes::from(encoding.encode(submission)?);
    let subject = bus.names.result(&tenant, id.as_str());
    let mut results = bus.client.subscribe(subject).await?;
    let (lane, headers) = (Lane::Interactive, HeaderMap::new());
    bus.publish_submission(&tenant, lane, &id, body, encoding, headers)
        .await?;
    let message = tokio::time::timeout(PATIENCE, results.next()).await;
    let message = message.ok().flatten();
    read(&message.ok_or(FleetError::Silence { left: 1 })?, expected)
}

/// The result in `message`, where it is what was to be measured.
fn read(message: &Message, expected: Verdict) -> Result<SubmissionResult, FleetError> {
    let result: SubmissionResult = Encoding::MessagePack.decode(&message.payload)?;
    if result.verdict == Some(expected) {
        return Ok(result);
    }
    Err(FleetError::Otherwise {
        outcome: format!("{:?} {:?}", result.outcome, result.verdict),
        id: result.id,
        expected,
    })
}

impl Ran {
    /// Notes the result in `message`, where it is one that is waited for.
    fn take(
        &mut self,
        message: &Message,
        under_way: &mut HashMap<String, Instant>,
    ) -> Result<(), FleetError> {
        let id = message.subject.rsplit('.').next().unwrap_or_default();
        let Some(published) = under_way.remove(id) else {
            return Ok(());
        };
        self.series.times.push(published.elapsed());
        let result = read(message, Verdict::Ok)?;
        let stages = result.compile.iter().chain(&result.runs);
        self.stages += stages
            .map(|stage| stage.cpu_user_us.duration() + stage.cpu_system_us.duration())
            .sum::<Duration>();
        self.warm += usize::from(result.start == Some(Start::Warm));
        self.isolation = result.isolation;
        Ok(())
    }
}
