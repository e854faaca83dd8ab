//! What is replayed runs once more, exactly once: dead letters by the thousand, and submissions that are over in whatever way.
//! With a real nats-server, real workers and real containers.
//!
//! `ENVICUTOR_TEST_LETTERS=5000 cargo test --test replay -- dead_letters` replays so many.

mod fleet;

use std::{
    collections::HashMap,
    process::Stdio,
    time::{Duration, Instant},
};

use envicutor::{
    bus::{
        Bus, Role, queue,
        results::Results,
        withdraw::{Queued, Withdrawal},
    },
    config::Nats,
    submission::{
        encoding::Encoding,
        names::{Digest, Lane, SubmissionId},
        result::{Outcome, Verdict},
        units::{ByteSize, Micros},
    },
};
use fleet::{
    Fleet,
    letters::{bury, letter, published},
    nats::TestNats,
    operator::Operator,
};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    task::unconstrained,
    time::timeout,
};

/// More than a redelivery and a cold start on a busy machine.
const LONG: Duration = Duration::from_mins(2);

/// A worker as a process of its own, on a NATS of the test's.
fn worker(nats: &TestNats, id: &str, env: &[(&str, &str)]) -> Child {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_envicutor-worker"))
        .env("ENVICUTOR__DATA_DIR", nats.data_dir())
        .env("ENVICUTOR__NATS__URL", nats.url(Role::Worker))
        .env("ENVICUTOR__NATS__ACK_WAIT_US", "2s")
        .env("ENVICUTOR__WORKER__ID", id)
        .env("ENVICUTOR__WORKER__DRAIN_GRACE_US", "5s")
        .envs(env.iter().copied())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("envicutor-worker starts")
}

fn unique(name: &str) -> String {
    format!("{name}-{}", &SubmissionId::generate().as_str()[24..])
}

async fn stop(mut worker: Child) {
    fleet::signal(&worker, "TERM").await;
    let status = timeout(LONG, worker.wait())
        .await
        .expect("it ends")
        .expect("waited");
    assert!(status.success(), "{status}");
}

fn letters() -> usize {
    let letters = std::env::var("ENVICUTOR_TEST_LETTERS");
    letters.map_or(300, |it| it.parse().expect("a number"))
}

/// How often each id is named by the subject of what has come.
fn count(mut messages: async_nats::Subscriber) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    // Whatever has come is taken, however much.
    while let Some(Some(message)) = unconstrained(messages.next()).now_or_never() {
        let id = message.subject.split('.').nth(3).expect("an id").to_owned();
        *counts.entry(id).or_default() += 1;
    }
    counts
}

/// Reads `outcome` lines of a replay until `enough` came, or it ended; returns the batch and how many were replayed.
async fn read(replay: &mut Child, enough: usize) -> (Option<String>, usize) {
    let mut lines = BufReader::new(replay.stdout.as_mut().expect("piped")).lines();
    let (mut batch, mut replayed) = (None, 0);
    while replayed < enough {
        let line = timeout(fleet::slowly(LONG), lines.next_line())
            .await
            .expect("it goes on");
        let Some(line) = line.expect("readable") else {
            break;
        };
        let line: Value = serde_json::from_str(&line).expect("JSON");
        match line["outcome"].as_str() {
            Some(outcome) => {
                assert_eq!(outcome, "replayed", "{line}");
                replayed += 1;
            }
            None => batch = line["batch"].as_str().map(str::to_owned),
        }
    }
    (batch, replayed)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_are_replayed_with_edited_limits_and_interrupted_half_way_run_once_more_exactly_once()
 {
    let letters = letters();
    // Every result and event of this run is to be counted.
    let nats = TestNats::start_with(|config| {
        config.nats.ack_wait_us = Micros(2_000_000);
        config.nats.event_bytes = ByteSize(512 << 20);
    })
    .await;
    let (bus, rights) = (nats.bus(Role::Operator).await, nats.bus(Role::Worker).await);
    // With its own limit none of them could run.
    let body = |n: usize| {
        json!({
            "runtime": "bash", "files": [{"text": format!("echo {n}")}],
            "run": {"limits": {"memory_bytes": 16_384}}
        })
        .to_string()
    };
    stream::iter(0..letters)
        .map(|n| (letter(&format!("a{n}"), body(n)), &rights))
        .for_each_concurrent(32, async |(letter, rights)| {
            bury(rights, &letter).await;
        })
        .await;

    let started = listen(&nats, "envicutor.events.default.*.started").await;
    let results = listen(&nats, "envicutor.results.default.*").await;
    let name = unique("replays");
    let worker = worker(&nats, &name, &[]);
    let operator = Operator::new(&nats.url(Role::Operator));
    let begun = Instant::now();
    let set = ["--set", "run.limits.memory_bytes=64MiB"];
    let mut replay =
        operator.start(&[&["dead", "replay", "--all", "--yes", "--json"], &set[..]].concat());
    let (batch, first) = read(&mut replay, letters / 2).await;
    replay.kill().await.expect("SIGKILL is sent");
    let batch = batch.expect("the batch came first");
    let left = operator.json(&["dead", "ls", "--json"]).await.len();
    assert!(
        left > 0 && first >= letters / 2,
        "{left} of {letters} are left"
    );

    let mut resumed = operator.start(&["dead", "replay", "--resume", &batch, "--json"]);
    let (_, second) = read(&mut resumed, usize::MAX).await;
    assert!(resumed.wait().await.expect("waited").success());
    let replayed_in = begun.elapsed();
    assert!(
        operator.json(&["dead", "ls", "--json"]).await.is_empty(),
        "every letter was taken away"
    );

    wait_until_the_queue_is_empty(&bus).await;
    println!(
        "{letters} letters: {first} told before the kill, {left} left then, {second} told after it; replayed in {replayed_in:?}, run in {:?}",
        begun.elapsed()
    );
    stop(worker).await;
    let (started, results) = (count(started), count(results));
    let read = Results::new(&bus);
    for n in 0..letters {
        let id = format!("a{n}");
        let result = read
            .read(&fleet::messages::tenant(), &id)
            .await
            .expect("read");
        let result = result.expect("a result").result;
        assert_eq!((result.generation, result.attempt), (1, 1), "{id}");
        assert_eq!(result.verdict, Some(Verdict::Ok), "{id}");
        assert_eq!(
            result.runs[0].stdout.data,
            format!("{n}\n").into_bytes(),
            "{id}"
        );
        assert_eq!(started.get(&id), Some(&1), "{id} started once");
        assert_eq!(results.get(&id), Some(&1), "{id} has one result more");
    }
    assert_eq!(
        published(&bus).await,
        letters as u64,
        "each was published once"
    );
    assert_eq!((started.len(), results.len()), (letters, letters));
    assert!(fleet::containers_of(&name).await.is_empty());
}

/// A subscription that holds whatever comes.
async fn listen(nats: &TestNats, subject: &str) -> async_nats::Subscriber {
    let (user, password) = nats.login(Role::Service);
    let options = async_nats::ConnectOptions::with_user_and_password(user, password)
        .subscription_capacity(1 << 20);
    let client = options.connect(nats.address()).await.expect("connected");
    let subscriber = client
        .subscribe(subject.to_owned())
        .await
        .expect("subscribed");
    client.flush().await.expect("flushed");
    subscriber
}

async fn wait_until_the_queue_is_empty(bus: &Bus) {
    fleet::eventually("every replay has run", fleet::FIRST_USE, async || {
        let info: Value = bus
            .api("STREAM.INFO.SUBMISSIONS_default", &Value::Null)
            .await
            .expect("asked");
        info["state"]["messages"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_lost_its_worker_is_replayed_from_its_letter() {
    let nats = TestNats::start_with(|config| {
        let Nats { ack_wait_us, .. } = &mut config.nats;
        ack_wait_us.0 = 2_000_000;
    })
    .await;
    let operator = Operator::new(&nats.url(Role::Operator));
    let client = fleet::connect(&nats.url(Role::Service)).await;
    let mut results = client
        .subscribe("envicutor.results.default.deadly")
        .await
        .expect("subscribed");
    let mut begun = client
        .subscribe("envicutor.events.default.deadly.stage_started")
        .await
        .expect("subscribed");
    let source = "import time; time.sleep(50)";
    let limits = json!({"wall_time_us": 60_000_000});
    let submission = json!({"runtime": "python", "files": [{"text": source}], "run": {"limits": limits}, "labels": {"course": "cs101"}});
    fleet::publish(&client, "interactive", "deadly", submission.to_string())
        .await
        .expect("published");
    let once = [("ENVICUTOR__WORKER__MAX_ATTEMPTS", "1")];
    let mut victim = worker(&nats, &unique("victim"), &once);
    timeout(fleet::FIRST_USE, begun.next())
        .await
        .expect("it starts");
    victim.kill().await.expect("SIGKILL is sent");
    let survivor = worker(&nats, &unique("survivor"), &once);
    let failed = timeout(LONG, results.next())
        .await
        .expect("a result comes")
        .expect("the subscription lasts");
    let failed: Value = serde_json::from_slice(&failed.payload).expect("JSON");
    assert_eq!(
        (&failed["outcome"], &failed["failure"]["code"]),
        (&json!("failed"), &json!("worker_lost"))
    );

    let listed = operator
        .json(&[
            "dead",
            "ls",
            "--json",
            "--label",
            "course=cs101",
            "--reason",
            "worker_lost",
        ])
        .await;
    let sequence = listed[0]["sequence"].to_string();
    let shown = operator.run(&["dead", "show", &sequence]).await.stdout;
    assert!(shown.contains("the worker was lost"), "{shown}");
    let again = [
        "replay",
        "deadly",
        "--set",
        "files[0].text=print('again')",
        "--lane",
        "batch",
        "--wait",
        "--json",
    ];
    let lines = operator.json(&again).await;
    assert_eq!(
        (&lines[0]["generation"], &lines[0]["lane"]),
        (&json!(1), &json!("batch"))
    );
    let result = &lines[1];
    assert_eq!(
        (&result["generation"], &result["verdict"]),
        (&json!(1), &json!("ok")),
        "{result:#}"
    );
    assert_eq!(result["runs"][0]["stdout"]["text"], "again\n");
    assert_eq!(
        result["submission_digest"], failed["submission_digest"],
        "what the service published"
    );
    assert!(operator.json(&["dead", "ls", "--json"]).await.is_empty());
    let heard = timeout(LONG, results.next())
        .await
        .expect("a result comes")
        .expect("the subscription lasts");
    let heard: Value = serde_json::from_slice(&heard.payload).expect("JSON");
    assert_eq!(&heard, result, "a subscriber hears of the new generation");
    stop(survivor).await;
    client.flush().await.expect("flushed");
    assert!(
        results.next().now_or_never().is_none(),
        "one result for each generation"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_submission_runs_again_as_often_as_it_is_replayed() {
    let fleet = Fleet::start().await;
    let (client, operator) = (fleet.connect().await, Operator::new(&fleet.operator));
    let submission = json!({"runtime": "python", "files": [{"text": "print(input())"}], "run": {"stdin": "one"}}).to_string();
    fleet::publish(&client, "interactive", "over", submission.clone())
        .await
        .expect("published");
    let result = async |generation: u64| {
        fleet::eventually("a result", LONG, async || {
            let status = operator.json(&["status", "over", "--json"]).await.remove(0);
            status["state"] == "finished" && status["result"]["generation"] == generation
        })
        .await;
        operator.json(&["result", "over", "--json"]).await.remove(0)
    };
    let zero = result(0).await;
    assert_eq!(zero["runs"][0]["stdout"]["text"], "one\n");

    let lines = operator.json(&["replay", "over", "--wait", "--json"]).await;
    assert_eq!(lines[1]["runs"][0]["stdout"]["text"], "one\n", "{lines:?}");
    let lines = operator
        .json(&[
            "replay",
            "over",
            "--wait",
            "--json",
            "--set",
            "run.stdin=two",
        ])
        .await;
    assert_eq!(
        lines[0]["changes"],
        json!([{"path": "run.stdin", "from": "one", "to": "two"}])
    );
    let two = result(2).await;
    assert_eq!(two["runs"][0]["stdout"]["text"], "two\n");
    assert_eq!(two["submission_digest"], zero["submission_digest"]);
    // The third begins with what ran last.
    let lines = operator.json(&["replay", "over", "--wait", "--json"]).await;
    assert_eq!(
        (
            &lines[1]["generation"],
            &lines[1]["runs"][0]["stdout"]["text"]
        ),
        (&json!(3), &json!("two\n"))
    );
    let status = operator.run(&["status", "over"]).await.stdout;
    assert_eq!(status.trim_end(), "finished: ok, generation 3");

    // Its service publishes it once more: known, so nothing runs; and another one under its id is told apart.
    let other = submission.replace("one", "other");
    for (body, letters) in [(submission, 0), (other, 1)] {
        fleet::publish(&client, "interactive", "over", body)
            .await
            .expect("published");
        fleet::eventually("it is acknowledged", LONG, async || {
            let queued = client.request("$JS.API.DIRECT.GET.SUBMISSIONS_default.envicutor.submissions.default.interactive.over", "".into()).await;
            queued.expect("asked").status == Some(async_nats::StatusCode::NOT_FOUND)
        })
        .await;
        let letters_now = operator.json(&["dead", "ls", "--json"]).await;
        assert_eq!(letters_now.len(), letters, "{letters_now:?}");
        assert_eq!(result(3).await["runs"][0]["stdout"]["text"], "two\n");
    }
    let lines = operator.json(&["replay", "over", "--wait", "--json"]).await;
    assert_eq!(
        lines[1]["runs"][0]["stdout"]["text"], "two\n",
        "its own body, not the other one's"
    );
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_submission_runs_once_its_mistake_is_mended() {
    let fleet = Fleet::start().await;
    let (client, operator) = (fleet.connect().await, Operator::new(&fleet.operator));
    let submission = json!({"runtime": "python", "files": [{"text": "print(1)"}], "run": {"limits": {"memory_bytes": 1_u64 << 40}}});
    fleet::publish(&client, "interactive", "wrong", submission.to_string())
        .await
        .expect("published");
    fleet::eventually("it is rejected", LONG, async || {
        operator
            .run(&["result", "wrong"])
            .await
            .stdout
            .contains("run.limits.memory_bytes")
    })
    .await;
    let again = operator.run(&["replay", "wrong", "--wait"]).await;
    assert!(
        again.code == 2 && again.stdout.contains("rejected"),
        "{again:?}"
    );
    let mended = operator
        .run(&[
            "replay",
            "wrong",
            "--wait",
            "--set",
            "run.limits.memory_bytes=64MiB",
        ])
        .await;
    assert!(
        mended.code == 0 && mended.stdout.contains("generation 2"),
        "{mended:?}"
    );
    let refused = operator
        .run(&["replay", "wrong", "--set", "run.limits.memory=1"])
        .await;
    assert!(
        refused.code == 2 && refused.stderr.contains("unknown field"),
        "{refused:?}"
    );
    fleet.stop().await;
}

#[tokio::test]
async fn what_was_cancelled_or_expired_in_its_queue_can_be_replayed() {
    let nats = TestNats::start().await;
    let (bus, rights) = (nats.bus(Role::Operator).await, nats.bus(Role::Worker).await);
    let operator = Operator::new(&nats.url(Role::Operator));
    let body = |expires_at: Value| {
        let submission =
            json!({"runtime": "bash", "files": [{"text": "echo 1"}], "expires_at": expires_at});
        submission.to_string().into_bytes()
    };
    let (tenant, lane) = (fleet::messages::tenant(), Lane::Batch);
    let past = "2026-01-02T03:04:05Z";
    for (name, expires_at) in [("cancelled", Value::Null), ("expired", past.into())] {
        fleet::messages::publish_body(&bus, &tenant, lane, name, body(expires_at))
            .await
            .expect("published");
    }
    let withdrawal = Withdrawal {
        bus: &rights,
        by: "w1",
        patience: LONG,
    };
    let id = fleet::messages::id;
    withdrawal
        .cancel(&tenant, &id("cancelled"))
        .await
        .expect("cancelled");
    let (_, stored) = queue::find_queued(&bus, &tenant, &id("expired"))
        .await
        .expect("asked")
        .expect("queued");
    let queued = Queued::of(&bus, stored).expect("a submission");
    assert!(withdrawal.expire(queued).await.expect("expired"));

    let lines = operator.json(&["replay", "cancelled", "--json"]).await;
    assert_eq!(
        (&lines[0]["generation"], &lines[0]["lane"]),
        (&json!(1), &json!("batch"))
    );
    let refused = operator.run(&["replay", "expired"]).await;
    assert!(
        refused.code == 2 && refused.stderr.contains(past),
        "{refused:?}"
    );
    let again = ["replay", "expired", "--json", "--set", "expires_at=null"];
    let lines = operator.json(&again).await;
    assert_eq!(
        lines[0]["changes"],
        json!([{"path": "expires_at", "from": past, "to": null}])
    );
    assert_eq!(published(&bus).await, 4);

    // A replay that is cancelled is over too, and named by what its service published.
    withdrawal
        .cancel(&tenant, &id("expired"))
        .await
        .expect("cancelled");
    let standing = Results::new(&bus).standing(&tenant, "expired").await;
    let result = standing.expect("asked").expect("there").result;
    assert_eq!((result.generation, result.outcome), (1, Outcome::Cancelled));
    assert_eq!(result.submission_digest, Digest::of(&body(past.into())));
    let lines = operator.json(&["replay", "expired", "--json"]).await;
    assert_eq!(lines[0]["generation"], 2, "{lines:?}");
}

#[tokio::test]
async fn what_cannot_be_replayed_is_said_with_the_reason() {
    let nats = TestNats::start().await;
    let (bus, rights) = (nats.bus(Role::Operator).await, nats.bus(Role::Worker).await);
    let operator = Operator::new(&nats.url(Role::Operator));
    let unknown = operator.run(&["replay", "nobody"]).await;
    assert!(
        unknown.code == 3 && unknown.stderr.contains("nothing is known"),
        "{unknown:?}"
    );

    fleet::messages::publish(&bus, Lane::Batch, "queued")
        .await
        .expect("published");
    let queued = operator.run(&["replay", "queued"]).await;
    assert!(
        queued.code == 2 && queued.stderr.contains("queued or running"),
        "{queued:?}"
    );

    let finished = fleet::messages::result("old", 0, "w");
    fleet::messages::settle(&rights, &finished, Encoding::Json).await;
    let old = operator.run(&["replay", "old"]).await;
    assert!(
        old.code == 3 && old.stderr.contains("kept for 7 days and up to 1 GiB"),
        "{old:?}"
    );
}
