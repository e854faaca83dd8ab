//! The store is away, or gives what is missing or wrong: a failure of ours, never a verdict.

use std::{path::Path, time::Duration};

use envicutor::submission::{names::Digest, names::Lane, result::Outcome};
use serde_json::{Value, json};

use crate::{
    bed::{
        blobs, blobs_at, directory_store, is_dead_by_the_store, is_uncounted, noise, put, run,
        stdout, submission,
    },
    fleet::slowly,
    site::Site,
};

/// A submission that counts the bytes of its input.
fn counts(stdin: &Value) -> String {
    submission("wc -c", &json!({"run": {"stdin": stdin}}))
}

/// Every file below.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_missing_is_waited_for_and_then_dead_lettered_by_its_name() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let blobs = blobs(&site);
    let data = noise(1, 100_000);
    let digest = Digest::of(&data);
    let named = json!({"blob": {"digest": digest, "size_bytes": data.len()}});
    // It comes between the first attempt and the second.
    site.publish(Lane::Interactive, "late", counts(&named))
        .await;
    crate::fleet::eventually("an attempt failed", crate::site::LONG, || async {
        let noted = site.attempts("late").await.unwrap_or_default();
        !noted.attempts.is_empty()
    })
    .await;
    put(&blobs, &data).await;
    let result = site.result("late").await;
    assert_eq!(stdout(&result), "100000\n");
    assert!(result.attempt > 1, "{result:#?}");
    let never = Digest::of(b"never");
    let named = json!({"blob": {"digest": never, "size_bytes": 5}});
    let result = run(&site, "never", counts(&named)).await;
    is_dead_by_the_store(&site, &result, never.as_str()).await;
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_corrupt_is_never_run_with() {
    let site = Site::start().await;
    let (directory, url) = directory_store(&site);
    let worker = site.worker("w").env("BLOBS__URL", &url).start().await;
    let data = noise(1, 3_000_000);
    let named = put(&blobs_at(&site, &url), &data).await;
    for file in files(&directory) {
        let mut bytes = std::fs::read(&file).expect("read");
        if bytes == data {
            bytes[1_500_000] ^= 1;
            std::fs::write(&file, bytes).expect("written");
        }
    }
    let result = run(&site, "a1", counts(&named)).await;
    let digest = Digest::of(&data);
    is_dead_by_the_store(&site, &result, digest.as_str()).await;
    assert!(site.seen.events("a1", "stage_started").is_empty());
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_corrupt_once_is_fetched_again() {
    let site = Site::start().await;
    let (directory, url) = directory_store(&site);
    let worker = site.worker("w").env("BLOBS__URL", &url).start().await;
    let data = noise(1, 3_000_000);
    let named = put(&blobs_at(&site, &url), &data).await;
    let stored = files(&directory)
        .into_iter()
        .filter(|it| std::fs::read(it).expect("read") == data);
    let stored: Vec<_> = stored.collect();
    for file in &stored {
        std::fs::write(file, noise(2, 3_000_000)).expect("written");
    }
    site.publish(Lane::Interactive, "a1", counts(&named)).await;
    crate::fleet::eventually("an attempt failed", crate::site::LONG, || async {
        let noted = site.attempts("a1").await.unwrap_or_default();
        !noted.attempts.is_empty()
    })
    .await;
    for file in &stored {
        std::fs::write(file, &data).expect("written");
    }
    let result = site.result("a1").await;
    assert_eq!(stdout(&result), "3000000\n");
    assert!(result.attempt > 1);
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_costs_no_attempt() {
    let site = Site::start().await;
    let (directory, url) = directory_store(&site);
    let mut worker = site
        .worker("w")
        .env("BLOBS__URL", &url)
        .env("BLOBS__OUTAGE_TIMEOUT_US", "1s")
        .start()
        .await;
    let named = put(&blobs_at(&site, &url), &noise(1, 100_000)).await;
    let away = directory.with_extension("away");
    std::fs::rename(&directory, &away).expect("moved");
    std::fs::write(&directory, "no directory").expect("written");
    for id in ["a1", "a2"] {
        site.publish(Lane::Interactive, id, counts(&named)).await;
    }
    worker.await_log("the probe fails: nothing is pulled").await;
    tokio::time::sleep(slowly(Duration::from_secs(4))).await;
    assert_eq!(site.queued().await, 2);
    std::fs::remove_file(&directory).expect("removed");
    std::fs::rename(&away, &directory).expect("moved");
    for id in ["a1", "a2"] {
        assert_eq!(stdout(&site.result(id).await), "100000\n");
        is_uncounted(&site, id).await;
    }
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_refused_whose_blob_is_said_to_be_larger_than_its_work_directory() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let blob = json!({"digest": Digest::of(b"x"), "size_bytes": 1_u64 << 30});
    let file = json!({"path": "big", "blob": blob});
    let limits = json!({"disk_bytes": 1 << 20});
    let body = submission("true", &json!({"files": [file], "run": {"limits": limits}}));
    let result = run(&site, "a1", body).await;
    assert_eq!(result.outcome, Outcome::Rejected, "{result:#?}");
    site.end([worker]).await;
}
