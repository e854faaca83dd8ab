//! What an operator sees of the workers and tells them: cordoned, they take nothing new and stay so; drained, they end in good order;
//! dead, they are forgotten.

mod fleet;

use std::time::Duration;

use envicutor::submission::units::Micros;
use fleet::{
    eventually,
    messages::DEADLINE,
    publish, signal,
    site::{LONG, Site, all_results, begin, next_result, python, results},
};
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::json;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_shows_what_a_worker_is_and_runs() {
    let site = Site::start().await;
    let client = site.service().await;
    let worker = site.ready_worker("w", &[]).await;
    begin(&client, "long", &python("import time; time.sleep(50)")).await;
    eventually("the registry says that it runs", LONG, || async {
        let entry = site.entry(&worker.id).await.expect("it is there");
        entry["running"][0]["id"] == "long"
    })
    .await;
    let entry = site.entry(&worker.id).await.expect("it is there");
    assert_eq!(
        (&entry["state"], &entry["slots"], &entry["version"]),
        (
            &json!("ready"),
            &json!(1),
            &json!(env!("CARGO_PKG_VERSION"))
        )
    );
    assert_eq!(entry["running"][0]["tenant"], "default");
    assert_eq!(entry["running"][0]["memory_bytes"], json!(264 << 20));
    assert!(entry["memory_bytes"].as_u64() > Some(1 << 30), "{entry:#}");
    assert!(entry["isolation"].is_string(), "{entry:#}");
    let shown = site.cli(&["worker", "ls"]).await;
    let shown = String::from_utf8(shown.stdout).expect("UTF-8");
    for part in [
        worker.id.as_str(),
        "  ready  ",
        "1 of 1 slots",
        "264 MiB of ",
        "\n    default/long  since ",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    let cancelled = site.cli(&["cancel", "long"]).await;
    assert!(cancelled.status.success(), "{cancelled:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_worker_finishes_what_runs_and_takes_nothing_new_until_it_is_uncordoned() {
    let mut site = Site::start().await;
    let client = site.service().await;
    let worker = site.ready_worker("w", &[]).await;
    let mut heard = results(&client).await;
    begin(&client, "runs", &python("import time; time.sleep(2)")).await;
    for _ in 0..2 {
        let told = site.cli(&["worker", "cordon", &worker.id]).await;
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        let said = String::from_utf8_lossy(&told.stdout);
        assert!(said.contains("cordoned  1 running"), "{said}");
    }
    let entry = site.entry(&worker.id).await.expect("it is there");
    assert_eq!(entry["state"], "cordoned");
    publish(&client, "interactive", "waits", python("pass").to_string())
        .await
        .expect("published");
    assert_eq!(next_result(&mut heard).await["id"], "runs");

    // The connection breaks and comes back; more than a sweep goes by.
    site.nats.restart().await;
    eventually("the registry can be read again", LONG, || async {
        site.cli(&["worker", "ls"]).await.status.success()
    })
    .await;
    eventually("it is back and still cordoned", LONG, || async {
        let entry = site.entry(&worker.id).await;
        entry.is_some_and(|entry| entry["state"] == "cordoned" && entry["running"] == json!([]))
    })
    .await;
    publish(&client, "batch", "waits2", python("pass").to_string())
        .await
        .expect("published");
    let more = timeout(Duration::from_secs(3), heard.next()).await;
    assert!(more.is_err(), "it took something: {more:?}");
    assert_eq!(site.queued().await, 2);

    let told = site.cli(&["worker", "uncordon", &worker.id]).await;
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let found = all_results(&mut heard, 2).await;
    for id in ["waits", "waits2"] {
        assert_eq!(found[id]["verdict"], "ok", "{found:#?}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_finishes_what_runs_and_is_gone_from_the_registry_at_once() {
    let site = Site::start_with(|config| config.worker.heartbeat_us = Micros(60_000_000)).await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let mut worker = site.ready_worker("w", &[]).await;
    begin(
        &client,
        "runs",
        &python("import time; time.sleep(3); print('done')"),
    )
    .await;
    let told = site
        .cli(&["worker", "drain", &worker.id, "--wait", "--timeout", "60s"])
        .await;
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let said = String::from_utf8_lossy(&told.stdout);
    assert!(
        said.contains("draining  1 running\n    default/runs"),
        "{said}"
    );
    assert_eq!(site.entry(&worker.id).await, None);
    let result = next_result(&mut heard).await;
    assert_eq!(
        (&result["verdict"], &result["attempt"]),
        (&json!("ok"), &json!(1)),
        "{result:#}"
    );
    worker.has_ended().await;
    site.is_drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_hands_back_what_outlives_its_grace_time_and_cannot_be_taken_back() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let grace = [("ENVICUTOR__WORKER__DRAIN_GRACE_US", "4s")];
    let mut first = site.ready_worker("first", &grace).await;
    begin(
        &client,
        "long",
        &python("import time; time.sleep(8); print('done')"),
    )
    .await;
    for _ in 0..2 {
        let told = site.cli(&["worker", "drain", &first.id]).await;
        assert_eq!(told.status.code(), Some(0), "{told:?}");
    }
    let told = site.cli(&["worker", "uncordon", &first.id]).await;
    assert_eq!(told.status.code(), Some(3), "{told:?}");
    first.has_ended().await;
    let second = site.worker("second");
    let result = next_result(&mut heard).await;
    assert_eq!(
        (&result["verdict"], &result["worker"]),
        (&json!("ok"), &json!(second.id)),
        "{result:#}"
    );
    second.stop().await;
    assert!(heard.next().now_or_never().is_none(), "a second result");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_worker_is_forgotten_and_an_unknown_one_is_an_error() {
    let site = Site::start_with(|config| config.worker.heartbeat_us = Micros(500_000)).await;
    let mut worker = site.ready_worker("w", &[]).await;
    let told = site.cli(&["worker", "drain", "nobody"]).await;
    assert_eq!(told.status.code(), Some(3), "{told:?}");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(said.contains("no worker \"nobody\""), "{said}");

    worker.child.kill().await.expect("SIGKILL is sent");
    let told = site.cli(&["worker", "cordon", &worker.id]).await;
    assert_eq!(told.status.code(), Some(3), "{told:?}");
    eventually("it is forgotten", DEADLINE, || async {
        site.entry(&worker.id).await.is_none()
    })
    .await;
    // What it left is the next one's to remove.
    let next = site.ready_worker("next", &[]).await;
    fleet::site::no_container_is_left(&worker.id).await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_process_is_stopped_answers_no_order_and_is_named_as_silent() {
    let site = Site::start_with(|config| {
        config.worker.heartbeat_us = Micros(20_000_000);
        config.nats.request_timeout_us = Micros(1_000_000);
    })
    .await;
    let worker = site.ready_worker("w", &[]).await;
    signal(&worker.child, "STOP").await;
    let told = site.cli(&["worker", "cordon", &worker.id]).await;
    signal(&worker.child, "CONT").await;
    assert_eq!(told.status.code(), Some(3), "{told:?}");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(said.contains("does not answer"), "{said}");
    worker.stop().await;
}
