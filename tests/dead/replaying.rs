//! What a replay publishes: the next generation, edited as asked, with its trail.

use envicutor::{
    bus::api::{header, header_of},
    submission::{
        encoding::Encoding,
        names::{Digest, Lane},
        replay::Trail,
        result::FailureCode,
    },
};
use serde_json::{Value, json};

use crate::{
    desk::{BODY, Desk, message, outcomes, packed},
    fleet::letters::{bury, letter},
};

#[tokio::test]
async fn a_replay_queues_the_next_generation_with_its_trail_and_takes_the_letter_away() {
    let desk = Desk::open().await;
    let sequence = bury(&desk.worker, &letter("a1", BODY)).await.to_string();
    let set = [
        "--set",
        "run.limits.memory_bytes=512MiB",
        "--set",
        "labels.note=again",
        "--lane",
        "batch",
    ];
    let lines = desk
        .operator
        .json(&[&["dead", "replay", &sequence, "--json"], &set[..]].concat())
        .await;
    assert_eq!(outcomes(&lines), [("a1", "replayed")]);
    let batch = lines[0]["batch"].as_str().expect("the batch comes first");
    assert_eq!(
        (&lines[2]["replayed"], &lines[2]["failed"]),
        (&json!(1), &json!(0))
    );

    let (lane, stored) = desk.queued("a1").await.expect("queued");
    assert_eq!(lane, Lane::Batch);
    let header = |name| header_of(&stored.headers, name).expect(name);
    assert_eq!(header(header::GENERATION), "1");
    assert_eq!(header(header::TRACE), "00-abc-def-01");
    assert_eq!(header(header::DIGEST), Digest::of(BODY.as_bytes()).as_str());
    let body: Value = serde_json::from_slice(&stored.body).expect("JSON");
    assert_eq!(body["run"]["limits"]["memory_bytes"], 512 << 20);
    assert_eq!(body["labels"], json!({"course": "cs101", "note": "again"}));
    let trail = Trail::of_header(Some(header(header::REPLAYS)));
    let replay = trail.last().expect("one replay");
    assert!(replay.by.starts_with("ann@"), "{replay:?}");
    assert_eq!(
        (replay.letter, replay.reason),
        (Some(1), Some(FailureCode::WorkerLost))
    );
    assert_eq!(
        replay.batch.as_ref().map(ToString::to_string).as_deref(),
        Some(batch)
    );
    let changed: Vec<_> = replay
        .changes
        .iter()
        .map(|change| change.path.as_str())
        .collect();
    assert_eq!(changed, ["run.limits.memory_bytes", "labels.note", "lane"]);
    assert_eq!(
        desk.sequences().await,
        [0_u64; 0],
        "the letter was taken away"
    );
}

#[tokio::test]
async fn the_trail_survives_into_the_next_letter_and_grows_there() {
    let desk = Desk::open().await;
    let first = bury(&desk.worker, &letter("a1", BODY)).await.to_string();
    desk.operator
        .json(&[
            "dead",
            "replay",
            &first,
            "--json",
            "--set",
            "total_time_us=1s",
        ])
        .await;
    let (_, stored) = desk.queued("a1").await.expect("queued");
    // As a worker buries it: with the headers that it keeps.
    let mut again = letter("a1", stored.body.to_vec());
    again.generation = 1;
    again.submission.headers = envicutor::bus::publish::kept_headers(&stored.headers);
    desk.take("a1").await;
    let second = bury(&desk.worker, &again).await.to_string();
    desk.operator
        .json(&[
            "dead",
            "replay",
            &second,
            "--json",
            "--set",
            "total_time_us=2s",
        ])
        .await;

    let (_, stored) = desk.queued("a1").await.expect("queued");
    let header = |name| header_of(&stored.headers, name).expect(name);
    assert_eq!(header(header::GENERATION), "2");
    assert_eq!(
        header(header::DIGEST),
        Digest::of(BODY.as_bytes()).as_str(),
        "what the service published"
    );
    let trail = Trail::of_header(Some(header(header::REPLAYS)));
    let told: Vec<_> = trail
        .replays()
        .iter()
        .map(|it| (it.generation, it.letter, it.changes[0].from.clone()))
        .collect();
    assert_eq!(
        told,
        [(1, Some(1), Value::Null), (2, Some(2), json!(1_000_000))]
    );

    again.generation = 2;
    again.submission.headers = envicutor::bus::publish::kept_headers(&stored.headers);
    let third = bury(&desk.worker, &again).await.to_string();
    let shown = desk.operator.run(&["dead", "show", &third]).await.stdout;
    for part in [
        "generation 1 at",
        "generation 2 at",
        "by ann@",
        "from letter 1 (worker_lost)",
        "total_time_us 1000000 -> 2000000",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
}

#[tokio::test]
async fn an_edit_that_does_not_fit_a_letter_is_its_error_and_the_others_go_on() {
    let desk = Desk::open().await;
    let two_files = r#"{"runtime":"bash","files":[{"text":"a"},{"path":"b","text":"b"}]}"#;
    let mut strange = letter("strange", BODY);
    strange.submission.content_type = Some("text/plain".into());
    for letter in [
        letter("json", two_files),
        letter("broken", "{"),
        packed("packed"),
        strange,
    ] {
        bury(&desk.worker, &letter).await;
    }
    let all = ["dead", "replay", "--all", "--yes", "--json"];
    let said = desk
        .operator
        .run(&[&all[..], &["--set", "files[1].text=c"]].concat())
        .await;
    assert_eq!(said.code, 3, "{said:?}");
    let lines = said.json();
    let mut told = outcomes(&lines);
    told.sort_unstable();
    assert_eq!(
        told,
        [
            ("broken", "failed"),
            ("json", "replayed"),
            ("packed", "failed"),
            ("strange", "failed")
        ]
    );
    assert!(message(&lines, "broken").contains("not JSON"), "{lines:?}");
    assert!(
        message(&lines, "packed").contains("no item 1, of 1"),
        "{lines:?}"
    );
    assert!(
        message(&lines, "strange").contains("text/plain"),
        "{lines:?}"
    );

    let wrong = desk
        .operator
        .run(&[&all[..], &["--set", "run.limits.memory=5"]].concat())
        .await
        .json();
    assert!(
        message(&wrong, "packed").contains("run.limits.memory: unknown field"),
        "{wrong:?}"
    );
    let none = desk
        .operator
        .run(&[&all[..], &["--set", "run"]].concat())
        .await;
    assert!(
        none.code == 2 && none.stderr.contains("PATH=VALUE"),
        "{none:?}"
    );
    assert_eq!(desk.sequences().await, [2, 3, 4], "what failed stays");

    // MessagePack stays MessagePack.
    let lines = desk
        .operator
        .json(&[
            "dead",
            "replay",
            "3",
            "--json",
            "--set",
            "run.limits.memory_bytes=2MiB",
        ])
        .await;
    assert_eq!(outcomes(&lines), [("packed", "replayed")]);
    let (_, stored) = desk.queued("packed").await.expect("queued");
    assert_eq!(
        header_of(&stored.headers, header::CONTENT_TYPE),
        Some("application/msgpack")
    );
    let body: Value = Encoding::MessagePack
        .decode(&stored.body)
        .expect("MessagePack");
    assert_eq!(body["run"]["limits"]["memory_bytes"], 2 << 20);
}
