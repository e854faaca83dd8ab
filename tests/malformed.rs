//! Bodies of every bad kind, published straight to the subject: each gets a `rejected` result under its id, and the worker
//! lives on.

mod fleet;

use std::{collections::HashMap, time::Duration};

use async_nats::HeaderMap;
use fleet::{Fleet, publish_with};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

/// An id, a content type, a body, and the path of an error that it must get.
type Bad = (&'static str, Option<&'static str>, Vec<u8>, &'static str);

fn with(changes: &Value) -> Vec<u8> {
    let mut submission = json!({"runtime": "python", "files": [{"text": "print(1)"}]});
    for (key, value) in changes.as_object().expect("an object") {
        submission[key] = value.clone();
    }
    submission.to_string().into_bytes()
}

/// Bodies that cannot be read as a submission.
fn unreadable() -> Vec<Bad> {
    let good = with(&json!({}));
    let deep = format!(
        "{{\"runtime\":{}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    vec![
        ("empty", None, vec![], ""),
        ("truncated", None, good[..good.len() - 3].to_vec(), ""),
        ("not_json", None, b"hello".to_vec(), ""),
        ("a_list", None, b"[]".to_vec(), ""),
        ("deep", None, deep.into_bytes(), ""),
        (
            "invalid_utf8",
            None,
            b"{\"runtime\":\"py\xff\"}".to_vec(),
            "",
        ),
        ("content_type", Some("text/plain"), good.clone(), ""),
        (
            "json_as_msgpack",
            Some("application/msgpack"),
            good.clone(),
            "",
        ),
        (
            "huge_array",
            Some("application/msgpack"),
            vec![0xdd, 0xff, 0xff, 0xff, 0xff],
            "",
        ),
    ]
}

/// Bodies that can be read, with a field that is wrong.
fn wrong_fields() -> Vec<Bad> {
    let file = |path: &str| with(&json!({"files": [{"path": path, "text": ""}]}));
    let limit = |field: &str, value: Value| with(&json!({"run": {"limits": {field: value}}}));
    vec![
        (
            "no_runtime",
            None,
            b"{\"files\":[{\"text\":\"\"}]}".to_vec(),
            "runtime",
        ),
        ("wrong_type", None, with(&json!({"runtime": 7})), "runtime"),
        (
            "unknown_runtime",
            None,
            with(&json!({"runtime": "none-such"})),
            "runtime",
        ),
        (
            "unknown_field",
            None,
            with(&json!({"colour": "red"})),
            "colour",
        ),
        ("no_files", None, with(&json!({"files": []})), "files"),
        ("escape", None, file("../../etc/passwd"), "files[0].path"),
        ("absolute", None, file("/etc/passwd"), "files[0].path"),
        ("nul", None, file("a\0b"), "files[0].path"),
        ("long", None, file(&"a".repeat(256)), "files[0].path"),
        (
            "twice",
            None,
            with(&json!({"files": [{"path": "a", "text": ""}, {"path": "a", "text": ""}]})),
            "files[1].path",
        ),
        (
            "under",
            None,
            with(&json!({"files": [{"path": "a", "text": ""}, {"path": "a/b", "text": ""}]})),
            "files[1].path",
        ),
        (
            "zero_limit",
            None,
            limit("wall_time_us", json!(0)),
            "run.limits.wall_time_us",
        ),
        (
            "huge_limit",
            None,
            limit("memory_bytes", json!(u64::MAX)),
            "run.limits.memory_bytes",
        ),
        (
            "negative",
            None,
            limit("processes", json!(-1)),
            "run.limits.processes",
        ),
        (
            "fraction",
            None,
            limit("processes", json!(1.5)),
            "run.limits.processes",
        ),
        (
            "base64",
            None,
            with(&json!({"files": [{"base64": "*"}]})),
            "files[0].base64",
        ),
        ("odd:id$+ü", None, with(&json!({})), "id"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_gets_its_rejected_result_and_the_worker_lives_on() {
    let fleet = Fleet::start().await;
    let client = fleet.connect().await;
    let mut results = client
        .subscribe("envicutor.results.default.*")
        .await
        .expect("subscribed");
    let bad = [unreadable(), wrong_fields()].concat();
    for (id, content_type, body, _) in &bad {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert("Content-Type", *content_type);
        }
        publish_with(&client, "interactive", id, headers, body.clone())
            .await
            .unwrap_or_else(|error| panic!("{id}: {error}"));
    }
    let mut found: HashMap<String, Value> = HashMap::new();
    while found.len() < bad.len() {
        let next = tokio::time::timeout(Duration::from_mins(1), results.next()).await;
        let message = next
            .unwrap_or_else(|_| panic!("only these came: {:?}", found.keys()))
            .expect("the subscription lasts");
        let id = message
            .subject
            .rsplit('.')
            .next()
            .expect("an id")
            .to_owned();
        found.insert(id, decode(&message));
    }
    for (id, _, _, path) in &bad {
        let result = &found[*id];
        assert_eq!(result["outcome"], "rejected", "{id}: {result:#}");
        assert_eq!(result["id"], *id);
        let errors = result["errors"].as_array().expect("errors");
        assert!(
            errors.iter().any(|error| error["path"] == *path),
            "{id}: no error at {path:?} in {errors:?}"
        );
    }
    let after = fleet
        .run_all(vec![
            json!({"runtime": "python", "files": [{"text": "print(1)"}]}),
        ])
        .await;
    assert_eq!(after[0]["verdict"], "ok");
    fleet.stop().await;
}

/// All errors of a submission come at once.
#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_named_at_once() {
    let fleet = Fleet::start().await;
    let submission = json!({
        "files": [{"path": "../x", "text": ""}], "colour": 1, "run": {"limits": {"wall_time_us": 0, "memory_bytes": u64::MAX}},
    });
    let result = fleet.run_all(vec![submission]).await.remove(0);
    let paths: Vec<&str> = result["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .filter_map(|error| error["path"].as_str())
        .collect();
    for path in [
        "runtime",
        "files[0].path",
        "colour",
        "run.limits.wall_time_us",
        "run.limits.memory_bytes",
    ] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    fleet.stop().await;
}

fn decode(message: &async_nats::Message) -> Value {
    let msgpack = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Content-Type"))
        .is_some_and(|value| value.as_str() == "application/msgpack");
    if msgpack {
        rmp_serde::from_slice(&message.payload).expect("MessagePack in, MessagePack out")
    } else {
        serde_json::from_slice(&message.payload).expect("JSON in, JSON out")
    }
}
