//! What comes back: outputs and files from the store, and what the commands make of them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use bytes::Bytes;
use envicutor::{
    bus::Role,
    client::Receiving,
    submission::{
        collect::Collected,
        content::Blob,
        encoding::Encoding,
        names::Digest,
        output::Output,
        result::{Run, SubmissionResult},
        units::ByteSize,
    },
};
use serde_json::Value;

use crate::{
    client,
    fleet::{
        messages::{self, settle},
        site::Site,
    },
    noise, project, read, store, submission_of, take,
};
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
