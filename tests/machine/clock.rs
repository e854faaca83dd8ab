//! The worker's clock is set: to and fro by a day, while a submission runs. The worker reads every clock through libc, and gets it
//! from libfaketime there; its monotonic clock, and the machine's, stay as they are.

use std::path::{Path, PathBuf};

use crate::{end_well_and_uncounted, runs, site::Site};

fn library() -> PathBuf {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/faketime/libfaketime.so.1",
    ];
    let there = places.map(Path::new).into_iter().find(|it| it.exists());
    there
        .expect("this test needs libfaketime: apt-get install faketime")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_changes_no_verdict_and_costs_no_attempt() {
    let site = Site::start().await;
    let offset = site.data_dir.path().join("offset");
    std::fs::write(&offset, "+0").expect("written");
    let worker = site
        .worker("w")
        .variable("LD_PRELOAD", library().display())
        .variable("FAKETIME_TIMESTAMP_FILE", offset.display())
        .variable("FAKETIME_NO_CACHE", 1)
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", 1)
        .start()
        .await;
    for (id, step) in [("ahead", "+86400"), ("back", "-86400")] {
        site.submit(id, "sleep 3; echo done").await;
        runs(&site, id, 1).await;
        std::fs::write(&offset, step).expect("written");
        end_well_and_uncounted(&site, &[id]).await;
        let result = site.result(id).await;
        assert_eq!(result.attempt, 1);
        let wall = result.runs[0].wall_us.duration();
        assert!(wall.as_secs() < 60, "{wall:?}");
        let stepped = (result.finished_at - result.started_at).whole_hours();
        assert!(stepped.abs() >= 23, "the clock was not set: {stepped} h");
    }
    site.end([worker]).await;
}
