//! Large contents on their way to the object store and back, over a real nats-server: what goes where, that nothing is published
//! before all of it is there, that nothing is sent twice, and that what comes back goes nowhere but where it was asked to.

mod fleet;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
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
    client::{ClientError, Receiving, Sending},
    config::Config,
    submission::{
        archive::ArchiveFormat,
        check::check_shape,
        collect::Collected,
        content::{Blob, Content},
        encoding::Encoding,
        message::{Submission, Test},
        names::{Digest, Lane},
        output::Output,
        references,
        result::{Run, SubmissionResult},
        units::{ByteSize, Micros},
    },
};
use fleet::{
    messages::{self, id, settle, tenant},
    nats::TestNats,
    site::Site,
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

/// A result with these files, which are in the store; it stands.
async fn standing(site: &Site, name: &str, files: &[(&str, &[u8])]) -> SubmissionResult {
    let blobs = store(&site.nats).await;
    let mut result = messages::result(name, 0, "w1");
    result.verdict = Some(envicutor::submission::result::Verdict::Ok);
    for (path, data) in files {
        let blob = blobs
            .put_bytes(Bytes::copy_from_slice(data))
            .await
            .expect("stored");
        result.collected.push(Collected {
            path: (*path).to_owned(),
            size_bytes: blob.size_bytes,
            executable: std::path::Path::new(path).extension() == Some("sh".as_ref()),
            blob,
        });
    }
    let whole = noise(9, 2 << 20);
    let blob = blobs.put_bytes(whole.clone().into()).await.expect("stored");
    let stdout = Output::new(whole[..100].to_vec(), blob.size_bytes, false);
    result.runs.push(Run {
        verdict: envicutor::submission::result::Verdict::Ok,
        stdout: stdout.stored(blob, whole[(2 << 20) - 100..].to_vec()),
        ..Run::skipped(None)
    });
    let worker = site.nats.bus(Role::Worker).await;
    settle(&worker, &result, Encoding::Json).await;
    result
}

fn names(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(names(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_left_comes_back_whole() {
    let site = Site::start().await;
    let plot = noise(3, 5 << 20);
    standing(
        &site,
        "a1",
        &[("out/plot.png", &plot), ("out/again.sh", b"#!/bin/sh\n")],
    )
    .await;
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().join("results");
    let path = to.to_str().expect("UTF-8");
    let args = ["result", "a1", "--output", path, "--json"];
    let ended = site.cli_as(Role::Service, &args).await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    // Standard output has the message and nothing else.
    let shown: SubmissionResult = serde_json::from_slice(&ended.stdout).expect("one message");
    assert_eq!(shown.collected.len(), 2);
    assert_eq!(fs::read(to.join("out/plot.png")).expect("there"), plot);
    assert_eq!(
        fs::read(to.join("stdout")).expect("there"),
        noise(9, 2 << 20)
    );
    let expected = ["out/again.sh", "out/plot.png", "stdout"];
    assert_eq!(names(&to), expected.map(|name| to.join(name)).into());
    let again = site.cli_as(Role::Service, &args).await;
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(told.contains("--force"), "{told}");
    let forced = [&args[..], &["--force"]].concat();
    let forced = site.cli_as(Role::Service, &forced).await;
    assert_eq!(forced.status.code(), Some(0), "{forced:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fetching_tells_how_far_it_is() {
    let site = Site::start().await;
    let plot = noise(3, 5 << 20);
    let result = standing(&site, "a1", &[("out/plot.png", &plot), ("small", b"small")]).await;
    let client = client(&site.nats, |_| ()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let told = Mutex::new(Vec::new());
    let on = |receiving| told.lock().expect("no panic").push(receiving);
    let fetched = client.fetch_telling(&result, dir.path(), false, &on).await;
    let sizes = fetched.expect("fetched").into_iter();
    let all = sizes.map(|file| file.size_bytes.0).sum();
    assert_eq!(all, (5 << 20) + 5 + (2 << 20));
    let told = told.into_inner().expect("no panic");
    let received = all;
    assert_eq!(told.last(), Some(&Receiving { received, all }));
    assert!(told.len() > 3, "{told:?}");
    assert!(told.is_sorted_by_key(|told| told.received), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_of_which_the_middle_is_in_the_store_is_shown_around_it() {
    let site = Site::start().await;
    let all = "beginning, middle and end\n";
    let mut result = messages::result("a1", 0, "w1");
    result.verdict = Some(envicutor::submission::result::Verdict::Ok);
    let blob = Blob {
        digest: Digest::of(all.as_bytes()),
        size_bytes: ByteSize(all.len() as u64),
    };
    let output = Output::new(b"beginning".to_vec(), blob.size_bytes, false);
    result.runs.push(Run {
        verdict: envicutor::submission::result::Verdict::Ok,
        stdout: output.stored(blob, b"end\n".to_vec()),
        ..Run::skipped(None)
    });
    let worker = site.nats.bus(Role::Worker).await;
    settle(&worker, &result, Encoding::Json).await;
    let ended = site.cli_as(Role::Service, &["result", "a1"]).await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
    let expected = "beginning\n[… 13 bytes are left out here …]\nend\nverdict ";
    assert!(shown.starts_with(expected), "{shown}");
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(told.contains("13 of 26 bytes are shown"), "{told}");
    assert!(told.contains("--output DIR"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_name_is_written_nowhere() {
    let site = Site::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    for (index, name) in ["../escaped", "/tmp/escaped", "a/../../escaped"]
        .iter()
        .enumerate()
    {
        let name_of = format!("h{index}");
        standing(&site, &name_of, &[(name, b"x")]).await;
        let to = dir.path().join("results");
        let path = to.to_str().expect("UTF-8");
        let ended = site
            .cli_as(Role::Service, &["result", &name_of, "--output", path])
            .await;
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(names(dir.path()).is_empty(), "{name}");
    }
    // Through a link that was there.
    standing(&site, "h9", &[("link/escaped", b"x")]).await;
    let (to, outside) = (dir.path().join("results"), dir.path().join("outside"));
    fs::create_dir_all(&outside).expect("made");
    std::os::unix::fs::symlink(&outside, to.join("link")).expect("linked");
    let path = to.to_str().expect("UTF-8");
    let args = ["result", "h9", "--force", "--output", path];
    let ended = site.cli_as(Role::Service, &args).await;
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert!(names(&outside).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_in_the_store_leaves_nothing_behind() {
    let site = Site::start().await;
    let mut result = messages::result("m1", 0, "w1");
    result.collected.push(Collected {
        path: "gone".into(),
        size_bytes: ByteSize(4),
        executable: false,
        blob: Blob {
            digest: Digest::of(b"gone"),
            size_bytes: ByteSize(4),
        },
    });
    let worker = site.nats.bus(Role::Worker).await;
    settle(&worker, &result, Encoding::Json).await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8");
    let ended = site
        .cli_as(Role::Service, &["result", "m1", "--output", path])
        .await;
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    assert!(names(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn submit_takes_a_directory_and_says_the_id() {
    let site = Site::start().await;
    let dir = project(&[
        ("main.py", b"print(1)"),
        ("data/big", &noise(1, 400 << 10)),
        ("ignored/x", b"x"),
        (".gitignore", b"/ignored\n"),
    ]);
    let path = dir.path().to_str().expect("UTF-8");
    let args = [
        "submit",
        path,
        "--runtime",
        "python",
        "--lane",
        "batch",
        "--id",
        "p1",
        "--no-cache",
        "--collect",
        "out/*",
    ];
    let ended = site.cli_as(Role::Service, &args).await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "p1\n");
    let published = submission_of(&take(&site.nats).await);
    assert!(!published.cache);
    assert_eq!(published.collect.expect("there").paths, ["out/*"]);
    let archive = published.archive.expect("an archive");
    let blobs = store(&site.nats).await;
    let packed = read(&blobs, archive.content.blob().expect("a blob"))
        .await
        .expect("there");
    let mut unpacked = tar::Archive::new(zstd::Decoder::new(&*packed).expect("zstd"));
    let paths = unpacked.entries().expect("a tar archive").map(|entry| {
        let entry = entry.expect("an entry");
        entry.path().expect("a path").display().to_string()
    });
    let paths: Vec<_> = paths.collect();
    assert_eq!(paths, [".gitignore", "data", "data/big", "main.py"]);
    // As an archive of one's own: the same file, taken as it is.
    let file = dir.path().join("project.tar.zst");
    fs::write(&file, &packed).expect("written");
    let path = file.to_str().expect("UTF-8");
    let args = [
        "submit",
        path,
        "--entry",
        "main.py",
        "--runtime",
        "python",
        "--lane",
        "batch",
        "--json",
    ];
    let ended = site.cli_as(Role::Service, &args).await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let stored: Value = serde_json::from_slice(&ended.stdout).expect("one message");
    assert_eq!(stored["lane"], "batch");
    let again = submission_of(&take(&site.nats).await);
    assert_eq!(
        again.archive.map(|archive| archive.content),
        Some(archive.content)
    );
    assert_eq!(again.entry.as_deref(), Some("main.py"));
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_of_any_size_is_sent() {
    let site = Site::start().await;
    let dir = project(&[("main.py", b"print(1)"), ("in", &noise(1, 3 << 20))]);
    let main = dir.path().join("main.py");
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_envicutor"))
        .args([
            "submit",
            main.to_str().expect("UTF-8"),
            "--runtime",
            "python",
        ])
        .args(["--lane", "batch", "--stdin-file", "-"])
        .env("ENVICUTOR__DATA_DIR", dir.path())
        .env("ENVICUTOR__NATS__URL", site.nats.url(Role::Service))
        .stdin(fs::File::open(dir.path().join("in")).expect("there"))
        .output();
    let ended = child.await.expect("it starts");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let published = submission_of(&take(&site.nats).await);
    let blob = published.stdin.expect("there").blob().cloned();
    let read = read(&store(&site.nats).await, &blob.expect("a blob")).await;
    assert_eq!(read.expect("there"), noise(1, 3 << 20));
}
