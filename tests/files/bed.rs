//! A site with a store that the test can look into.

use envicutor::{
    blobs::{Blobs, Store},
    config::Config,
    submission::{
        content::Blob,
        names::{Lane, Tenant},
        result::{FailureCode, Outcome, SubmissionResult, Verdict},
    },
};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};

use crate::site::Site;

/// The default tenant's blobs in the site's own NATS.
pub fn blobs(site: &Site) -> Blobs {
    blobs_at(site, "nats://")
}

/// The same in another store.
pub fn blobs_at(site: &Site, url: &str) -> Blobs {
    let mut config = Config::default();
    url.clone_into(&mut config.blobs.url);
    let store = Store::open(&config, Some(&site.bus)).expect("a store");
    store.of(&Tenant::default_tenant())
}

/// A store in a directory of the site's, as workers and tests name it.
pub fn directory_store(site: &Site) -> (std::path::PathBuf, String) {
    let directory = site.data_dir.path().join("store");
    std::fs::create_dir(&directory).expect("made");
    let url = format!("file://{}", directory.display());
    (directory, url)
}

/// Stores bytes; what a submission names them by.
pub async fn put(blobs: &Blobs, data: &[u8]) -> Value {
    let blob = blobs.put_bytes(data.to_vec().into()).await.expect("stored");
    json!({"blob": blob})
}

/// The bytes of a blob, seen to be right.
pub async fn get(blobs: &Blobs, blob: &Blob) -> Vec<u8> {
    let incoming = blobs.get(blob).await.expect("there");
    let parts: Vec<_> = incoming.try_collect().await.expect("whole");
    parts.concat()
}

/// Bytes of which no two parts are alike.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(size)
    .collect()
}

/// What `seq 1 most` writes.
pub fn numbers(most: u32) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut text = String::new();
    for number in 1..=most {
        writeln!(text, "{number}").expect("it is a string");
    }
    text.into_bytes()
}

/// A submission of a script with more fields.
pub fn submission(script: &str, more: &Value) -> String {
    let mut body: Value = serde_json::from_str(&Site::body(script)).expect("JSON");
    for (name, value) in more.as_object().expect("an object") {
        match (&mut body[name], value) {
            (Value::Object(there), Value::Object(more)) => there.extend(more.clone()),
            (Value::Array(there), Value::Array(more)) => there.extend(more.clone()),
            (there, more) => *there = more.clone(),
        }
    }
    body.to_string()
}

/// Publishes it, and waits for its result.
pub async fn run(site: &Site, id: &str, body: String) -> SubmissionResult {
    site.publish(Lane::Interactive, id, body).await;
    site.result(id).await
}

/// The standard output of the only run of a submission that ended well.
pub fn stdout(result: &SubmissionResult) -> String {
    assert_eq!(result.outcome, Outcome::Finished, "{result:#?}");
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:#?}");
    String::from_utf8(result.runs[0].stdout.data.clone()).expect("text")
}

/// It ended in the dead letters because of the store.
pub async fn is_dead_by_the_store(site: &Site, result: &SubmissionResult, said: &str) {
    assert_eq!(result.outcome, Outcome::Failed, "{result:#?}");
    let failure = result.failure.as_ref().expect("a failure");
    assert_eq!(failure.code, FailureCode::Store);
    assert!(failure.message.contains(said), "{failure:?}");
    assert_eq!(failure.attempts, 3);
    site.await_empty_queue().await;
    let letters = site.letters().await;
    assert!(
        letters
            .iter()
            .any(|it| it.letter.reason.code == FailureCode::Store)
    );
}

/// No attempt of it was counted.
pub async fn is_uncounted(site: &Site, id: &str) {
    let noted = site.attempts(id).await.unwrap_or_default();
    assert!(noted.attempts.is_empty(), "{noted:#?}");
    assert!(site.letters().await.is_empty());
}
