//! The Docker daemon goes, comes back, or hangs.

use crate::{OUTAGE, end_well_and_uncounted, engine::Engine, fleet::slowly, runs, site::Site};

/// With isolation `sandbox`, where slots are kept and lost with the daemon.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_daemon_costs_no_attempt() {
    let (site, mut engine) = tokio::join!(Site::start(), Engine::start());
    let mut worker = engine
        .worker(&site, "w")
        .env("CONTAINER__ISOLATION", "sandbox")
        .env("CONTAINER__POOL_SIZE", 2)
        .start()
        .await;
    site.submit("running", "sleep 8; echo done").await;
    runs(&site, "running", 1).await;
    engine.down().await;
    site.submit("queued", "echo done").await;
    worker.await_log("the probe fails: nothing is pulled").await;
    tokio::time::sleep(slowly(OUTAGE)).await;
    assert_eq!(site.queued().await, 2);
    engine.up().await;
    end_well_and_uncounted(&site, &["running", "queued"]).await;
    site.end([worker]).await;
    engine.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_daemon_costs_no_attempt_and_what_runs_goes_on() {
    let (site, engine) = tokio::join!(Site::start(), Engine::start());
    let mut worker = engine
        .worker(&site, "w")
        .env("WORKER__SLOTS", 2)
        .start()
        .await;
    site.submit("running", "sleep 2; echo done").await;
    runs(&site, "running", 1).await;
    engine.signal("STOP").await;
    site.submit("queued", "echo done").await;
    end_well_and_uncounted(&site, &["running"]).await;
    worker.await_log("the probe fails: nothing is pulled").await;
    tokio::time::sleep(slowly(OUTAGE)).await;
    engine.signal("CONT").await;
    end_well_and_uncounted(&site, &["queued"]).await;
    site.end([worker]).await;
    engine.end().await;
}
