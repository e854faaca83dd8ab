//! Large contents on their way to the object store and back, over a real nats-server: what goes where, that nothing is published
//! before all of it is there, that nothing is sent twice, and that what comes back goes nowhere but where it was asked to.

#[path = "../fleet/mod.rs"]
mod fleet;

mod receiving;

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use envicutor::{
    Client,
    blobs::{BlobError, Blobs, Store},
    bus::{
        Role,
        queue::{Delivery, Puller},
    },
    client::{ClientError, Sending},
    config::Config,
    submission::{
        archive::ArchiveFormat,
        check::check_shape,
        content::{Blob, Content},
        encoding::Encoding,
        message::{Submission, Test},
        names::{Digest, Lane},
        references,
        units::{ByteSize, Micros},
    },
};
use fleet::{
    messages::{self, id, tenant},
    nats::TestNats,
};
use futures_util::TryStreamExt as _;
use serde_json::Value;

/// Bytes that nothing compresses, the same for a seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.flatten().take(length).collect()
}

fn python() -> Submission {
    Submission::new("python".parse().expect("valid"))
}

async fn client(nats: &TestNats, change: impl FnOnce(&mut Config)) -> Client {
    let mut config = nats.config(Role::Service);
    change(&mut config);
    Client::connect_with(&config).await.expect("connected")
}

async fn store(nats: &TestNats) -> Blobs {
    let bus = nats.bus(Role::Worker).await;
    let store = Store::open(&nats.config(Role::Worker), Some(&bus)).expect("a store");
    store.of(&tenant())
}

async fn take(nats: &TestNats) -> Delivery {
    let worker = nats.bus(Role::Worker).await;
    let mut puller = Puller::new(&worker).await.expect("a puller");
    messages::pull(&mut puller, Lane::Batch).await
}

fn submission_of(delivery: &Delivery) -> Submission {
    let content_type = delivery.headers.get("Content-Type");
    let content_type = content_type.map(async_nats::HeaderValue::as_str);
    let encoding = Encoding::of_content_type(content_type).expect("an encoding");
    check_shape(&delivery.body, encoding).expect("valid")
}

async fn read(blobs: &Blobs, blob: &Blob) -> Result<Vec<u8>, BlobError> {
    let chunks = blobs.get(blob).await?;
    let read = |mut data: Vec<u8>, chunk: Bytes| {
        data.extend_from_slice(&chunk);
        std::future::ready(Ok(data))
    };
    chunks.try_fold(Vec::new(), read).await
}

async fn messages_in(nats: &TestNats, stream: &str) -> u64 {
    let bus = nats.bus(Role::Operator).await;
    let call = format!("STREAM.INFO.{stream}");
    let info: Value = bus.api(&call, &Value::Null).await.expect("asked");
    info["state"]["messages"].as_u64().expect("a number")
}

fn project(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }
    dir
}

#[tokio::test]
async fn the_largest_contents_are_in_the_store_when_their_submission_is_published() {
    let nats = TestNats::start().await;
    let client = client(&nats, |_| ()).await;
    let dir = project(&[("big.csv", &noise(1, 3 << 20)), ("small.txt", b"small")]);
    let expected = noise(2, 100 << 10);
    let submission = python()
        .source("print(1)")
        .file_from("big.csv", dir.path().join("big.csv"))
        .file_from("small.txt", dir.path().join("small.txt"))
        .test(Test::new("1 2\n").expecting(expected.clone()));
    let tenant = tenant();
    let submitted = client.submit(&tenant, Lane::Batch, None, &submission);
    let submitted = submitted.await.expect("stored");
    let delivery = take(&nats).await;
    assert_eq!(Digest::of(&delivery.body), submitted.submission_digest);
    let published = submission_of(&delivery);
    let contents: Vec<_> = published.contents().collect();
    let [
        source,
        Content::Blob(big),
        small,
        Content::Blob(stored),
        stdin,
    ] = contents.as_slice()
    else {
        panic!("{contents:?}");
    };
    assert_eq!(
        (*source, *small, *stdin),
        (&"print(1)".into(), &"small".into(), &"1 2\n".into())
    );
    let blobs = store(&nats).await;
    assert_eq!(read(&blobs, big).await.expect("there"), noise(1, 3 << 20));
    assert_eq!(read(&blobs, stored).await.expect("there"), expected);
    let referred = references::of_message(&delivery.body, Some("application/json"));
    assert_eq!(
        referred,
        BTreeSet::from([big.digest.clone(), stored.digest.clone()])
    );
}

#[tokio::test]
async fn what_passes_the_messages_size_goes_to_the_store_whatever_is_configured() {
    let nats = TestNats::start().await;
    let client = client(&nats, |config| {
        config.client.inline_bytes = ByteSize(1 << 30);
    })
    .await;
    let submission = python().source("print(1)").stdin(noise(1, 700 << 10));
    let tenant = tenant();
    let stored = client.submit(&tenant, Lane::Batch, None, &submission);
    stored.await.expect("stored");
    let published = submission_of(&take(&nats).await);
    assert_eq!(published.files[0].content, "print(1)".into());
    assert!(published.stdin.is_some_and(|stdin| stdin.blob().is_some()));
}

#[tokio::test]
async fn an_unchanged_project_is_the_same_message_and_is_sent_once() {
    let nats = TestNats::start().await;
    let client = client(&nats, |_| ()).await;
    let files: Vec<(String, Vec<u8>)> = (0..50)
        .map(|index| (format!("src/{index}/data"), noise(index, 8 << 10)))
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, data)| (path.as_str(), &**data))
        .collect();
    let mut digests = BTreeSet::new();
    let mut stored = Vec::new();
    for name in ["a1", "a2"] {
        let dir = project(&files);
        let submission = python().project(dir.path()).entry("src/main.py");
        let tenant = tenant();
        let submitted = client.submit(&tenant, Lane::Batch, Some(id(name)), &submission);
        digests.insert(submitted.await.expect("stored").submission_digest);
        stored.push(messages_in(&nats, "OBJ_blobs-default").await);
    }
    assert_eq!(digests.len(), 1);
    assert!(stored[0] > 1 && stored[0] == stored[1], "{stored:?}");
    let published = submission_of(&take(&nats).await);
    let archive = published.archive.expect("an archive");
    assert_eq!(archive.format, ArchiveFormat::TarZst);
    let blobs = store(&nats).await;
    let packed = read(&blobs, archive.content.blob().expect("a blob")).await;
    assert_eq!(packed.expect("there")[..4], [0x28, 0xb5, 0x2f, 0xfd]);
}

#[tokio::test]
async fn a_small_project_needs_no_store() {
    let nats = TestNats::start().await;
    let client = client(&nats, |_| ()).await;
    let dir = project(&[("main.py", b"print(1)")]);
    let submission = python().project(dir.path());
    client
        .submit(&tenant(), Lane::Batch, None, &submission)
        .await
        .expect("stored");
    let published = submission_of(&take(&nats).await);
    let archive = published.archive.expect("an archive");
    assert!(matches!(archive.content, Content::Inline(_)));
    assert_eq!(messages_in(&nats, "OBJ_blobs-default").await, 0);
}

#[tokio::test]
async fn nothing_is_published_whose_contents_the_store_has_no_room_for() {
    let nats = TestNats::start_with(|config| config.blobs.tenant_bytes = ByteSize(1 << 20)).await;
    let client = client(&nats, |_| ()).await;
    let submission = python()
        .source("print(1)")
        .file("a", noise(1, 200 << 10))
        .file("b", noise(2, 3 << 20));
    let refused = client
        .submit(&tenant(), Lane::Batch, None, &submission)
        .await;
    let refused = refused.expect_err("refused");
    assert!(
        matches!(&refused, ClientError::Store(BlobError::Full { .. })),
        "{refused:?}"
    );
    assert_eq!(messages_in(&nats, "SUBMISSIONS_default").await, 0);
}

#[tokio::test]
async fn nothing_is_published_while_there_is_no_store() {
    let nats = TestNats::start().await;
    let operator = nats.bus(Role::Operator).await;
    let gone: Value = operator
        .api("STREAM.DELETE.OBJ_blobs-default", &Value::Null)
        .await
        .expect("deleted");
    assert_eq!(gone["success"], true);
    let client = client(&nats, |config| {
        config.blobs.outage_timeout_us = Micros(200_000);
        config.blobs.call_timeout_us = Micros(500_000);
    })
    .await;
    let submission = python().source("print(1)").stdin(noise(1, 100 << 10));
    let refused = client
        .submit(&tenant(), Lane::Batch, None, &submission)
        .await;
    assert!(matches!(refused, Err(ClientError::Store(_))), "{refused:?}");
    assert_eq!(messages_in(&nats, "SUBMISSIONS_default").await, 0);
    // What needs none goes on.
    let small = python().source("print(1)");
    client
        .submit(&tenant(), Lane::Batch, None, &small)
        .await
        .expect("stored");
}

#[tokio::test]
async fn what_is_wrong_is_told_before_anything_is_sent() {
    let nats = TestNats::start().await;
    let client = client(&nats, |_| ()).await;
    let dir = project(&[("big", &noise(1, 1 << 20))]);
    let big = dir.path().join("big");
    let wrong = python().source("print(1)").file_from("../big", &big);
    let rejected = client.submit(&tenant(), Lane::Batch, None, &wrong).await;
    let Err(ClientError::Rejected(rejected)) = rejected else {
        panic!("{rejected:?}");
    };
    assert_eq!(rejected.errors[0].path, "files[1].path");
    let absent = python()
        .source("x")
        .file_from("big", dir.path().join("absent"));
    let absent = client.submit(&tenant(), Lane::Batch, None, &absent).await;
    assert!(
        matches!(&absent, Err(ClientError::Pack(error)) if error.to_string().contains("absent"))
    );
    let directory = python().source("x").file_from("big", dir.path());
    let directory = client
        .submit(&tenant(), Lane::Batch, None, &directory)
        .await;
    assert!(matches!(directory, Err(ClientError::NoFile { .. })));
    assert_eq!(messages_in(&nats, "OBJ_blobs-default").await, 0);
}

#[tokio::test]
async fn sending_tells_how_far_it_is() {
    let nats = TestNats::start().await;
    let client = client(&nats, |_| ()).await;
    let dir = project(&[("big", &noise(1, 20 << 20))]);
    let submission = python()
        .source("x")
        .file_from("big", dir.path().join("big"));
    let told = Arc::new(Mutex::new(Vec::new()));
    let on = {
        let told = Arc::clone(&told);
        move |sending| told.lock().expect("no panic").push(sending)
    };
    client
        .upload(&tenant(), &submission, Arc::new(on))
        .await
        .expect("sent");
    let told = told.lock().expect("no panic").clone();
    let all = 20 << 20;
    assert!(told.contains(&Sending::Reading { bytes: all }), "{told:?}");
    assert_eq!(told.last(), Some(&Sending::Uploading { sent: all, all }));
    let uploads = told
        .iter()
        .filter(|sending| matches!(sending, Sending::Uploading { .. }));
    assert!(uploads.count() > 1, "{told:?}");
}
