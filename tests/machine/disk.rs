//! A disk is full: the worker's own, or the Docker Engine's.

use std::{fs::File, io::Write as _, path::Path};

use envicutor::{
    blobs::Store,
    config::Config,
    submission::names::{Lane, Tenant},
};
use serde_json::{Value, json};

use crate::{
    OUTAGE, end_well_and_uncounted,
    engine::{Engine, mount_small},
    fleet::{eventually, slowly},
    site::{LONG, Site, worker::Builder},
};

const MIB: usize = 1 << 20;

/// Takes every byte that is left, into the file `ballast`.
fn fill(directory: &Path) {
    let mut ballast = File::create(directory.join("ballast")).expect("made");
    for size in [1 << 20, 4096, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
}

/// Gives so many bytes of what was taken back.
fn leave(ballast: &Path, bytes: u64) {
    let file = File::options().write(true).open(ballast).expect("there");
    let size = file.metadata().expect("there").len();
    file.set_len(size - bytes).expect("cut");
}

/// Takes every file that is left, in the directory `ballast`.
fn fill_with_files(directory: &Path) {
    let ballast = directory.join("ballast");
    std::fs::create_dir(&ballast).expect("made");
    let mut number = 0;
    while File::create(ballast.join(number.to_string())).is_ok() {
        number += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_engine_costs_no_attempt() {
    let (site, engine) = tokio::join!(Site::start(), Engine::start_small(64));
    let mut worker = engine.worker(&site, "w").start().await;
    fill(&engine.data());
    site.submit("first", "echo done").await;
    site.submit("second", "echo done").await;
    worker.await_log("the probe fails: nothing is pulled").await;
    tokio::time::sleep(slowly(OUTAGE)).await;
    assert_eq!(site.queued().await, 2);
    std::fs::remove_file(engine.data().join("ballast")).expect("removed");
    end_well_and_uncounted(&site, &["first", "second"]).await;
    site.end([worker]).await;
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_worker_costs_no_attempt() {
    let site = Site::start().await;
    let small = site.data_dir.path().join("small");
    std::fs::create_dir(&small).expect("made");
    mount_small(&small, 16, Some(200)).await;
    let mut worker = site
        .worker("w")
        .env("DATA_DIR", small.display())
        .start()
        .await;
    fill_with_files(&small);
    site.submit("first", "echo done").await;
    site.submit("second", "echo done").await;
    worker.await_log("the probe fails: nothing is pulled").await;
    tokio::time::sleep(slowly(OUTAGE)).await;
    assert_eq!(site.queued().await, 2);
    std::fs::remove_dir_all(small.join("ballast")).expect("removed");
    end_well_and_uncounted(&site, &["first", "second"]).await;
    let unmount = || std::process::Command::new("umount").arg(&small).status();
    site_end_and(site, worker, unmount).await;
}

/// A worker whose cache of blobs lies on a disk of 8 MiB, and may be larger than that.
async fn with_a_small_cache(site: &Site, slots: usize) -> (std::path::PathBuf, Builder) {
    let small = site.data_dir.path().join("small");
    std::fs::create_dir(&small).expect("made");
    mount_small(&small, 8, None).await;
    let worker = site
        .worker("w")
        .env("WORKER__SLOTS", slots)
        .env("WORKER__CACHE_DIR", small.display())
        .env("WORKER__RETRY_MAX_US", "2s")
        .env("WORKER__CACHE_BYTES", 64 * MIB)
        .env("WORKER__COMPILE_CACHE_ARTIFACT_BYTES", 4096)
        .env("CEILINGS__BLOBS", 100)
        .env("CEILINGS__BLOB_TOTAL_BYTES", 8 * MIB);
    (small, worker)
}

/// A submission that is ok only with the right input: so many bytes of this one, which it finds in the store.
async fn reads(site: &Site, byte: u8, size: usize) -> String {
    let store = Store::open(&Config::default(), Some(&site.bus)).expect("a store");
    let blobs = store.of(&Tenant::default_tenant());
    let input = vec![byte; size];
    let blob = blobs.put_bytes(input.into()).await.expect("stored");
    let script = format!("test \"$(tr -cd '{}' | wc -c)\" = {size}", byte as char);
    let mut body: Value = serde_json::from_str(&Site::body(&script)).expect("JSON");
    body["run"]["stdin"] = json!({"blob": blob});
    body.to_string()
}

/// Two slots whose inputs do not fit the disk at a time, and what was used before lies on it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_on_a_disk_that_is_smaller_than_it_may_be_costs_no_attempt() {
    let site = Site::start().await;
    let (small, worker) = with_a_small_cache(&site, 2).await;
    let worker = worker.start().await;
    let mut ids = Vec::new();
    for byte in *b"abcdefab" {
        let id = format!("s{}", ids.len());
        let body = reads(&site, byte, 5 * MIB).await;
        site.publish(Lane::Interactive, &id, body).await;
        ids.push(id);
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    end_well_and_uncounted(&site, &ids).await;
    assert!(worker.log().contains("the cache becomes smaller"));
    let unmount = || std::process::Command::new("umount").arg(&small).status();
    site_end_and(site, worker, unmount).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_cache_costs_no_attempt() {
    let site = Site::start().await;
    let (small, worker) = with_a_small_cache(&site, 1).await;
    let mut worker = worker.start().await;
    fill(&small);
    for (id, byte) in [("first", b'a'), ("second", b'b')] {
        let body = reads(&site, byte, 3 * MIB).await;
        site.publish(Lane::Interactive, id, body).await;
    }
    worker.await_log("the probe fails: nothing is pulled").await;
    tokio::time::sleep(slowly(OUTAGE)).await;
    assert_eq!(site.queued().await, 2);
    // Room for a probe, and not for a download: what needs none goes on, and what needs one is tried again.
    let ballast = small.join("ballast");
    leave(&ballast, MIB as u64);
    site.submit("none", "echo done").await;
    end_well_and_uncounted(&site, &["none"]).await;
    let uncounted = async || site.attempts("first").await.unwrap_or_default().uncounted;
    let before = uncounted().await;
    eventually("it was tried twice more", LONG, || async {
        uncounted().await >= before + 2
    })
    .await;
    assert_eq!(site.queued().await, 2);
    std::fs::remove_file(&ballast).expect("removed");
    end_well_and_uncounted(&site, &["first", "second"]).await;
    let unmount = || std::process::Command::new("umount").arg(&small).status();
    site_end_and(site, worker, unmount).await;
}

async fn site_end_and(
    site: Site,
    worker: crate::site::worker::Worker,
    then: impl FnOnce() -> std::io::Result<std::process::ExitStatus>,
) {
    worker.drain().await;
    assert!(then().expect("umount runs").success());
    site.end([]).await;
}
