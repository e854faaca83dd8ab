//! Workers that die or drain in the middle of a run: another one finishes the submission, the subscriber sees one result,
//! and the dead worker's containers are gone.

mod fleet;

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use envicutor::{
    bus::{Bus, Role, provision},
    config::Config,
    nats_server::NatsServer,
    submission::{names::SubmissionId, units::Micros},
};
use fleet::{containers_of, eventually, publish, signal};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::{process::Child, time::timeout};

/// More than a redelivery and a cold start on a busy machine.
const LONG: Duration = Duration::from_mins(2);

/// A NATS of its own that workers join as processes of their own.
struct Site {
    nats: NatsServer,
    config: Config,
    dir: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("envc-")
            .tempdir()
            .expect("a temporary directory");
        let mut config = Config::load(None, &BTreeMap::new()).expect("the defaults are valid");
        config.nats.ack_wait_us = Micros(2_000_000);
        config.nats.server = Some(fleet::nats_server().await);
        let nats = NatsServer::start(&config.nats, dir.path())
            .await
            .expect("nats-server starts");
        config.nats.url = nats.url(Role::Operator);
        let bus = Bus::connect(&config.nats, Role::Operator, "test")
            .await
            .expect("the operator connects");
        provision::apply(&bus, &config)
            .await
            .expect("the streams are made");
        Self { nats, config, dir }
    }

    /// A worker as a process of its own, started.
    fn worker(&self, id: &str) -> Child {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_envicutor-worker"))
            .env("ENVICUTOR__DATA_DIR", self.dir.path())
            .env("ENVICUTOR__NATS__URL", self.nats.url(Role::Worker))
            .env(
                "ENVICUTOR__NATS__ACK_WAIT_US",
                self.config.nats.ack_wait_us.0.to_string(),
            )
            .env("ENVICUTOR__WORKER__ID", id)
            .env("ENVICUTOR__WORKER__SLOTS", "1")
            .env("ENVICUTOR__WORKER__DRAIN_GRACE_US", "1s")
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("envicutor-worker starts")
    }

    async fn service(&self) -> async_nats::Client {
        fleet::connect(&self.nats.url(Role::Service)).await
    }
}

fn unique(name: &str) -> String {
    format!("{name}-{}", &SubmissionId::generate().as_str()[24..])
}

/// Publishes a submission that sleeps, and waits until its run has begun.
async fn start_sleeping(client: &async_nats::Client, id: &str, seconds: u32) {
    let mut events = client
        .subscribe(format!("envicutor.events.default.{id}.stage_started"))
        .await
        .expect("subscribed");
    let source = format!("import time; time.sleep({seconds}); print('done')");
    let submission = json!({"runtime": "python", "files": [{"text": source}], "run": {"limits": {"wall_time_us": 60_000_000}}});
    publish(client, "interactive", id, submission.to_string())
        .await
        .expect("the publish is acknowledged");
    timeout(fleet::FIRST_USE, events.next())
        .await
        .expect("the run begins")
        .expect("the subscription lasts");
}

async fn next_result(results: &mut async_nats::Subscriber) -> Value {
    let message = timeout(LONG, results.next())
        .await
        .expect("a result comes")
        .expect("the subscription lasts");
    serde_json::from_slice(&message.payload).expect("JSON in, JSON out")
}

async fn no_container_is_left(worker: &str) {
    eventually("no container is left", LONG, || async {
        containers_of(worker).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_mid_run_loses_nothing() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut results = client
        .subscribe("envicutor.results.default.killed")
        .await
        .expect("subscribed");
    let (first, second) = (unique("first"), unique("second"));
    let mut victim = site.worker(&first);
    start_sleeping(&client, "killed", 4).await;
    let mut survivor = site.worker(&second);
    victim.kill().await.expect("SIGKILL is sent");

    let result = next_result(&mut results).await;
    assert_eq!(
        (&result["verdict"], &result["worker"]),
        (&json!("ok"), &json!(second)),
        "{result:#}"
    );
    assert_eq!(result["attempt"], 2);
    no_container_is_left(&first).await;

    signal(&survivor, "TERM").await;
    assert!(
        timeout(LONG, survivor.wait())
            .await
            .expect("it ends")
            .expect("waited")
            .success()
    );
    no_container_is_left(&second).await;
    // The worker has drained: nothing more can come, and what had come is in the buffer.
    client.flush().await.expect("flushed");
    assert!(
        futures_util::FutureExt::now_or_never(results.next()).is_none(),
        "a second result came"
    );
    site.nats.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drains_hands_back_what_it_cannot_finish_uncounted() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut results = client
        .subscribe("envicutor.results.default.drained")
        .await
        .expect("subscribed");
    let (first, second) = (unique("first"), unique("second"));
    let mut drained = site.worker(&first);
    start_sleeping(&client, "drained", 8).await;
    signal(&drained, "TERM").await;
    let status = timeout(LONG, drained.wait())
        .await
        .expect("it ends after its grace time")
        .expect("waited");
    assert!(status.success(), "{status}");
    no_container_is_left(&first).await;

    let mut next = site.worker(&second);
    let result = next_result(&mut results).await;
    assert_eq!(
        (&result["verdict"], &result["worker"]),
        (&json!("ok"), &json!(second)),
        "{result:#}"
    );
    signal(&next, "TERM").await;
    next.wait().await.expect("it ends");
    site.nats.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_loses_every_worker_is_dead_lettered() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut results = client
        .subscribe("envicutor.results.default.deadly")
        .await
        .expect("subscribed");
    let mut workers = Vec::new();
    for attempt in 1..=3 {
        let mut worker = site.worker(&unique(&format!("w{attempt}")));
        if attempt == 1 {
            start_sleeping(&client, "deadly", 50).await;
        } else {
            let mut started = client
                .subscribe("envicutor.events.default.deadly.stage_started")
                .await
                .expect("subscribed");
            timeout(LONG, started.next())
                .await
                .expect("it is tried again")
                .expect("the subscription lasts");
        }
        worker.kill().await.expect("SIGKILL is sent");
        workers.push(worker);
    }
    let last = unique("w4");
    let mut worker = site.worker(&last);
    let result = next_result(&mut results).await;
    assert_eq!(result["outcome"], "failed", "{result:#}");
    assert_eq!(result["failure"]["code"], "worker_lost");
    assert_eq!(result["failure"]["attempts"], 3);

    let operator = fleet::connect(&site.nats.url(Role::Operator)).await;
    let letters = async_nats::jetstream::new(operator)
        .get_stream("DEAD_LETTERS")
        .await
        .expect("the stream is there");
    let letter = letters
        .get_last_raw_message_by_subject("envicutor.dead.default.deadly")
        .await
        .expect("its letter");
    let letter: Value = serde_json::from_slice(&letter.payload).expect("JSON");
    assert_eq!(
        letter["attempts"].as_array().map(Vec::len),
        Some(3),
        "{letter:#}"
    );
    assert!(
        letter["submission"]["text"]
            .as_str()
            .is_some_and(|body| body.contains("time.sleep(50)")),
        "{letter:#}"
    );
    signal(&worker, "TERM").await;
    worker.wait().await.expect("it ends");
    no_container_is_left(&last).await;
    site.nats.stop().await;
}
