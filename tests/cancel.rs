//! A submission that is cancelled, queued or running, ends in one result that says so, and leaves the queue; whoever asks is told
//! what it is, as often as they ask.

mod fleet;

use std::time::Duration;

use async_nats::HeaderMap;
use envicutor::{
    bus::{Role, withdraw::Withdrawal},
    client::ClientError,
    submission::{cancellation::Cancelled, encoding::Encoding, names::Lane},
};
use fleet::{
    eventually,
    messages::{DEADLINE, id, publish as publish_small, result, settle, tenant},
    nats::TestNats,
    publish, publish_with,
    site::{LONG, Site, all_results, begin, cancel, next_result, python, results},
};
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};

/// The result that stands.
async fn standing(site: &Site, id: &str) -> Option<Value> {
    let bus = site.nats.bus(Role::Service).await;
    let subject = format!("envicutor.results.default.{id}");
    let stored = bus.get_last("RESULTS", &subject).await.expect("asked");
    bus.close().await;
    stored.map(|stored| serde_json::from_slice(&stored.body).expect("JSON"))
}

/// Whether a process of this machine has `marker` in its command line.
fn runs(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc can be read");
    processes.flatten().any(|process| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(marker)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_submission_leaves_both_lanes_and_its_id_stays_used() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let worker = site.ready_worker("w", &[]).await;
    let cordoned = site.cli(&["worker", "cordon", &worker.id]).await;
    assert!(cordoned.status.success(), "{cordoned:?}");
    let body = python("print('never')").to_string();
    for lane in ["interactive", "batch"] {
        publish(&client, lane, "q1", body.as_str())
            .await
            .expect("published");
    }
    assert_eq!(cancel(&client, "q1").await, "cancelled");
    assert_eq!(site.queued().await, 0);
    assert_eq!(cancel(&client, "q1").await, "cancelled");

    let result = next_result(&mut heard).await;
    assert_eq!(result["outcome"], "cancelled", "{result:#}");
    assert_eq!(
        (&result["id"], &result["generation"], &result["worker"]),
        (&json!("q1"), &json!(0), &json!(worker.id))
    );

    // The same again runs nothing; another content is dead. Either way the result stays.
    let uncordoned = site.cli(&["worker", "uncordon", &worker.id]).await;
    assert!(uncordoned.status.success(), "{uncordoned:?}");
    publish(&client, "interactive", "q1", body)
        .await
        .expect("published");
    site.is_drained().await;
    assert_eq!(site.messages_in("DEAD_LETTERS").await, 0);
    publish(&client, "interactive", "q1", python("other").to_string())
        .await
        .expect("published");
    site.is_drained().await;
    assert_eq!(site.messages_in("DEAD_LETTERS").await, 1);
    assert_eq!(standing(&site, "q1").await, Some(result));
    worker.stop().await;
    assert!(heard.next().now_or_never().is_none(), "a second result");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_submission_is_killed_at_once_and_the_next_one_runs() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let worker = site.ready_worker("w", &[]).await;
    let marker = format!("marked-{}", worker.id);
    let source = "import time\nwhile True: time.sleep(1)";
    let submission = json!({
        "runtime": "python", "files": [{"path": format!("{marker}.py"), "text": source}],
        "run": {"limits": {"wall_time_us": 60_000_000}}, "labels": {"course": "cs101"},
    });
    begin(&client, "r1", &submission).await;
    eventually("it runs", DEADLINE, || async { runs(&marker) }).await;

    let asked = std::time::Instant::now();
    assert_eq!(cancel(&client, "r1").await, "cancelled");
    eventually("it is killed", DEADLINE, || async { !runs(&marker) }).await;
    println!("killed {:?} after it was asked for", asked.elapsed());
    let result = next_result(&mut heard).await;
    assert_eq!(result["outcome"], "cancelled", "{result:#}");
    assert_eq!(result["attempt"], 1);
    assert_eq!(result["labels"], json!({"course": "cs101"}));
    assert_eq!(site.queued().await, 0);
    eventually("the worker runs nothing", LONG, || async {
        let entry = site.entry(&worker.id).await.expect("it is there");
        entry["running"] == json!([])
    })
    .await;

    publish(&client, "batch", "r2", python("print(6 * 7)").to_string())
        .await
        .expect("published");
    let next = next_result(&mut heard).await;
    assert_eq!(
        (&next["id"], &next["verdict"]),
        (&json!("r2"), &json!("ok")),
        "{next:#}"
    );
    assert_eq!(cancel(&client, "r2").await, "finished");
    assert_eq!(standing(&site, "r2").await, Some(next));
    worker.stop().await;
    assert!(heard.next().now_or_never().is_none(), "a second result");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_memory_gives_its_place_back() {
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let memory = [
        ("ENVICUTOR__WORKER__SLOTS", "2"),
        ("ENVICUTOR__WORKER__MEMORY_BYTES", "1032MiB"),
    ];
    let worker = site.ready_worker("w", &memory).await;
    let sized = |source: &str, mib: u64| {
        let mut submission = python(source);
        submission["run"]["limits"]["memory_bytes"] = json!(mib << 20);
        submission
    };
    begin(&client, "holds", &sized("import time; time.sleep(50)", 128)).await;
    let large = sized("print('never')", 1_024).to_string();
    publish(&client, "interactive", "waits", large)
        .await
        .expect("published");
    let bus = site.nats.bus(Role::Operator).await;
    eventually("it is in the worker's hands", LONG, || async {
        let info: Value = bus
            .api(
                "CONSUMER.INFO.SUBMISSIONS_default.interactive",
                &Value::Null,
            )
            .await
            .expect("asked");
        info["num_ack_pending"] == 2
    })
    .await;
    assert_eq!(cancel(&client, "waits").await, "cancelled");
    let small = sized("print('here')", 128).to_string();
    publish(&client, "interactive", "small", small)
        .await
        .expect("published");
    let cancelled = next_result(&mut heard).await;
    assert_eq!(
        (&cancelled["id"], &cancelled["outcome"]),
        (&json!("waits"), &json!("cancelled"))
    );
    let ran = next_result(&mut heard).await;
    assert_eq!(
        (&ran["id"], &ran["verdict"]),
        (&json!("small"), &json!("ok"))
    );
    assert_eq!(cancel(&client, "holds").await, "cancelled");
    worker.stop().await;
    assert_eq!(site.queued().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellations_that_race_settlements_agree_with_the_one_result() {
    const COUNT: usize = 90;
    let site = Site::start().await;
    let client = site.service().await;
    let mut heard = results(&client).await;
    let worker = site
        .ready_worker("w", &[("ENVICUTOR__WORKER__SLOTS", "2")])
        .await;
    let body = json!({"runtime": "bash", "files": [{"text": "echo"}]}).to_string();
    let mut asked = Vec::new();
    for n in 0..COUNT {
        let client = client.clone();
        let subject = format!("envicutor.events.default.race{n}.stage_ended");
        let mut ended = client.subscribe(subject).await.expect("subscribed");
        publish(&client, "interactive", &format!("race{n}"), body.as_str())
            .await
            .expect("published");
        asked.push(tokio::spawn(async move {
            // Some while they are queued or in a worker's hands, some just when they are to be settled.
            match n % 3 {
                0 => tokio::time::sleep(Duration::from_millis(n as u64 * 20)).await,
                _ => drop(ended.next().await),
            }
            cancel(&client, &format!("race{n}")).await
        }));
    }
    let found = all_results(&mut heard, COUNT).await;
    let mut cancelled = 0;
    for (n, asked) in asked.into_iter().enumerate() {
        let state = asked.await.expect("answered");
        let result = &found[&format!("race{n}")];
        assert_eq!(result["outcome"], state, "{result:#}");
        cancelled += usize::from(state == "cancelled");
    }
    println!("{cancelled} of {COUNT} were cancelled");
    assert!((1..COUNT).contains(&cancelled), "there was no race");
    site.is_drained().await;
    worker.stop().await;
    assert!(heard.next().now_or_never().is_none(), "a second result");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_published_is_unknown_and_nothing_is_stored() {
    let site = Site::start().await;
    let client = site.service().await;
    let worker = site.ready_worker("w", &[]).await;
    let streams = ["RESULTS", "DEAD_LETTERS", "EVENTS", "KV_attempts"];
    for id in ["never", "no.such", "*", ">", "a b"] {
        let subject = format!("envicutor.cancel.default.{id}");
        // What is no id reaches nobody, or is unknown.
        if let Ok(answer) = client.request(subject, "".into()).await {
            assert_eq!(&answer.payload[..], br#"{"state":"unknown"}"#, "{id}");
        }
    }
    let nobody = client
        .request("envicutor.cancel.nobody.a1", "".into())
        .await;
    let nobody = nobody.expect("answered");
    assert_eq!(&nobody.payload[..], br#"{"state":"unknown"}"#);
    for stream in streams {
        assert_eq!(site.messages_in(stream).await, 0, "{stream}");
    }
    let told = site.cli(&["cancel", "never"]).await;
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert_eq!(told.stdout, b"unknown\n");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_needs_no_worker_and_a_service_is_told_that_there_is_none() {
    let site = Site::start().await;
    let client = site.service().await;
    let body = python("print('never')").to_string();
    publish(&client, "batch", "down", body)
        .await
        .expect("published");
    let service = envicutor::Client::connect(&site.nats.url(Role::Service))
        .await
        .expect("connected");
    let refused = service.cancel(&tenant(), &id("down")).await;
    assert!(matches!(refused, Err(ClientError::NoWorker)), "{refused:?}");

    for (command, code, said) in [
        (&["cancel", "down"][..], 0, "cancelled\n"),
        (
            &["cancel", "down", "--json"],
            0,
            "{\"state\":\"cancelled\"}\n",
        ),
        (&["cancel", "down", "--tenant", "other"], 1, "unknown\n"),
        (&["status", "down"], 0, "cancelled\n"),
        (&["result", "down"], 3, "outcome    cancelled\n"),
    ] {
        let told = site.cli(command).await;
        assert_eq!(told.status.code(), Some(code), "{command:?}: {told:?}");
        assert_eq!(told.stdout, said.as_bytes(), "{command:?}");
    }
    assert_eq!(site.queued().await, 0);
    let result = standing(&site, "down").await.expect("it stands");
    assert_eq!(result["worker"], "operator");
}

#[tokio::test]
async fn a_replay_is_cancelled_as_the_generation_that_it_is() {
    let nats = TestNats::start().await;
    let (operator, worker) = (nats.bus(Role::Operator).await, nats.bus(Role::Worker).await);
    settle(&worker, &result("again", 0, "w1"), Encoding::Json).await;
    let mut headers = HeaderMap::new();
    headers.insert("Envicutor-Generation", "1");
    publish_with(&operator.client, "batch", "again", headers, b"{}".into())
        .await
        .expect("published");
    let withdrawal = Withdrawal {
        bus: &worker,
        by: "w2",
        patience: DEADLINE,
    };
    let state = withdrawal.cancel(&tenant(), &id("again")).await;
    assert_eq!(state.expect("asked"), Cancelled::Cancelled);
    let standing = envicutor::bus::results::Results::new(&worker)
        .standing(&tenant(), "again")
        .await
        .expect("asked")
        .expect("it stands");
    assert_eq!(
        (standing.result.generation, standing.result.worker.as_str()),
        (1, "w2")
    );
}

#[tokio::test]
async fn one_in_a_workers_hands_or_handed_back_with_a_delay_leaves_the_queue_too() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    let mut puller = envicutor::bus::queue::Puller::new(&worker)
        .await
        .expect("a puller");
    let withdrawal = Withdrawal {
        bus: &worker,
        by: "w1",
        patience: DEADLINE,
    };
    for (name, delay) in [("held", None), ("delayed", Some(Duration::from_mins(1)))] {
        publish_small(&service, Lane::Batch, name)
            .await
            .expect("published");
        let delivery = fleet::messages::pull(&mut puller, Lane::Batch).await;
        if let Some(delay) = delay {
            delivery.hand_back(delay).await.expect("handed back");
        }
        let state = withdrawal.cancel(&tenant(), &id(name)).await;
        assert_eq!(state.expect("asked"), Cancelled::Cancelled);
        let queued = envicutor::bus::queue::find_queued(&worker, &tenant(), &id(name)).await;
        assert!(queued.expect("asked").is_none(), "{name}");
        // What its holder says of it then changes nothing.
        delivery.ack().await.expect("answered");
    }
    let info: Value = worker
        .api("CONSUMER.INFO.SUBMISSIONS_default.batch", &Value::Null)
        .await
        .expect("asked");
    assert_eq!(
        (&info["num_pending"], &info["num_ack_pending"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn what_was_settled_before_stays_and_what_was_cancelled_before_is_swept() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    let withdrawal = Withdrawal {
        bus: &worker,
        by: "w1",
        patience: DEADLINE,
    };
    // Its worker settled it and is about to acknowledge: the message is its own to take away.
    publish_small(&service, Lane::Batch, "done")
        .await
        .expect("published");
    settle(&worker, &result("done", 0, "w9"), Encoding::Json).await;
    let state = withdrawal.cancel(&tenant(), &id("done")).await;
    assert_eq!(state.expect("asked"), Cancelled::Finished);
    let queued = envicutor::bus::queue::find_queued(&worker, &tenant(), &id("done")).await;
    assert!(queued.expect("asked").is_some());

    // Whoever cancelled it died before the purge.
    publish_small(&service, Lane::Batch, "half")
        .await
        .expect("published");
    let mut cancelled = result("half", 0, "w9");
    cancelled.outcome = envicutor::submission::result::Outcome::Cancelled;
    cancelled.submission_digest = envicutor::submission::names::Digest::of(b"{\"id\":\"half\"}");
    settle(&worker, &cancelled, Encoding::Json).await;
    let state = withdrawal.cancel(&tenant(), &id("half")).await;
    assert_eq!(state.expect("asked"), Cancelled::Cancelled);
    let queued = envicutor::bus::queue::find_queued(&worker, &tenant(), &id("half")).await;
    assert!(queued.expect("asked").is_none());
}

#[tokio::test]
async fn the_letter_of_a_worker_that_died_before_it_settled_goes_with_the_cancellation() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    publish_small(&service, Lane::Batch, "dying")
        .await
        .expect("published");
    let letter = |body: &str, generation: u64| {
        let letter = json!({
            "tenant": "default", "id": "dying", "generation": generation, "lane": "batch", "attempts": [],
            "reason": {"code": "container", "message": "m", "stage": "run"}, "log_tail": [], "labels": {},
            "submission": {"content_type": null, "headers": {}, "text": body}, "dead_at": "2030-01-01T00:00:00Z",
        });
        Encoding::Json
            .decode::<envicutor::submission::dead_letter::DeadLetter>(letter.to_string().as_bytes())
            .expect("a letter")
    };
    let letters = envicutor::bus::dead_letters::DeadLetters::new(&worker);
    // Its own, and one of an older submission that had the same id.
    let own = letter("{\"id\":\"dying\"}", 0);
    let own = letters.publish(&own, Encoding::Json).await.expect("stored");
    let other = letter("{\"id\":\"other\"}", 1);
    let other = letters.publish(&other, Encoding::Json).await;
    let withdrawal = Withdrawal {
        bus: &worker,
        by: "w1",
        patience: DEADLINE,
    };
    let state = withdrawal.cancel(&tenant(), &id("dying")).await;
    assert_eq!(state.expect("asked"), Cancelled::Cancelled);
    assert_eq!(letters.read(own).await.expect("asked"), None);
    let other = letters.read(other.expect("stored")).await.expect("asked");
    assert!(other.is_some());
}
