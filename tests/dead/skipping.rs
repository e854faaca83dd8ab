//! A letter whose submission has gone on is not replayed a second time.

use async_nats::HeaderMap;
use envicutor::{
    bus::{
        api::header,
        dead_letters::{DeadLetters, Letter},
        history,
        subjects::Address,
    },
    submission::{
        encoding::Encoding,
        names::{Digest, Lane},
        result::FailureCode,
    },
};
use serde_json::Value;

use crate::{
    desk::{BODY, Desk, message, outcomes},
    fleet::{
        letters::{bury, letter, published},
        messages::{publish_body, result, settle, tenant},
    },
};

#[tokio::test]
async fn a_letter_whose_next_generation_is_queued_or_over_is_skipped() {
    let desk = Desk::open().await;
    desk.bury(3).await;
    // One is queued by hand, one is over.
    let mut next = HeaderMap::new();
    next.insert(header::GENERATION, "1");
    desk.bus
        .publish_stored("envicutor.submissions.default.batch.a0", next, BODY.into())
        .await
        .expect("stored");
    settle(&desk.worker, &result("a1", 1, "w"), Encoding::Json).await;
    let lines = desk
        .operator
        .json(&["dead", "replay", "--all", "--yes", "--json"])
        .await;
    let mut told = outcomes(&lines);
    told.sort_unstable();
    assert_eq!(
        told,
        [("a0", "skipped"), ("a1", "skipped"), ("a2", "replayed")]
    );
    assert!(
        message(&lines, "a0").contains("generation 1 is queued"),
        "{lines:?}"
    );
    assert!(
        message(&lines, "a1").contains("generation 1 has the result finished"),
        "{lines:?}"
    );
    assert_eq!(published(&desk.bus).await, 2);
}

#[tokio::test]
async fn a_letter_left_by_an_interrupted_replay_is_taken_away_by_the_next_one() {
    let desk = Desk::open().await;
    desk.bury(2).await;
    let letters = DeadLetters::new(&desk.bus);
    let before =
        [letters.read(1).await, letters.read(2).await].map(|it| it.expect("read").expect("there"));
    desk.operator
        .json(&["dead", "replay", "--all", "--yes", "--json"])
        .await;
    // As if the command had died between the publish and the removal: the letters are back, under the sequences that the
    // trails name.
    // One of them has run meanwhile.
    let (lane, stored) = desk.queued("a0").await.expect("queued");
    settle(&desk.worker, &result("a0", 1, "w"), Encoding::Json).await;
    let address = Address {
        tenant: tenant(),
        lane,
        raw_id: "a0".into(),
    };
    history::keep(&desk.worker, &address, &stored.headers, stored.body).await;
    desk.worker.round_trip().await.expect("the server has it");
    desk.take("a0").await;
    restore(&desk, &before).await;
    let lines = desk
        .operator
        .json(&["dead", "replay", "--all", "--yes", "--json"])
        .await;
    assert!(
        outcomes(&lines)
            .iter()
            .all(|(_, outcome)| *outcome == "skipped"),
        "{lines:?}"
    );
    assert_eq!(
        desk.sequences().await,
        [0_u64; 0],
        "both came of these letters: {lines:?}"
    );
    assert_eq!(published(&desk.bus).await, 2);
}

/// Makes DEAD_LETTERS anew with these letters under the sequences that they had.
async fn restore(desk: &Desk, letters: &[Letter]) {
    let mut config: Value = desk
        .bus
        .api("STREAM.INFO.DEAD_LETTERS", &Value::Null)
        .await
        .expect("asked");
    let config = config["config"].take();
    let null = Value::Null;
    desk.bus
        .api::<Value>("STREAM.DELETE.DEAD_LETTERS", &null)
        .await
        .expect("deleted");
    desk.bus
        .api::<Value>("STREAM.CREATE.DEAD_LETTERS", &config)
        .await
        .expect("created");
    for letter in letters {
        let sequence = DeadLetters::new(&desk.worker)
            .publish(&letter.letter, Encoding::Json)
            .await
            .expect("stored");
        assert_eq!(sequence, letter.sequence);
    }
}

#[tokio::test]
async fn a_letter_whose_id_has_another_result_is_replayed_only_when_that_is_asked_for() {
    let desk = Desk::open().await;
    // Another submission came first; and one that finished after all.
    let mut reused = letter("reused", BODY);
    reused.reason.code = FailureCode::IdReused;
    let letters = DeadLetters::new(&desk.worker);
    for (name, digest) in [
        ("reused", Digest::of(b"other")),
        ("finished", Digest::of(BODY.as_bytes())),
    ] {
        let mut finished = result(name, 0, "w");
        finished.submission_digest = digest;
        settle(&desk.worker, &finished, Encoding::Json).await;
    }
    for letter in [&reused, &letter("finished", BODY)] {
        letters
            .publish(letter, Encoding::Json)
            .await
            .expect("stored");
    }
    let all = ["dead", "replay", "--all", "--yes", "--json"];
    let said = desk.operator.run(&all).await;
    assert_eq!(said.code, 3, "{said:?}");
    let lines = said.json();
    for name in ["reused", "finished"] {
        assert!(message(&lines, name).contains("--replace"), "{lines:?}");
    }
    let lines = desk
        .operator
        .json(&[&all[..], &["--replace"]].concat())
        .await;
    assert_eq!(outcomes(&lines).len(), 2, "{lines:?}");
    assert_eq!(desk.generation_queued("reused").await.as_deref(), Some("1"));
    assert_eq!(
        desk.generation_queued("finished").await.as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn two_letters_of_one_id_and_generation_are_both_kept_where_their_content_differs() {
    let desk = Desk::open().await;
    bury(&desk.worker, &letter("twice", BODY)).await;
    let mut other = letter("twice", r#"{"runtime":"bash"}"#);
    other.reason.code = FailureCode::IdReused;
    let letters = DeadLetters::new(&desk.worker);
    let second = letters
        .publish(&other, Encoding::Json)
        .await
        .expect("stored");
    let repeated = letters
        .publish(&other, Encoding::Json)
        .await
        .expect("stored");
    assert_eq!((second, repeated), (2, 2));
    assert_eq!(desk.sequences().await, [1, 2]);
}

#[tokio::test]
async fn a_letter_that_is_still_in_its_queue_waits_for_its_acknowledgement() {
    let desk = Desk::open().await;
    desk.bury(1).await;
    publish_body(&desk.bus, &tenant(), Lane::Batch, "a0", BODY.into())
        .await
        .expect("published");
    let said = desk.operator.run(&["dead", "replay", "1", "--json"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(
        message(&said.json(), "a0").contains("generation 0"),
        "{said:?}"
    );
    assert_eq!(desk.sequences().await, [1]);
}
