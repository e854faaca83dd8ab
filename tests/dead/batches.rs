//! Batches that are interrupted, in whatever way, replay each of their letters once.

use envicutor::submission::names::Lane;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    desk::{BODY, Desk, LONG, outcomes},
    fleet::{
        self,
        letters::{bury, letter, published},
        operator::Said,
    },
};

/// Kills `dead replay` once it has told of so many letters, and returns the batch's id.
async fn replay_and_kill(desk: &Desk, arguments: &[&str], after: usize) -> String {
    let mut replay = desk.operator.start(arguments);
    let mut lines = BufReader::new(replay.stdout.take().expect("piped")).lines();
    let mut batch = None;
    let mut told = 0;
    while told < after {
        let line = tokio::time::timeout(fleet::slowly(LONG), lines.next_line()).await;
        let line = line
            .expect("it goes on")
            .expect("readable")
            .expect("it is not over yet");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        match line["outcome"].as_str() {
            Some(outcome) => {
                assert_eq!(outcome, "replayed", "{line}");
                told += 1;
            }
            None => batch = line["batch"].as_str().map(str::to_owned),
        }
    }
    replay.kill().await.expect("SIGKILL is sent");
    batch.expect("the batch came first")
}

#[tokio::test]
async fn a_batch_that_was_killed_half_way_and_resumed_publishes_each_letter_once() {
    const LETTERS: usize = 300;
    let desk = Desk::open().await;
    desk.bury(LETTERS).await;
    let set = ["--set", "run.limits.memory_bytes=64MiB"];
    let all = [&["dead", "replay", "--all", "--yes", "--json"], &set[..]].concat();
    let batch = replay_and_kill(&desk, &all, LETTERS / 2).await;
    let left = desk.sequences().await.len();
    assert!((1..=LETTERS / 2).contains(&left), "{left} letters are left");

    let lines = desk
        .operator
        .json(&["dead", "replay", "--resume", &batch, "--json"])
        .await;
    let last = lines.last().expect("the batch comes last");
    assert_eq!(
        (&last["replayed"], &last["skipped"], &last["failed"]),
        (&json!(LETTERS), &json!(0), &json!(0)),
        "{last}"
    );
    assert!(last["finished_at"].is_string(), "{last}");
    assert_eq!(desk.sequences().await, [0_u64; 0]);
    assert_eq!(published(&desk.bus).await, LETTERS as u64);
    for n in 0..LETTERS {
        let name = format!("a{n}");
        let (_, stored) = desk.queued(&name).await.expect("queued");
        let body: Value = serde_json::from_slice(&stored.body).expect("JSON");
        assert_eq!(body["run"]["limits"]["memory_bytes"], 64 << 20, "{name}");
    }
    // A batch that is over has nothing left to do.
    let again = desk
        .operator
        .json(&["dead", "replay", "--resume", &batch, "--json"])
        .await;
    assert_eq!(outcomes(&again), [("", ""); 0]);
}

#[tokio::test]
async fn a_letter_that_a_replay_of_a_batch_brought_is_not_part_of_it() {
    let desk = Desk::open().await;
    desk.bury(20).await;
    let arguments = ["dead", "replay", "--all", "--yes", "--json", "--rate", "20"];
    let batch = replay_and_kill(&desk, &arguments, 3).await;
    let mut again = letter("a0", BODY);
    again.generation = 1;
    desk.take("a0").await;
    bury(&desk.worker, &again).await;
    let lines = desk
        .operator
        .json(&["dead", "replay", "--resume", &batch, "--json"])
        .await;
    assert_eq!(
        lines.last().expect("the batch")["replayed"],
        20,
        "{lines:?}"
    );
    assert_eq!(desk.sequences().await, [21]);
}

#[tokio::test]
async fn an_interrupted_batch_says_how_to_go_on_and_keeps_its_terms_and_its_limit() {
    let desk = Desk::open().await;
    desk.bury(40).await;
    let arguments = [
        "dead", "replay", "--tenant", "default", "--yes", "--json", "--limit", "30", "--rate",
        "20", "--lane", "batch",
    ];
    let mut replay = desk.operator.start(&arguments);
    let mut lines = BufReader::new(replay.stdout.take().expect("piped")).lines();
    for _ in 0..5 {
        lines
            .next_line()
            .await
            .expect("readable")
            .expect("it goes on");
    }
    fleet::signal(&replay, "INT").await;
    let mut stderr = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut replay.stderr.take().expect("piped"), &mut stderr)
        .await
        .expect("text");
    let status = replay.wait().await.expect("it ends");
    assert_eq!(status.code(), Some(130), "{stderr}");
    let batch = stderr
        .split("--resume ")
        .nth(1)
        .expect("how to go on")
        .split_whitespace()
        .next()
        .expect("an id");
    let unknown = desk
        .operator
        .run(&["dead", "replay", "--resume", "nothing"])
        .await;
    assert!(
        unknown.code == 2 && unknown.stderr.contains(batch),
        "{unknown:?}"
    );
    let lines = desk
        .operator
        .json(&["dead", "replay", "--resume", batch, "--json"])
        .await;
    assert_eq!(
        lines.last().expect("the batch")["replayed"],
        30,
        "{lines:?}"
    );
    assert_eq!(desk.sequences().await, (31..=40).collect::<Vec<_>>());
    for n in 0..30 {
        let (lane, _) = desk.queued(&format!("a{n}")).await.expect("queued");
        assert_eq!(lane, Lane::Batch);
    }
}

#[tokio::test]
async fn two_commands_at_once_replay_each_letter_once() {
    let desk = Desk::open().await;
    desk.bury(100).await;
    let all = ["dead", "replay", "--all", "--yes", "--json"];
    let both: [Said; 2] = tokio::join!(desk.operator.run(&all), desk.operator.run(&all)).into();
    let replayed: usize = both
        .iter()
        .map(|said| {
            outcomes(&said.json())
                .iter()
                .filter(|(_, it)| *it == "replayed")
                .count()
        })
        .sum();
    assert_eq!(replayed, 100, "{both:?}");
    assert_eq!(published(&desk.bus).await, 100);
}

#[tokio::test]
async fn a_batch_outlives_its_server() {
    let mut desk = Desk::open().await;
    desk.bury(60).await;
    let arguments = ["dead", "replay", "--all", "--yes", "--json", "--rate", "40"];
    let mut replay = desk.operator.start(&arguments);
    let mut lines = BufReader::new(replay.stdout.take().expect("piped")).lines();
    for _ in 0..10 {
        lines
            .next_line()
            .await
            .expect("readable")
            .expect("it goes on");
    }
    desk.nats.restart().await;
    let mut last = String::new();
    while let Some(line) = lines.next_line().await.expect("readable") {
        last = line;
    }
    let last: Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!(last["replayed"], 60, "{last}");
    assert_eq!(published(&desk.bus).await, 60);
}
