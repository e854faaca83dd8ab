//! What is known of a submission before its body is read: its address, generation, encoding, digest.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use time::OffsetDateTime;

use super::Fleet;
use crate::{
    bus::{
        api::{header, header_of},
        publish::submission_digest,
        queue::Delivery,
        subjects::Address,
    },
    submission::{
        encoding::Encoding,
        names::{Digest, SubmissionId},
        result::{FieldError, Outcome, SubmissionResult},
        units::Micros,
    },
};

/// The newest `Envicutor-Schema` that this program reads.
const SCHEMA: u64 = 1;

/// The `Envicutor-Schema` of a message, where it is one that this program does not know yet.
pub(crate) fn newer_schema(headers: &HeaderMap) -> Option<String> {
    let schema = header_of(headers, header::SCHEMA)?;
    let is_known = schema
        .trim()
        .parse::<u64>()
        .is_ok_and(|schema| schema <= known_schema());
    (!is_known).then(|| schema.chars().take(40).collect())
}

/// The newest `Envicutor-Schema` that this program reads. A test of two versions side by side names a later one.
fn known_schema() -> u64 {
    #[cfg(feature = "fail-points")]
    if let Some(schema) = std::env::var("ENVICUTOR_TEST_SCHEMA")
        .ok()
        .and_then(|schema| schema.parse().ok())
    {
        return schema;
    }
    SCHEMA
}

/// The facts of a delivery.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) address: Address,
    /// Its id, where that follows the rule.
    pub(crate) id: Option<SubmissionId>,
    pub(crate) generation: u64,
    pub(crate) content_type: Option<String>,
    pub(crate) encoding: Encoding,
    /// Of the body that the service published: a replay's own may differ.
    pub(crate) digest: Digest,
    /// Its `Envicutor-Schema`, where that is one that this worker does not know yet.
    pub(crate) newer_schema: Option<String>,
    /// Whether it waits for a runtime that is being installed.
    pub(crate) waits_for_runtime: bool,
    /// What is wrong with the headers or the id.
    pub(crate) errors: Vec<FieldError>,
    worker: String,
    published_at: OffsetDateTime,
}

impl Facts {
    pub(crate) fn of(fleet: &Fleet, delivery: &Delivery) -> Self {
        let mut errors = Vec::new();
        let id = delivery.address.raw_id.parse::<SubmissionId>();
        if let Err(error) = &id {
            errors.push(FieldError {
                path: "id".into(),
                message: error.to_string(),
            });
        }
        let generation = header_of(&delivery.headers, "Envicutor-Generation")
            .map_or(Ok(0), str::parse)
            .unwrap_or_else(|_| {
                let message = "the header Envicutor-Generation is not a whole number".to_owned();
                errors.push(FieldError {
                    path: String::new(),
                    message,
                });
                0
            });
        let content_type = header_of(&delivery.headers, "Content-Type").map(str::to_owned);
        Self {
            newer_schema: newer_schema(&delivery.headers),
            waits_for_runtime: header_of(&delivery.headers, header::RUNTIME) == Some("wait"),
            address: delivery.address.clone(),
            id: id.ok(),
            generation,
            // An unknown content type is the check's to name; the answer to it is JSON.
            encoding: Encoding::of_content_type(content_type.as_deref()).unwrap_or_default(),
            content_type,
            digest: submission_digest(
                generation,
                header_of(&delivery.headers, header::DIGEST),
                &delivery.body,
            ),
            errors,
            worker: fleet.id.clone(),
            published_at: delivery.published_at,
        }
    }

    /// A result with what is known now; the rest is absent.
    pub(crate) fn result(
        &self,
        outcome: Outcome,
        attempt: u64,
        started_at: OffsetDateTime,
    ) -> SubmissionResult {
        let queued = (started_at - self.published_at).whole_microseconds();
        SubmissionResult {
            tenant: self.address.tenant.clone(),
            id: self.address.raw_id.clone(),
            generation: self.generation,
            attempt,
            outcome,
            verdict: None,
            runtime: None,
            image: None,
            submission_digest: self.digest.clone(),
            isolation: None,
            start: None,
            worker: self.worker.clone(),
            compile: None,
            runs: Vec::new(),
            collected: Vec::new(),
            collect_errors: Vec::new(),
            errors: Vec::new(),
            failure: None,
            published_at: self.published_at,
            started_at,
            finished_at: OffsetDateTime::now_utc(),
            // The clocks of two machines: one may be behind the other.
            queued_us: Micros(u64::try_from(queued).unwrap_or(0)),
            labels: BTreeMap::new(),
        }
    }
}
