//! What tests publish, take and settle.

use std::time::Duration;

use async_nats::HeaderMap;
use envicutor::{
    bus::{
        Bus,
        outage::Outage as _,
        publish::PublishError,
        queue::{Delivery, Puller},
        results::{Results, Settled, Settlement},
    },
    submission::{
        encoding::Encoding,
        names::{Digest, Lane, SubmissionId, Tenant},
        result::{Outcome, SubmissionResult},
        units::Micros,
    },
};
use time::OffsetDateTime;

/// How long a condition may take to come about.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How long a settlement is tried.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The default tenant.
pub fn tenant() -> Tenant {
    Tenant::default_tenant()
}

/// A valid id.
pub fn id(id: &str) -> SubmissionId {
    id.parse().expect("a valid id")
}

/// Publishes a small submission; returns its sequence.
pub async fn publish(bus: &Bus, lane: Lane, name: &str) -> Result<u64, PublishError> {
    publish_body(
        bus,
        &tenant(),
        lane,
        name,
        format!("{{\"id\":\"{name}\"}}").into(),
    )
    .await
}

/// Publishes any body.
pub async fn publish_body(
    bus: &Bus,
    tenant: &Tenant,
    lane: Lane,
    name: &str,
    body: Vec<u8>,
) -> Result<u64, PublishError> {
    let id = id(name);
    let sent = bus.publish_submission(
        tenant,
        lane,
        &id,
        body.into(),
        Encoding::Json,
        HeaderMap::new(),
    );
    sent.await.map(|published| published.sequence)
}

/// Pulls until there is something, whatever outage is in between.
pub async fn pull(puller: &mut Puller, lane: Lane) -> Delivery {
    let find = async {
        loop {
            match puller.pull(&tenant(), lane).await {
                Ok(Some(delivery)) => return delivery,
                Ok(None) => {}
                Err(error) => assert!(error.is_outage(), "a queue: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, find)
        .await
        .expect("something to take")
}

/// A result that says little.
pub fn result(name: &str, generation: u64, worker: &str) -> SubmissionResult {
    let now = OffsetDateTime::now_utc();
    SubmissionResult {
        tenant: tenant(),
        id: name.to_owned(),
        generation,
        attempt: 1,
        outcome: Outcome::Finished,
        verdict: None,
        runtime: None,
        image: None,
        submission_digest: Digest::of(b""),
        isolation: None,
        start: None,
        worker: worker.to_owned(),
        compile: None,
        runs: Vec::new(),
        collected: Vec::new(),
        collect_errors: Vec::new(),
        errors: Vec::new(),
        failure: None,
        published_at: now,
        started_at: now,
        finished_at: now,
        queued_us: Micros(0),
        labels: std::collections::BTreeMap::default(),
    }
}

/// Settles a result.
pub async fn settle(bus: &Bus, result: &SubmissionResult, encoding: Encoding) -> Settled {
    let body = encoding.encode(result).expect("encoded").into();
    let settlement = Settlement {
        tenant: &result.tenant,
        raw_id: &result.id,
        generation: result.generation,
        encoding,
        body,
    };
    Results::new(bus)
        .settle(&settlement, PATIENCE)
        .await
        .expect("settled")
}
