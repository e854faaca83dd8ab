//! A submission with `expires_at` is not started after it, whether a worker takes it then or nobody does; what runs by then runs to
//! its end.

mod fleet;

use std::time::Duration;

use fleet::{
    eventually, publish,
    site::{LONG, Site, begin, next_result, no_container_is_left, python, results},
};
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A Python submission that expires so long from now.
fn expiring(source: &str, from_now: Duration) -> Value {
    let mut submission = python(source);
    let instant = OffsetDateTime::now_utc() + from_now;
    submission["expires_at"] = json!(instant.format(&Rfc3339).expect("an instant"));
    submission
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_taken_too_late_is_not_started() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let mut events = client
        .subscribe("envicutor.events.>")
        .await
        .expect("subscribed");
    let mut submission = expiring("print('never')", Duration::ZERO);
    submission["labels"] = json!({"course": "cs101"});
    publish(&client, "interactive", "late", submission.to_string())
        .await
        .expect("published");
    // A rejected one is that, however late.
    submission["runtime"] = json!("none-such");
    publish(&client, "interactive", "wrong", submission.to_string())
        .await
        .expect("published");
    let worker = site.ready_worker("w", &[]).await;
    let expired = next_result(&mut heard).await;
    assert_eq!(
        (&expired["id"], &expired["outcome"], &expired["runs"]),
        (&json!("late"), &json!("expired"), &json!([])),
        "{expired:#}"
    );
    assert_eq!(expired["labels"], json!({"course": "cs101"}));
    let rejected = next_result(&mut heard).await;
    assert_eq!(
        (&rejected["id"], &rejected["outcome"]),
        (&json!("wrong"), &json!("rejected"))
    );
    site.is_drained().await;
    assert!(events.next().now_or_never().is_none(), "it was started");
    let told = site.cli(&["result", "late"]).await;
    assert_eq!(told.status.code(), Some(3), "{told:?}");
    assert_eq!(told.stdout, b"outcome    expired\n");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nobody_takes_expires_all_the_same_and_what_runs_does_not() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let look = [("ENVICUTOR__WORKER__EXPIRY_LOOK_US", "300ms")];
    let worker = site.ready_worker("w", &look).await;
    // Runs past its own instant, in the only slot.
    let running = expiring(
        "import time; time.sleep(8); print('done')",
        Duration::from_secs(5),
    );
    begin(&client, "runs", &running).await;
    for (name, lane, from_now) in [
        ("soon", "interactive", Duration::from_secs(2)),
        ("sooner", "batch", Duration::from_secs(1)),
        ("later", "batch", Duration::from_mins(10)),
    ] {
        let body = expiring("print('ran')", from_now).to_string();
        publish(&client, lane, name, body).await.expect("published");
    }
    for (name, outcome) in [
        ("sooner", "expired"),
        ("soon", "expired"),
        ("runs", "finished"),
        ("later", "finished"),
    ] {
        let result = next_result(&mut heard).await;
        assert_eq!(
            (&result["id"], &result["outcome"]),
            (&json!(name), &json!(outcome)),
            "{result:#}"
        );
    }
    site.is_drained().await;
    worker.stop().await;
    assert!(heard.next().now_or_never().is_none(), "a second result");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_a_workers_memory_expires_there() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let memory = [
        ("ENVICUTOR__WORKER__SLOTS", "2"),
        ("ENVICUTOR__WORKER__MEMORY_BYTES", "1032MiB"),
    ];
    let worker = site.ready_worker("w", &memory).await;
    begin(&client, "holds", &python("import time; time.sleep(50)")).await;
    let mut large = expiring("print('never')", Duration::from_secs(2));
    large["run"]["limits"]["memory_bytes"] = json!(1 << 30);
    publish(&client, "interactive", "waits", large.to_string())
        .await
        .expect("published");
    let expired = next_result(&mut heard).await;
    assert_eq!(
        (&expired["id"], &expired["outcome"]),
        (&json!("waits"), &json!("expired")),
        "{expired:#}"
    );
    let cancelled = site.cli(&["cancel", "holds"]).await;
    assert!(cancelled.status.success(), "{cancelled:?}");
    worker.stop().await;
    assert_eq!(site.queued().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_handed_back_expires_before_it_is_tried_again() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let grace = [("ENVICUTOR__WORKER__DRAIN_GRACE_US", "100ms")];
    let mut first = site.ready_worker("first", &grace).await;
    let submission = expiring("import time; time.sleep(50)", Duration::from_secs(5));
    let instant = submission["expires_at"].as_str().expect("an instant");
    let instant = OffsetDateTime::parse(instant, &Rfc3339).expect("an instant");
    begin(&client, "again", &submission).await;
    first.signal("TERM").await;
    first.has_ended().await;
    assert_eq!(site.queued().await, 1, "handed back");
    eventually("it is too late", LONG, || async {
        OffsetDateTime::now_utc() > instant
    })
    .await;
    let second = site.worker("second");
    let result = next_result(&mut heard).await;
    assert_eq!(result["outcome"], "expired", "{result:#}");
    assert_eq!(result["worker"], json!(second.id));
    site.is_drained().await;
    let id = second.id.clone();
    second.stop().await;
    no_container_is_left(&id).await;
}
