//! A disk is full: the worker's own, or the Docker Engine's.

use std::{fs::File, io::Write as _, path::Path};

use crate::{
    OUTAGE, end_well_and_uncounted,
    engine::{Engine, mount_small},
    fleet::slowly,
    site::Site,
};

/// Takes every byte that is left, into the file `ballast`.
fn fill(directory: &Path) {
    let mut ballast = File::create(directory.join("ballast")).expect("made");
    for size in [1 << 20, 4096, 1] {
        while ballast.write_all(&vec![1; size]).is_ok() {}
    }
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

async fn site_end_and(
    site: Site,
    worker: crate::site::worker::Worker,
    then: impl FnOnce() -> std::io::Result<std::process::ExitStatus>,
) {
    worker.drain().await;
    assert!(then().expect("umount runs").success());
    site.end([]).await;
}
