//! Submissions of one worker take turns at compiling: who waits can be cancelled, holds up nobody who is not compiled, and does
//! not wait for long where a compile stage sleeps.

mod fleet;

use async_nats::{Client, Subscriber};
use fleet::{
    publish,
    site::{LONG, Site, begin, cancel, next_result, results},
    slowly,
};
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::timeout;

/// A submission whose compile stage is `command`.
fn compiled_by(command: &[&str]) -> Value {
    json!({
        "runtime": "bash", "files": [{"text": "echo done"}], "cache": false,
        "compile": {"command": command, "limits": {"wall_time_us": 60_000_000}},
    })
}

/// One that compiles until it is cancelled.
fn sleeper() -> Value {
    compiled_by(&["/bin/sleep", "50"])
}

/// Publishes a submission, and waits until it is in a worker's hands.
async fn hand_over(client: &Client, id: &str, submission: &Value) {
    let subject = format!("envicutor.events.default.{id}.started");
    let mut started = client.subscribe(subject).await.expect("subscribed");
    publish(client, "interactive", id, submission.to_string())
        .await
        .expect("the publish is acknowledged");
    timeout(slowly(LONG), started.next())
        .await
        .expect("it is taken")
        .expect("the subscription lasts");
}

/// The id of the next result, and its outcome.
async fn next_outcome(heard: &mut Subscriber) -> (String, String) {
    let result = next_result(heard).await;
    let text = |field: &str| result[field].as_str().expect("text").to_owned();
    (text("id"), text("outcome"))
}

fn outcome(id: &str, outcome: &str) -> (String, String) {
    (id.to_owned(), outcome.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_turn_does_not_compile_and_can_be_cancelled() {
    let site = Site::start().await;
    let client = site.service().await;
    let turns = [
        ("ENVICUTOR__WORKER__SLOTS", "3"),
        ("ENVICUTOR__WORKER__COMPILATIONS", "1"),
        ("ENVICUTOR__WORKER__COMPILATION_WAIT_US", "600000000"),
    ];
    let worker = site.ready_worker("w", &turns).await;
    let mut heard = results(&client).await;
    let mut stages = client
        .subscribe("envicutor.events.default.*.stage_started")
        .await
        .expect("subscribed");
    begin(&client, "holds", &sleeper()).await;
    hand_over(&client, "waits", &compiled_by(&["/bin/true"])).await;
    // What has nothing to be compiled passes both.
    let plain = json!({"runtime": "bash", "files": [{"text": "echo"}]}).to_string();
    publish(&client, "interactive", "plain", plain)
        .await
        .expect("the publish is acknowledged");
    assert_eq!(next_outcome(&mut heard).await, outcome("plain", "finished"));
    assert_eq!(cancel(&client, "waits").await, "cancelled");
    assert_eq!(
        next_outcome(&mut heard).await,
        outcome("waits", "cancelled")
    );

    hand_over(&client, "next", &compiled_by(&["/bin/true"])).await;
    assert_eq!(cancel(&client, "holds").await, "cancelled");
    assert_eq!(
        next_outcome(&mut heard).await,
        outcome("holds", "cancelled")
    );
    assert_eq!(next_outcome(&mut heard).await, outcome("next", "finished"));
    worker.stop().await;
    let mut begun = Vec::new();
    while let Some(Some(message)) = stages.next().now_or_never() {
        let event: Value = serde_json::from_slice(&message.payload).expect("JSON");
        begun.push(format!("{} {}", event["id"], event["stage"]));
    }
    let expected = [
        r#""holds" "compile""#,
        r#""plain" "run""#,
        r#""next" "compile""#,
        r#""next" "run""#,
    ];
    assert_eq!(begun, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compile_stage_that_sleeps_holds_up_nobody_for_long() {
    let site = Site::start().await;
    let client = site.service().await;
    let turns = [
        ("ENVICUTOR__WORKER__SLOTS", "2"),
        ("ENVICUTOR__WORKER__COMPILATIONS", "1"),
        ("ENVICUTOR__WORKER__COMPILATION_WAIT_US", "100000"),
    ];
    let worker = site.ready_worker("w", &turns).await;
    let mut heard = results(&client).await;
    begin(&client, "holds", &sleeper()).await;
    hand_over(&client, "next", &compiled_by(&["/bin/true"])).await;
    assert_eq!(next_outcome(&mut heard).await, outcome("next", "finished"));
    assert_eq!(cancel(&client, "holds").await, "cancelled");
    assert_eq!(
        next_outcome(&mut heard).await,
        outcome("holds", "cancelled")
    );
    worker.stop().await;
}
