//! A fleet is restarted and upgraded worker by worker while it works: nothing is lost, nothing is doubled, and what only a newer
//! worker understands waits for one.

mod fleet;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap};
use envicutor::bus::Role;
use fleet::{
    eventually, publish, publish_with,
    site::{LONG, Site, Worker, all_results, python, results},
};
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};

/// Published at least, however fast the restarts are.
const AT_LEAST: usize = 300;

fn job(n: usize) -> Value {
    if n.is_multiple_of(15) {
        // Longer than the grace time of a drain.
        return python("import time; time.sleep(2); print('ok')");
    }
    json!({"runtime": "bash", "files": [{"text": "echo ok"}]})
}

/// Publishes at a steady pace until the restarts are over; returns how many.
async fn load(client: Client, over: Arc<AtomicBool>) -> usize {
    let mut count = 0;
    while count < AT_LEAST || !over.load(Ordering::Relaxed) {
        let lane = if count.is_multiple_of(2) {
            "interactive"
        } else {
            "batch"
        };
        publish(
            &client,
            lane,
            &format!("job{count}"),
            job(count).to_string(),
        )
        .await
        .expect("the publish is acknowledged");
        count += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    count
}

/// Replaces a worker, by a signal or by an order.
async fn replace(site: &Site, mut worker: Worker, name: &str, by_order: bool) -> Worker {
    if by_order {
        let told = site.cli(&["worker", "drain", &worker.id, "--wait"]).await;
        assert!(told.status.success(), "{told:?}");
    } else {
        worker.signal("TERM").await;
    }
    worker.has_ended().await;
    site.ready_worker(name, &GRACE).await
}

const GRACE: [(&str, &str); 1] = [("ENVICUTOR__WORKER__DRAIN_GRACE_US", "1s")];

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_loses_and_doubles_nothing() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let mut workers = [
        site.ready_worker("a0", &GRACE).await,
        site.ready_worker("b0", &GRACE).await,
    ];
    let over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(load(site.service().await, Arc::clone(&over)));
    for (round, by_order) in [(1, false), (2, true), (3, false), (4, true)] {
        let [a, b] = workers;
        let a = replace(&site, a, &format!("a{round}"), by_order).await;
        let b = replace(&site, b, &format!("b{round}"), !by_order).await;
        workers = [a, b];
    }
    over.store(true, Ordering::Relaxed);
    let count = load.await.expect("all were published");

    let found = all_results(&mut heard, count).await;
    let mut again = 0;
    for n in 0..count {
        let result = &found[&format!("job{n}")];
        assert_eq!(result["verdict"], "ok", "{result:#}");
        again += usize::from(result["attempt"] != 1);
    }
    println!("{count} were published, {again} were handed back and ran again");
    site.is_drained().await;
    for worker in workers {
        worker.stop().await;
    }
    assert!(heard.next().now_or_never().is_none(), "a second result");
    // One message was ever stored for each: none was replaced.
    let bus = site.nats.bus(Role::Operator).await;
    let info: Value = bus
        .api("STREAM.INFO.RESULTS", &Value::Null)
        .await
        .expect("asked");
    assert_eq!(
        (&info["state"]["messages"], &info["state"]["last_seq"]),
        (&json!(count), &json!(count))
    );
    assert_eq!(site.messages_in("DEAD_LETTERS").await, 0);
}

/// A message that only a worker which knows schema 2 may run.
async fn publish_newer(client: &Client, id: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("Envicutor-Schema", "2");
    publish_with(
        client,
        "interactive",
        id,
        headers,
        job(1).to_string().into(),
    )
    .await
    .expect("published");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_schema_says_waits_for_a_worker_that_knows_it_and_costs_no_attempt() {
    const EACH: usize = 12;
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    // Whichever looks first gets it: so it is tried again soon.
    let retry = ("ENVICUTOR__WORKER__RETRY_MAX_US", "2s");
    let old = site.ready_worker("old", &[retry]).await;
    publish_newer(&client, "first").await;
    let bus = site.nats.bus(Role::Operator).await;
    eventually(
        "the old worker hands it back more than once",
        LONG,
        || async {
            let info: Value = bus
                .api(
                    "CONSUMER.INFO.SUBMISSIONS_default.interactive",
                    &Value::Null,
                )
                .await
                .expect("asked");
            info["delivered"]["consumer_seq"].as_u64() > Some(2)
        },
    )
    .await;
    assert!(heard.next().now_or_never().is_none(), "it ran");

    // The program of the next release, as far as this test knows it.
    let new = site
        .ready_worker("new", &[retry, ("ENVICUTOR_TEST_SCHEMA", "2")])
        .await;
    for n in 0..EACH {
        publish_newer(&client, &format!("new{n}")).await;
        publish(&client, "batch", &format!("old{n}"), job(1).to_string())
            .await
            .expect("published");
    }
    let found = all_results(&mut heard, 2 * EACH + 1).await;
    for (id, result) in &found {
        assert_eq!(
            (&result["verdict"], &result["attempt"]),
            (&json!("ok"), &json!(1)),
            "{result:#}"
        );
        if !id.starts_with("old") {
            assert_eq!(result["worker"], json!(new.id), "{result:#}");
        }
    }
    site.is_drained().await;
    assert_eq!(site.messages_in("DEAD_LETTERS").await, 0);
    old.stop().await;
    new.stop().await;
}
