//! Dead letters as a worker makes them: by its code and with its rights, the `failed` result after the letter.

use std::collections::BTreeMap;

use envicutor::{
    bus::{Bus, api::header, dead_letters::DeadLetters, publish::submission_digest},
    submission::{
        dead_letter::{Attempt, DeadLetter, Original, Reason},
        encoding::Encoding,
        names::Lane,
        result::{Failure, FailureCode, Outcome},
    },
};
use serde_json::Value;
use time::OffsetDateTime;

use super::messages::{id, result, settle, tenant};

/// A letter of the default tenant, in its first generation.
pub fn letter(name: &str, body: impl Into<Vec<u8>>) -> DeadLetter {
    let now = OffsetDateTime::now_utc();
    DeadLetter {
        tenant: tenant(),
        id: id(name),
        generation: 0,
        lane: Lane::Interactive,
        reason: Reason {
            code: FailureCode::WorkerLost,
            message: "1 attempts failed, the last one so: the worker was lost".into(),
            stage: "delivery".into(),
        },
        attempts: vec![Attempt {
            worker: "w1".into(),
            host: "h1".into(),
            started_at: now,
            ended_at: now,
            error: "the worker was lost: it started and never ended".into(),
        }],
        submission: Original {
            content_type: Some("application/json".into()),
            headers: BTreeMap::from([("traceparent".into(), "00-abc-def-01".into())]),
            body: body.into(),
        },
        log_tail: vec!["dead: the worker was lost".into()],
        dead_at: now,
        labels: BTreeMap::new(),
    }
}

/// Buries it as a worker does: the letter, then the `failed` result. Returns the letter's sequence.
pub async fn bury(worker: &Bus, letter: &DeadLetter) -> u64 {
    let letters = DeadLetters::new(worker);
    let sequence = letters.publish(letter, Encoding::Json).await;
    let sequence = sequence.expect("the letter is stored");
    let mut failed = result(letter.id.as_str(), letter.generation, "w1");
    failed.tenant = letter.tenant.clone();
    failed.outcome = Outcome::Failed;
    let named = letter.submission.headers.get(header::DIGEST);
    let named = named.map(String::as_str);
    failed.submission_digest = submission_digest(letter.generation, named, &letter.submission.body);
    failed.failure = Some(Failure {
        code: letter.reason.code,
        message: letter.reason.message.clone(),
        stage: letter.reason.stage.clone(),
        attempts: 1,
    });
    settle(worker, &failed, Encoding::Json).await;
    sequence
}

/// How many submissions the default tenant's queue has ever taken.
pub async fn published(operator: &Bus) -> u64 {
    let info = operator.api("STREAM.INFO.SUBMISSIONS_default", &Value::Null);
    let info: Value = info.await.expect("asked");
    info["state"]["last_seq"].as_u64().expect("a number")
}
