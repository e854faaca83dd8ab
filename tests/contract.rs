//! What services and subscribers build on besides the verdicts: encodings, ids, events, questions, and what a program finds.

mod fleet;

use std::time::Duration;

use async_nats::HeaderMap;
use envicutor::{
    bus::publish::PublishError,
    client::{ClientError, Status},
    submission::{
        encoding::Encoding,
        message::{Submission, Test},
        names::{Lane, SubmissionId, Tenant},
        result::{SubmissionResult, Verdict},
    },
};
use fleet::{Fleet, eventually, publish, publish_with};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

/// More than a cold start on a busy machine.
const LONG: Duration = Duration::from_mins(2);

async fn next(subscription: &mut async_nats::Subscriber) -> async_nats::Message {
    let message = timeout(LONG, subscription.next()).await;
    message
        .expect("a message comes")
        .expect("the subscription lasts")
}

#[tokio::test(flavor = "multi_thread")]
async fn messagepack_in_messagepack_out() {
    let fleet = Fleet::start().await;
    let client = fleet.connect().await;
    let mut results = client
        .subscribe("envicutor.results.default.packed")
        .await
        .expect("subscribed");
    let submission = Submission::new("python".parse().expect("valid"))
        .source("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])")
        .test(Test::new(&b"\xff\x00a"[..]).expecting(&b"a\x00\xff"[..]));
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/msgpack");
    let body = Encoding::MessagePack
        .encode(&submission)
        .expect("it can be encoded");
    publish_with(&client, "batch", "packed", headers, body)
        .await
        .expect("the publish is acknowledged");

    let message = next(&mut results).await;
    let headers = message.headers.expect("headers");
    assert_eq!(
        headers.get("Content-Type").expect("a type").as_str(),
        "application/msgpack"
    );
    let result: SubmissionResult = Encoding::MessagePack
        .decode(&message.payload)
        .expect("MessagePack");
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:?}");
    assert_eq!(result.runs[0].stdout.data, b"a\x00\xff");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_whose_result_stands_is_not_run_again() {
    let fleet = Fleet::start().await;
    let client = fleet.connect().await;
    let operator = fleet::connect(&fleet.operator).await;
    let mut results = client
        .subscribe("envicutor.results.default.same")
        .await
        .expect("subscribed");
    let mut letters = operator
        .subscribe("envicutor.dead.default.same")
        .await
        .expect("subscribed");
    let body = |word: &str| {
        json!({"runtime": "bash", "files": [{"text": format!("echo {word}")}]}).to_string()
    };
    publish(&client, "interactive", "same", body("first"))
        .await
        .expect("stored");
    let first = next(&mut results).await.payload;

    // Queued again as soon as the first message is gone; the same content is dropped, other content is a dead letter.
    for word in ["first", "second"] {
        eventually("the id is free again", LONG, || async {
            publish(&client, "interactive", "same", body(word))
                .await
                .is_ok()
        })
        .await;
    }
    let letter: Value = serde_json::from_slice(&next(&mut letters).await.payload).expect("JSON");
    assert_eq!(letter["reason"]["code"], "id_reused", "{letter:#}");
    assert!(
        letter["submission"]["text"]
            .as_str()
            .is_some_and(|body| body.contains("second"))
    );
    let standing = async_nats::jetstream::new(operator)
        .get_stream("RESULTS")
        .await
        .expect("the stream is there")
        .get_last_raw_message_by_subject("envicutor.results.default.same")
        .await
        .expect("the result stands");
    assert_eq!(standing.payload, first);

    let service = envicutor::Client::connect(&fleet.service)
        .await
        .expect("connected");
    let (tenant, id) = (Tenant::default_tenant(), "same".parse().expect("valid"));
    let status = service
        .status(&tenant, &id)
        .await
        .expect("a service may ask");
    assert!(matches!(status, Status::Finished { .. }), "{status:?}");
    let other = "other".parse().expect("valid");
    let status = service.status(&tenant, &other).await;
    assert_eq!(status.expect("a service may ask"), Status::Unknown);

    let hello = Submission::new("bash".parse().expect("valid")).source("echo hello");
    // The id is free once the message is acknowledged, a moment after the result.
    let submit = async |id: Option<SubmissionId>| loop {
        let result = service.submit_and_wait(&tenant, Lane::Interactive, id.clone(), &hello);
        let result = timeout(LONG, result).await.expect("in time");
        if !matches!(
            result,
            Err(ClientError::Publish(PublishError::StillQueued { .. }))
        ) {
            return result;
        }
    };
    let new = submit(None).await.expect("it ran");
    let id = new.id.parse().expect("valid");
    assert_eq!(submit(Some(id)).await.expect("it stands"), new);
    let used = submit(Some("same".parse().expect("valid"))).await;
    assert!(
        matches!(used, Err(ClientError::OtherContent { .. })),
        "{used:?}"
    );
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_happens_in_order() {
    let fleet = Fleet::start().await;
    let client = fleet.connect().await;
    let mut events = client
        .subscribe("envicutor.events.default.told.>")
        .await
        .expect("subscribed");
    let submission = json!({
        "runtime": "c", "events": "output", "labels": {"course": "cs101"},
        "files": [{"text": "#include <stdio.h>\nint main() { puts(\"hello\"); }"}],
    });
    publish(&client, "interactive", "told", submission.to_string())
        .await
        .expect("stored");

    let mut seen = Vec::new();
    while seen.len() < 6 {
        let event: Value = serde_json::from_slice(&next(&mut events).await.payload).expect("JSON");
        assert_eq!(event["sequence"], seen.len(), "{event:#}");
        assert_eq!(event["labels"]["course"], "cs101");
        if event["kind"] == "output" {
            assert_eq!(event["text"], "hello\n", "{event:#}");
        }
        let word = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        seen.push(format!("{} {}", word("kind"), word("stage")));
    }
    let expected = [
        "started ",
        "stage_started compile",
        "stage_ended compile",
        "stage_started run",
        "output run",
        "stage_ended run",
    ];
    assert_eq!(seen, expected);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_may_ask_for_the_runtimes_and_the_limits() {
    let fleet = Fleet::start().await;
    let client = fleet.connect().await;
    let ask = |subject: &'static str| {
        let client = client.clone();
        async move {
            let answer = timeout(LONG, client.request(subject, "".into())).await;
            let payload = answer.expect("in time").expect("answered").payload;
            serde_json::from_slice::<Value>(&payload).expect("JSON")
        }
    };
    let runtimes = ask("envicutor.info.runtimes").await;
    let names: Vec<&str> = runtimes["runtimes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|runtime| runtime["name"].as_str())
        .collect();
    for name in ["bash", "c", "cpp", "python"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(ask("envicutor.info.limits").await["limits"]["memory_bytes"].is_u64());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_finds_the_build_and_nothing_of_the_runs_before() {
    let fleet = Fleet::start().await;
    let look = "ls -A . /tmp /dev/shm; cat built; echo trace > mine; echo trace > /tmp/t; echo trace > /dev/shm/s; \
                echo changed > built; chmod 000 built";
    let submission = json!({
        "runtime": "bash",
        "files": [{"path": "main.sh", "text": look}],
        "compile": {"command": ["/bin/bash", "-c", "echo from the build > built; echo x > /tmp/left"]},
        "tests": [{}, {}, {}],
    });
    let result = fleet.run_all(vec![submission]).await.remove(0);
    assert_eq!(result["verdict"], "ok", "{result:#}");
    let runs = result["runs"].as_array().expect("runs");
    let expected = ".:\nbuilt\nmain.sh\n\n/dev/shm:\n\n/tmp:\nfrom the build\n";
    for (index, run) in runs.iter().enumerate() {
        assert_eq!(run["stdout"]["text"], expected, "run {index}");
    }
    fleet.stop().await;
}
