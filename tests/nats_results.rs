//! A result is settled once for each generation; what else a worker tells. Against a real nats-server.

mod fleet;

use std::time::Duration;

use envicutor::{
    bus::{
        Bus, Role,
        attempts::{Attempts, AttemptsError, Record},
        dead_letters::DeadLetters,
        events,
        registry::{Heartbeat, Registry, Running, WorkerState},
        results::{Results, Settled, Settlement},
    },
    submission::{
        dead_letter::{DeadLetter, Original, Reason},
        encoding::Encoding,
        event::{Event, Happened},
        names::Lane,
        result::{FailureCode, Isolation},
        units::{ByteSize, Micros},
    },
};
use fleet::{
    messages::{DEADLINE, PATIENCE, id, result, settle, tenant},
    nats::TestNats,
};
use time::OffsetDateTime;

// Settling

#[tokio::test]
async fn eight_that_settle_at_once_store_one_result_and_all_see_it() {
    let nats = TestNats::start().await;
    let service = nats.bus(Role::Service).await;
    let mut listener = Results::new(&service)
        .subscribe(&tenant(), "a1")
        .await
        .expect("listening");
    service.round_trip().await.expect("answered");
    let settlers = (0..8).map(|n| {
        let nats = &nats;
        async move {
            let worker = nats.bus(Role::Worker).await;
            settle(&worker, &result("a1", 0, &format!("w{n}")), Encoding::Json).await
        }
    });
    let settled = futures_util::future::join_all(settlers).await;
    let stored: Vec<_> = settled
        .iter()
        .filter(|one| matches!(one, Settled::Stored(_)))
        .collect();
    assert_eq!(stored.len(), 1, "{settled:?}");
    let standing = Results::new(&service)
        .read(&tenant(), "a1")
        .await
        .expect("read")
        .expect("there");
    for one in &settled {
        match one {
            Settled::Stored(sequence) => assert_eq!(*sequence, standing.sequence),
            Settled::Standing(seen, sequence) => {
                assert_eq!((&**seen, *sequence), (&standing.result, standing.sequence));
            }
        }
    }
    // A plain subscriber sees one; the replay's is the next that it sees.
    settle(
        &nats.bus(Role::Worker).await,
        &result("a1", 1, "replay"),
        Encoding::Json,
    )
    .await;
    for worker in [standing.result.worker.as_str(), "replay"] {
        let heard = tokio::time::timeout(DEADLINE, listener.next())
            .await
            .expect("in time");
        assert_eq!(heard.expect("open").expect("readable").worker, worker);
    }
}

#[tokio::test]
async fn a_settlement_whose_ack_was_lost_is_found_again_as_ours() {
    let nats = TestNats::start().await;
    let worker = nats.bus(Role::Worker).await;
    let ours = result("a1", 0, "w");
    let first = settle(&worker, &ours, Encoding::MessagePack).await;
    assert!(matches!(first, Settled::Stored(_)), "{first:?}");
    assert_eq!(settle(&worker, &ours, Encoding::MessagePack).await, first);
    let read = Results::new(&worker)
        .standing(&tenant(), "a1")
        .await
        .expect("read")
        .expect("there");
    assert_eq!(read.result, ours, "decoded by its content type");
}

#[tokio::test]
async fn a_later_generation_replaces_and_an_earlier_one_never_does() {
    let nats = TestNats::start().await;
    let worker = nats.bus(Role::Worker).await;
    for generation in [0, 1, 3] {
        let settled = settle(&worker, &result("a1", generation, "w"), Encoding::Json).await;
        assert!(
            matches!(settled, Settled::Stored(_)),
            "{generation}: {settled:?}"
        );
    }
    for generation in [0, 2, 3] {
        let settled = settle(&worker, &result("a1", generation, "late"), Encoding::Json).await;
        assert!(
            matches!(&settled, Settled::Standing(standing, _) if standing.generation == 3),
            "{generation}: {settled:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_result_does_not_stand_in_the_way_of_one() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    // The server sends its acknowledgement wherever the publisher says.
    let sent = service.client.publish_with_reply(
        "envicutor.submissions.default.batch.x",
        "envicutor.settle.default.a1",
        "{}".into(),
    );
    sent.await.expect("sent");
    let stored = async {
        while worker
            .get_last("RESULTS", "envicutor.results.default.a1")
            .await
            .expect("asked")
            .is_none()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, stored)
        .await
        .expect("the acknowledgement stands there");
    assert!(
        Results::new(&service)
            .read(&tenant(), "a1")
            .await
            .expect("read")
            .is_none()
    );
    let settled = settle(&worker, &result("a1", 0, "w"), Encoding::Json).await;
    assert!(matches!(settled, Settled::Stored(_)), "{settled:?}");
    assert!(
        Results::new(&service)
            .read(&tenant(), "a1")
            .await
            .expect("read")
            .is_some()
    );
}

#[tokio::test]
async fn the_largest_result_is_settled_and_read_back() {
    let nats = TestNats::start().await;
    let worker = nats.bus(Role::Worker).await;
    let mut large = result("a1", 0, "w");
    large.worker = "x".repeat(768 << 10);
    let first = settle(&worker, &large, Encoding::Json).await;
    assert_eq!(
        settle(&worker, &large, Encoding::Json).await,
        first,
        "read whole from the leader"
    );
    large.worker = "x".repeat(2 << 20);
    let body = Encoding::Json.encode(&large).expect("encoded").into();
    let tenant = tenant();
    let settlement = Settlement {
        tenant: &tenant,
        raw_id: "a2",
        generation: 0,
        encoding: Encoding::Json,
        body,
    };
    let error = Results::new(&worker)
        .settle(&settlement, PATIENCE)
        .await
        .expect_err("too large")
        .to_string();
    assert!(error.contains("more than the server takes"), "{error}");
}

#[tokio::test]
async fn a_settlement_waits_for_a_server_that_comes_back() {
    let mut nats =
        TestNats::start_with(|config| config.nats.request_timeout_us = Micros(300_000)).await;
    let worker = nats.bus(Role::Worker).await;
    nats.pause().await;
    let ours = result("a1", 0, "w");
    let (settled, ()) = tokio::join!(settle(&worker, &ours, Encoding::Json), nats.resume());
    assert!(matches!(settled, Settled::Stored(_)), "{settled:?}");
}

// What else a worker tells

#[tokio::test]
async fn of_two_that_write_the_attempts_one_is_told_to_read_again() {
    let nats = TestNats::start().await;
    let attempts = Attempts::new(&nats.bus(Role::Worker).await);
    let (tenant, lane, id) = (tenant(), Lane::Batch, id("a1"));
    let record = Record {
        generation: 2,
        ..Record::default()
    };
    let none = attempts.read(&tenant, lane, &id).await.expect("read");
    assert_eq!((none.record, none.revision), (None, 0));
    let revision = attempts.update(&tenant, lane, &id, &record, 0).await;
    let revision = revision.expect("the first may write");
    let stale = attempts
        .update(&tenant, lane, &id, &Record::default(), 0)
        .await;
    assert!(
        matches!(stale, Err(AttemptsError::Changed { .. })),
        "{stale:?}"
    );
    let read = attempts.read(&tenant, lane, &id).await.expect("read");
    assert_eq!((read.record, read.revision), (Some(record), revision));
    attempts.delete(&tenant, lane, &id).await.expect("deleted");
    let gone = attempts.read(&tenant, lane, &id).await.expect("read");
    assert_eq!(gone.record, None);
}

#[tokio::test]
async fn the_last_started_event_tells_who_began() {
    let nats = TestNats::start().await;
    let worker = nats.bus(Role::Worker).await;
    let mut event = Event {
        tenant: tenant(),
        id: id("a1"),
        generation: 0,
        attempt: 1,
        sequence: 0,
        at: OffsetDateTime::now_utc(),
        worker: "w1".into(),
        labels: std::collections::BTreeMap::default(),
        happened: Happened::Started,
    };
    assert!(
        events::last_started(&worker, &tenant(), &id("a1"))
            .await
            .expect("asked")
            .is_none()
    );
    events::publish(&worker, &event, 7, Encoding::Json)
        .await
        .expect("sent");
    (event.attempt, event.worker) = (2, "w2".into());
    events::publish(&worker, &event, 7, Encoding::Json)
        .await
        .expect("sent");
    let stored = async {
        while events::last_started(&worker, &tenant(), &id("a1"))
            .await
            .expect("asked")
            .as_ref()
            != Some(&event)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, stored)
        .await
        .expect("the last one stands");
}

#[tokio::test]
async fn what_began_is_known_after_a_restart_of_the_server_and_forgotten_with_its_stream() {
    let mut nats = TestNats::start().await;
    let worker = nats.bus(Role::Worker).await;
    let event = Event {
        tenant: tenant(),
        id: id("a1"),
        generation: 0,
        attempt: 1,
        sequence: 0,
        at: OffsetDateTime::now_utc(),
        worker: "w1".into(),
        labels: std::collections::BTreeMap::default(),
        happened: Happened::Started,
    };
    events::publish(&worker, &event, 7, Encoding::Json)
        .await
        .expect("sent");
    worker.round_trip().await.expect("answered");
    let last = async |bus: &Bus| {
        let (tenant, id) = (tenant(), id("a1"));
        let last = events::last_started_of(bus, &tenant, &id).await;
        last.expect("asked")
    };
    while last(&worker).await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    nats.restart().await;
    assert_eq!(
        last(&nats.bus(Role::Worker).await).await,
        Some((event, Some(7)))
    );
    let operator = nats.bus(Role::Operator).await;
    let deleted =
        operator.api::<serde_json::Value>("STREAM.DELETE.EVENTS", &serde_json::Value::Null);
    deleted.await.expect("deleted");
    assert_eq!(last(&operator).await, None);
}

#[tokio::test]
async fn a_dead_letter_stands_once_for_each_generation_and_can_be_deleted() {
    let nats = TestNats::start().await;
    let letters = DeadLetters::new(&nats.bus(Role::Worker).await);
    let letter = |generation| DeadLetter {
        tenant: tenant(),
        id: id("a1"),
        generation,
        lane: Lane::Batch,
        reason: Reason {
            code: FailureCode::Container,
            message: "m".into(),
            stage: "s".into(),
        },
        attempts: Vec::new(),
        submission: Original {
            content_type: None,
            headers: std::collections::BTreeMap::default(),
            body: b"{}".to_vec(),
        },
        log_tail: Vec::new(),
        dead_at: OffsetDateTime::now_utc(),
        labels: std::collections::BTreeMap::default(),
    };
    let first = letters
        .publish(&letter(0), Encoding::Json)
        .await
        .expect("stored");
    assert_eq!(
        letters
            .publish(&letter(0), Encoding::Json)
            .await
            .expect("stored"),
        first
    );
    let second = letters
        .publish(&letter(1), Encoding::Json)
        .await
        .expect("stored");
    assert_ne!(first, second);
    assert_eq!(
        letters.find(&tenant(), &id("a1"), 1).await.expect("asked"),
        Some(second)
    );
    assert_eq!(
        letters.find(&tenant(), &id("a1"), 2).await.expect("asked"),
        None
    );
    assert_eq!(
        letters
            .next(first + 1)
            .await
            .expect("asked")
            .expect("there")
            .sequence,
        second
    );
    assert!(letters.delete(first).await.expect("deleted"));
    assert!(!letters.delete(first).await.expect("asked"));
    assert_eq!(
        letters.find(&tenant(), &id("a1"), 0).await.expect("asked"),
        None
    );
    // Deleted and dead again within the duplicate window: it must be stored.
    let again = letters
        .publish(&letter(0), Encoding::Json)
        .await
        .expect("stored");
    assert_eq!(
        letters.find(&tenant(), &id("a1"), 0).await.expect("asked"),
        Some(again)
    );
}

#[tokio::test]
async fn workers_are_listed_until_they_leave_or_fall_silent() {
    let nats = TestNats::start_with(|config| config.worker.heartbeat_us = Micros(300_000)).await;
    let registry = Registry::new(&nats.bus(Role::Worker).await);
    assert!(registry.list().await.expect("listed").is_empty());
    let heartbeat = |worker: &str| Heartbeat {
        worker: worker.into(),
        host: "h".into(),
        version: "1".into(),
        state: WorkerState::Ready,
        slots: 2,
        running: vec![Running {
            tenant: tenant(),
            id: "a".into(),
            since: OffsetDateTime::UNIX_EPOCH,
            memory_bytes: ByteSize(1),
        }],
        memory_bytes: ByteSize(2),
        isolation: Isolation::Container,
        runtimes: vec!["python@3.11".parse().expect("valid")],
        started_at: OffsetDateTime::UNIX_EPOCH,
        seen_at: OffsetDateTime::UNIX_EPOCH,
    };
    for worker in ["w2", "w1", "w1"] {
        registry.put(&heartbeat(worker)).await.expect("told");
    }
    assert_eq!(
        registry.list().await.expect("listed"),
        [heartbeat("w1"), heartbeat("w2")]
    );
    registry.delete("w1").await.expect("left");
    assert_eq!(registry.list().await.expect("listed").len(), 1);
    assert!(registry.put(&heartbeat("a.b")).await.is_err());
    let silent = async {
        while !registry.list().await.expect("listed").is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, silent)
        .await
        .expect("forgotten");
}
