//! What a worker lost comes again, and is found: also while there is no end of work elsewhere.

mod fleet;

use std::{process::Stdio, time::Duration};

use envicutor::{
    bus::{
        Role,
        queue::{Puller, find_queued},
    },
    submission::{
        message::Submission,
        names::{Lane, SubmissionId, Tenant},
        units::Micros,
    },
};
use fleet::{
    messages::{DEADLINE, id, publish_body, pull, tenant},
    nats::TestNats,
    signal,
};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::process::Child;

/// More than the worker runs until the redelivery is due, many times over.
const BACKLOG: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_is_found_while_another_tenant_fills_the_worker() {
    let other: Tenant = "other".parse().expect("valid");
    let nats = TestNats::start_with(|config| {
        config.nats.tenants.push("other".parse().expect("valid"));
        // Long enough for the worker to have found nothing there once.
        config.nats.ack_wait_us = Micros(5_000_000);
    })
    .await;
    let (service, operator) = (
        nats.bus(Role::Service).await,
        nats.bus(Role::Operator).await,
    );
    // Somebody takes it and is never heard of again.
    publish_body(&service, &other, Lane::Batch, "again", bash("echo again"))
        .await
        .expect("published");
    let gone = nats.bus(Role::Worker).await;
    let mut lost = Puller::new(&gone).await.expect("an inbox");
    let taken = async {
        while lost
            .pull(&other, Lane::Batch)
            .await
            .expect("a queue")
            .is_none()
        {}
    };
    tokio::time::timeout(DEADLINE, taken)
        .await
        .expect("it is there");

    for place in 0..BACKLOG {
        let (name, body) = (format!("b{place}"), bash("sleep 0.05"));
        publish_body(&service, &tenant(), Lane::Interactive, &name, body)
            .await
            .expect("published");
    }
    let mut results = service
        .client
        .subscribe("envicutor.results.other.again")
        .await
        .expect("subscribed");
    let (worker_id, worker) = start_worker(&nats, &[("WORKER__SLOTS", "1")]);
    let result = tokio::time::timeout(fleet::slowly(fleet::FIRST_USE), results.next()).await;
    let result = result
        .expect("it is found in time")
        .expect("the subscription lasts");
    let result: Value = serde_json::from_slice(&result.payload).expect("JSON");
    assert_eq!(
        (&result["verdict"], &result["worker"]),
        (&Value::from("ok"), &Value::from(worker_id)),
        "{result:#}"
    );
    let end = find_queued(&operator, &tenant(), &id(&format!("b{}", BACKLOG - 1))).await;
    assert!(
        end.expect("asked").is_some(),
        "the worker had other work all the time"
    );

    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_lost_worker_held_is_taken_without_waiting_for_a_sweep_for_each() {
    const HELD: usize = 5;
    let nats = TestNats::start_with(|config| {
        config.nats.tenants.push("other".parse().expect("valid"));
    })
    .await;
    let service = nats.bus(Role::Service).await;
    let gone = nats.bus(Role::Worker).await;
    let mut lost = Puller::new(&gone).await.expect("an inbox");
    for place in 0..HELD {
        let (name, body) = (format!("c{place}"), bash("echo again"));
        publish_body(&service, &tenant(), Lane::Batch, &name, body)
            .await
            .expect("published");
    }
    let mut held = Vec::new();
    for _ in 0..HELD {
        held.push(pull(&mut lost, Lane::Batch).await);
    }
    for delivery in held {
        delivery
            .hand_back(Duration::ZERO)
            .await
            .expect("handed back");
    }
    let mut results = service
        .client
        .subscribe("envicutor.results.default.*")
        .await
        .expect("subscribed");
    service.round_trip().await.expect("the subscription stands");
    // The sweep comes round in a day.
    let (_, worker) = start_worker(
        &nats,
        &[("WORKER__SLOTS", "8"), ("WORKER__SWEEP_US", "24h")],
    );
    for place in 0..HELD {
        let result = tokio::time::timeout(fleet::slowly(fleet::FIRST_USE), results.next()).await;
        assert!(result.is_ok(), "only {place} of {HELD} were taken");
    }
    stop(worker).await;
}

fn bash(source: &str) -> Vec<u8> {
    let submission = Submission::new("bash".parse().expect("valid")).source(source);
    serde_json::to_vec(&submission).expect("JSON")
}

/// A worker as a process of its own: its id, and it.
fn start_worker(nats: &TestNats, settings: &[(&str, &str)]) -> (String, Child) {
    let id = format!("one-{}", &SubmissionId::generate().as_str()[19..]);
    let ack_wait = nats.nats_config(Role::Worker).ack_wait_us.0.to_string();
    let settings = settings
        .iter()
        .map(|(key, value)| (format!("ENVICUTOR__{key}"), *value));
    let worker = tokio::process::Command::new(env!("CARGO_BIN_EXE_envicutor-worker"))
        .env("ENVICUTOR__DATA_DIR", nats.data_dir())
        .env("ENVICUTOR__NATS__URL", nats.url(Role::Worker))
        .env("ENVICUTOR__NATS__TENANTS", "default,other")
        .env("ENVICUTOR__NATS__ACK_WAIT_US", ack_wait)
        .env("ENVICUTOR__WORKER__ID", &id)
        .env("ENVICUTOR__WORKER__DRAIN_GRACE_US", "1s")
        .envs(settings)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("envicutor-worker starts");
    (id, worker)
}

async fn stop(mut worker: Child) {
    signal(&worker, "TERM").await;
    let ended = tokio::time::timeout(fleet::slowly(Duration::from_mins(1)), worker.wait()).await;
    assert!(ended.expect("it ends").expect("waited").success());
}
