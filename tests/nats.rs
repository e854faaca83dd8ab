//! The NATS side keeps its promises: provisioning, what each publisher is told, taking and settling, one server for each data
//! directory. Against a real nats-server. Who may do what is in `nats_permissions.rs`.

mod fleet;

use std::time::Duration;

use async_nats::HeaderMap;
use envicutor::{
    bus::{
        Bus, ConnectError, Role,
        attempts::{Attempts, AttemptsError, Record},
        dead_letters::DeadLetters,
        events,
        provision::{self, Outcome},
        publish::PublishError,
        queue::{self, Delivery, Puller, QueueError},
        registry::{Heartbeat, Registry, Running},
        results::{Results, Settled, Settlement},
        wake::Wakes,
    },
    nats_server::{NatsServer, ServerError, running_url},
    submission::{
        dead_letter::{Attempt, DeadLetter, Original, Reason},
        encoding::Encoding,
        event::{Event, Happened},
        names::{Digest, Lane, SubmissionId, Tenant},
        result::{FailureCode, Isolation, Outcome as ResultOutcome, SubmissionResult},
        units::{ByteSize, Micros},
    },
};
use fleet::nats::{RawClient, TestNats};
use time::OffsetDateTime;

/// How long a condition may take to come about.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a settlement is tried.
const PATIENCE: Duration = Duration::from_secs(10);

fn tenant() -> Tenant {
    Tenant::default_tenant()
}

fn id(id: &str) -> SubmissionId {
    id.parse().expect("a valid id")
}

async fn publish(bus: &Bus, lane: Lane, name: &str) -> Result<u64, PublishError> {
    publish_body(
        bus,
        &tenant(),
        lane,
        name,
        format!("{{\"id\":\"{name}\"}}").into(),
    )
    .await
}

async fn publish_body(
    bus: &Bus,
    tenant: &Tenant,
    lane: Lane,
    name: &str,
    body: Vec<u8>,
) -> Result<u64, PublishError> {
    let id = id(name);
    let sent = bus.publish_submission(
        tenant,
        lane,
        &id,
        body.into(),
        Encoding::Json,
        HeaderMap::new(),
    );
    sent.await.map(|published| published.sequence)
}

/// Pulls until there is something.
async fn pull(puller: &mut Puller, lane: Lane) -> Delivery {
    let find = async {
        loop {
            if let Some(delivery) = puller.pull(&tenant(), lane).await.expect("a queue") {
                return delivery;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, find)
        .await
        .expect("something to take")
}

fn result(name: &str, generation: u64, worker: &str) -> SubmissionResult {
    let now = OffsetDateTime::now_utc();
    SubmissionResult {
        tenant: tenant(),
        id: name.to_owned(),
        generation,
        attempt: 1,
        outcome: ResultOutcome::Finished,
        verdict: None,
        runtime: None,
        image: None,
        submission_digest: Digest::of(b""),
        isolation: None,
        start: None,
        worker: worker.to_owned(),
        compile: None,
        runs: Vec::new(),
        errors: Vec::new(),
        failure: None,
        published_at: now,
        started_at: now,
        finished_at: now,
        queued_us: Micros(0),
        labels: std::collections::BTreeMap::default(),
    }
}

async fn settle(bus: &Bus, result: &SubmissionResult, encoding: Encoding) -> Settled {
    let body = encoding.encode(result).expect("encoded").into();
    let settlement = Settlement {
        tenant: &result.tenant,
        raw_id: &result.id,
        generation: result.generation,
        encoding,
        body,
    };
    Results::new(bus)
        .settle(&settlement, PATIENCE)
        .await
        .expect("settled")
}

// Provisioning

#[tokio::test]
async fn applying_twice_changes_nothing_and_checking_changes_nothing_at_all() {
    let nats = TestNats::start_empty(|_| ()).await;
    let bus = nats.bus(Role::Operator).await;
    let config = nats.config(Role::Operator);
    for _ in 0..2 {
        let checked = provision::check(&bus, &config).await.expect("checked");
        assert!(
            checked
                .iter()
                .all(|report| report.outcome == Outcome::Created),
            "{checked:?}"
        );
    }
    assert!(
        nats.apply()
            .await
            .iter()
            .all(|report| report.outcome == Outcome::Created)
    );
    let again = nats.apply().await;
    assert!(
        again
            .iter()
            .all(|report| report.outcome == Outcome::Unchanged),
        "{again:?}"
    );
}

#[tokio::test]
async fn a_change_that_loses_nothing_is_made_and_keeps_what_is_queued() {
    let nats = TestNats::start().await;
    let (bus, service) = (
        nats.bus(Role::Operator).await,
        nats.bus(Role::Service).await,
    );
    publish(&service, Lane::Batch, "kept")
        .await
        .expect("published");
    let mut config = nats.config(Role::Operator);
    config.nats.queue_messages = 7;
    config.nats.queue_bytes = ByteSize(1 << 20);
    config.nats.ack_wait_us = Micros(3_000_000);
    config.nats.tenants.push("second".parse().expect("valid"));
    let reports = provision::apply(&bus, &config).await.expect("applied");
    let of = |object: &str| {
        &reports
            .iter()
            .find(|report| report.object == object)
            .expect(object)
            .outcome
    };
    assert!(
        matches!(of("stream SUBMISSIONS_default"), Outcome::Updated(changes) if changes.len() == 2)
    );
    assert!(matches!(
        of("consumer SUBMISSIONS_default/batch"),
        Outcome::Updated(_)
    ));
    assert_eq!(of("stream SUBMISSIONS_second"), &Outcome::Created);
    assert_eq!(of("stream RESULTS"), &Outcome::Unchanged);
    let checked = provision::check(&bus, &config).await.expect("checked");
    assert!(
        checked
            .iter()
            .all(|report| report.outcome == Outcome::Unchanged),
        "{checked:?}"
    );
    let queued = queue::find_queued(&bus, &tenant(), &id("kept"))
        .await
        .expect("asked");
    assert_eq!(queued.expect("still there").0, Lane::Batch);
}

#[tokio::test]
async fn a_change_that_would_lose_data_is_refused_and_named() {
    let nats = TestNats::start().await;
    let (bus, service) = (
        nats.bus(Role::Operator).await,
        nats.bus(Role::Service).await,
    );
    for name in ["a", "b", "c"] {
        publish(&service, Lane::Interactive, name)
            .await
            .expect("published");
    }
    settle(
        &nats.bus(Role::Worker).await,
        &result("r", 0, "w"),
        Encoding::Json,
    )
    .await;
    let mut config = nats.config(Role::Operator);
    config.nats.queue_messages = 2;
    config.nats.result_bytes = ByteSize(10);
    let reports = provision::apply(&bus, &config).await.expect("applied");
    for (object, field) in [
        ("stream SUBMISSIONS_default", "max_msgs"),
        ("stream RESULTS", "max_bytes"),
    ] {
        let report = reports
            .iter()
            .find(|report| report.object == object)
            .expect("reported");
        let Outcome::Refused(reasons) = &report.outcome else {
            panic!("{report:?}")
        };
        assert!(
            reasons[0].starts_with(field) && reasons[0].contains("lost"),
            "{reasons:?}"
        );
    }
    let found = queue::find_queued(&bus, &tenant(), &id("a"))
        .await
        .expect("asked");
    assert!(found.is_some(), "nothing was dropped");
}

#[tokio::test]
async fn more_than_the_server_has_room_for_is_refused_with_what_to_do() {
    let nats = TestNats::start().await;
    let bus = nats.bus(Role::Operator).await;
    let mut config = nats.config(Role::Operator);
    config.nats.result_bytes = ByteSize(1 << 50);
    let reports = provision::apply(&bus, &config).await.expect("applied");
    let refused: Vec<_> = reports
        .iter()
        .filter(|report| matches!(report.outcome, Outcome::Refused(_)))
        .collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(
        format!("{refused:?}").contains("max_file_store"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_fleet_of_another_prefix_has_names_and_rights_of_its_own() {
    let nats = TestNats::start_with(|config| config.nats.prefix = "lab".into()).await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    publish(&service, Lane::Batch, "a1")
        .await
        .expect("published");
    let mut puller = Puller::new(&worker).await.expect("a puller");
    let delivery = pull(&mut puller, Lane::Batch).await;
    settle(&worker, &result("a1", 0, "w"), Encoding::Json).await;
    delivery.ack().await.expect("acknowledged");
    let read = Results::new(&service)
        .read(&tenant(), "a1")
        .await
        .expect("read");
    assert_eq!(read.expect("there").result.id, "a1");
}

// What a publisher is told

#[tokio::test]
async fn a_publisher_is_told_each_refusal_apart() {
    let nats = TestNats::start_with(|config| config.nats.queue_messages = 2).await;
    let bus = nats.bus(Role::Service).await;
    let nobody: Tenant = "nobody".parse().expect("valid");
    let sent = publish_body(&bus, &nobody, Lane::Batch, "a", b"{}".to_vec()).await;
    assert!(
        matches!(sent, Err(PublishError::NoSuchQueue { .. })),
        "{sent:?}"
    );
    let unknown_lane = bus
        .publish_stored(
            "envicutor.submissions.default.other.a",
            HeaderMap::new(),
            "{}".into(),
        )
        .await;
    assert!(
        matches!(
            unknown_lane,
            Err(envicutor::bus::api::ApiError::NoResponders { .. })
        ),
        "{unknown_lane:?}"
    );

    publish(&bus, Lane::Batch, "a").await.expect("published");
    let twice = publish(&bus, Lane::Batch, "a").await;
    assert!(
        matches!(twice, Err(PublishError::StillQueued { .. })),
        "{twice:?}"
    );
    publish(&bus, Lane::Interactive, "b")
        .await
        .expect("published");
    let full = publish(&bus, Lane::Batch, "c").await;
    assert!(
        matches!(full, Err(PublishError::QueueFull { .. })),
        "{full:?}"
    );

    for size in [(512 << 10) + 1, (512 << 10) - 1, 4 << 20] {
        let large = publish_body(&bus, &tenant(), Lane::Batch, "big", vec![b' '; size]).await;
        assert!(
            matches!(large, Err(PublishError::TooLarge { .. })),
            "{size}: {large:?}"
        );
    }
    let large = bus
        .publish_stored(
            "envicutor.submissions.default.batch.raw",
            HeaderMap::new(),
            vec![b' '; 600 << 10].into(),
        )
        .await;
    assert_eq!(large.expect_err("too large").code(), Some(10054));
}

#[tokio::test]
async fn a_publisher_without_a_server_is_told_so_and_its_next_try_succeeds() {
    let mut nats =
        TestNats::start_with(|config| config.nats.request_timeout_us = Micros(300_000)).await;
    let bus = nats.bus(Role::Service).await;
    nats.pause().await;
    let error = publish(&bus, Lane::Batch, "a")
        .await
        .expect_err("no server");
    assert!(
        matches!(error, PublishError::NoConnection | PublishError::Unknown(_)),
        "{error}"
    );
    nats.resume().await;
    let again = async {
        loop {
            match publish(&bus, Lane::Batch, "a").await {
                Ok(_) | Err(PublishError::StillQueued { .. }) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, again)
        .await
        .expect("published after the server came back");
}

// Taking

#[tokio::test]
async fn an_empty_queue_answers_at_once_and_an_unknown_one_is_an_error() {
    let nats = TestNats::start().await;
    let mut puller = Puller::new(&nats.bus(Role::Worker).await)
        .await
        .expect("a puller");
    for _ in 0..3 {
        assert!(
            puller
                .pull(&tenant(), Lane::Batch)
                .await
                .expect("a queue")
                .is_none()
        );
    }
    let nobody = "nobody".parse().expect("valid");
    let error = puller
        .pull(&nobody, Lane::Batch)
        .await
        .expect_err("no queue");
    assert!(matches!(error, QueueError::NoSuchQueue { .. }), "{error}");
    assert!(
        puller
            .pull(&tenant(), Lane::Batch)
            .await
            .expect("a queue")
            .is_none()
    );
}

#[tokio::test]
async fn a_delivery_says_what_was_published_and_when_and_how_often() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    let before = OffsetDateTime::now_utc();
    let sequence = publish(&service, Lane::Interactive, "a1")
        .await
        .expect("published");
    publish(&service, Lane::Interactive, "a2")
        .await
        .expect("published");
    let mut puller = Puller::new(&worker).await.expect("a puller");
    let first = pull(&mut puller, Lane::Interactive).await;
    assert_eq!(first.address.raw_id, "a1");
    assert_eq!(
        (
            first.num_delivered,
            first.num_pending,
            first.stream_sequence
        ),
        (1, 1, sequence)
    );
    assert_eq!(&first.body[..], b"{\"id\":\"a1\"}");
    assert_eq!(
        first.headers.get("Content-Type").expect("there").as_str(),
        "application/json"
    );
    assert!((first.published_at - before).abs() < time::Duration::seconds(10));
    first.renew().await.expect("renewed");
    first.hand_back(Duration::ZERO).await.expect("handed back");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = pull(&mut puller, Lane::Interactive).await;
        seen.push((delivery.address.raw_id.clone(), delivery.num_delivered));
        delivery.ack().await.expect("acknowledged");
    }
    seen.sort();
    assert_eq!(seen, [("a1".to_owned(), 2), ("a2".to_owned(), 1)]);
    assert!(
        puller
            .pull(&tenant(), Lane::Interactive)
            .await
            .expect("a queue")
            .is_none()
    );
    publish(&service, Lane::Interactive, "a1")
        .await
        .expect("the id is free again");
}

#[tokio::test]
async fn many_slots_take_each_message_once() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    for n in 0..40 {
        publish(&service, Lane::Batch, &format!("s{n}"))
            .await
            .expect("published");
    }
    let slots = (0..8).map(|_| {
        let worker = worker.clone();
        tokio::spawn(async move {
            let mut puller = Puller::new(&worker).await.expect("a puller");
            let mut taken = Vec::new();
            while let Some(delivery) = puller.pull(&tenant(), Lane::Batch).await.expect("a queue") {
                delivery.ack().await.expect("acknowledged");
                taken.push(delivery.address.raw_id);
            }
            taken
        })
    });
    let mut taken: Vec<String> = futures_util::future::join_all(slots)
        .await
        .into_iter()
        .flat_map(|slot| slot.expect("no panic"))
        .collect();
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 40);
}

#[tokio::test]
async fn an_id_that_breaks_the_rule_arrives_as_it_stands() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    let mut puller = Puller::new(&worker).await.expect("a puller");
    for raw in ["schön/{}", "$x", &"z".repeat(1_024)] {
        let subject = format!("envicutor.submissions.default.batch.{raw}");
        service
            .publish_stored(&subject, HeaderMap::new(), "{}".into())
            .await
            .expect("stored");
        let delivery = pull(&mut puller, Lane::Batch).await;
        assert_eq!(
            (delivery.address.raw_id.as_str(), delivery.address.id()),
            (raw, None)
        );
        let settled = settle(&worker, &result(raw, 0, "w"), Encoding::Json).await;
        assert!(matches!(settled, Settled::Stored(_)), "{settled:?}");
        delivery.ack().await.expect("acknowledged");
    }
}

#[tokio::test]
async fn an_id_too_long_for_any_answer_is_dropped() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    let mut puller = Puller::new(&worker).await.expect("a puller");
    let subject = format!("envicutor.submissions.default.batch.{}", "z".repeat(3_800));
    service
        .publish_stored(&subject, HeaderMap::new(), "{}".into())
        .await
        .expect("stored");
    publish(&service, Lane::Batch, "next")
        .await
        .expect("published");
    let delivery = pull(&mut puller, Lane::Batch).await;
    assert_eq!(delivery.address.raw_id, "next");
    let info: serde_json::Value = worker
        .api("STREAM.INFO.SUBMISSIONS_default", &serde_json::Value::Null)
        .await
        .expect("asked");
    assert_eq!(info["state"]["messages"], 1, "only the one in hand is left");
}

#[tokio::test]
async fn a_status_in_a_submissions_headers_does_not_hide_it() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    let mut raw = RawClient::connect(&nats, Role::Service).await;
    raw.publish_headers(
        "envicutor.submissions.default.batch.a1",
        "NATS/1.0 404 No Messages\r\n\r\n",
        "{}",
    )
    .await;
    publish(&service, Lane::Batch, "a2")
        .await
        .expect("published");
    let mut puller = Puller::new(&worker).await.expect("a puller");
    for expected in ["a1", "a2"] {
        assert_eq!(
            pull(&mut puller, Lane::Batch).await.address.raw_id,
            expected
        );
    }
}

#[tokio::test]
async fn what_is_handed_back_with_a_delay_comes_after_it() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    publish(&service, Lane::Batch, "a1")
        .await
        .expect("published");
    let mut puller = Puller::new(&worker).await.expect("a puller");
    let delay = Duration::from_millis(400);
    let handed_back = std::time::Instant::now();
    pull(&mut puller, Lane::Batch)
        .await
        .hand_back(delay)
        .await
        .expect("handed back");
    assert!(
        puller
            .pull(&tenant(), Lane::Batch)
            .await
            .expect("a queue")
            .is_none()
    );
    let again = pull(&mut puller, Lane::Batch).await;
    assert!(handed_back.elapsed() >= delay);
    assert_eq!(again.num_delivered, 2);
}

#[tokio::test]
async fn what_is_not_renewed_goes_to_another_worker_and_what_is_renewed_does_not() {
    let nats = TestNats::start_with(|config| config.nats.ack_wait_us = Micros(1_000_000)).await;
    let service = nats.bus(Role::Service).await;
    publish(&service, Lane::Batch, "lost")
        .await
        .expect("published");
    publish(&service, Lane::Batch, "held")
        .await
        .expect("published");
    let mut first = Puller::new(&nats.bus(Role::Worker).await)
        .await
        .expect("a puller");
    let mut second = Puller::new(&nats.bus(Role::Worker).await)
        .await
        .expect("a puller");
    assert_eq!(pull(&mut first, Lane::Batch).await.address.raw_id, "lost");
    let held = pull(&mut first, Lane::Batch).await;
    let renewals = async {
        loop {
            held.renew().await.expect("renewed");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let other = tokio::select! {
        () = renewals => unreachable!(),
        other = pull(&mut second, Lane::Batch) => other,
    };
    assert_eq!(
        (other.address.raw_id.as_str(), other.num_delivered),
        ("lost", 2)
    );
}

#[tokio::test]
async fn a_pull_that_was_dropped_loses_nothing() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    let mut puller = Puller::new(&worker).await.expect("a puller");
    for n in 0..20 {
        publish(&service, Lane::Batch, &format!("a{n}"))
            .await
            .expect("published");
        // Sent, and given up before or after the answer came.
        let dropped = tokio::time::timeout(
            Duration::from_micros(n * 50),
            puller.pull(&tenant(), Lane::Batch),
        )
        .await;
        let delivery = match dropped {
            Ok(Ok(Some(delivery))) => delivery,
            _ => pull(&mut puller, Lane::Batch).await,
        };
        assert_eq!(delivery.address.raw_id, format!("a{n}"));
        delivery.ack().await.expect("acknowledged");
    }
}

#[tokio::test]
async fn a_wake_reaches_one_worker_of_the_group_and_every_plain_listener() {
    let nats = TestNats::start().await;
    let service = nats.bus(Role::Service).await;
    let workers = [nats.bus(Role::Worker).await, nats.bus(Role::Worker).await];
    let (mut shared, mut all) = (Vec::new(), Vec::new());
    for worker in &workers {
        shared.push(Wakes::shared(worker).await.expect("listening"));
        all.push(Wakes::all(worker).await.expect("listening"));
    }
    publish(&service, Lane::Interactive, "a1")
        .await
        .expect("published");
    for wakes in &mut all {
        let wake = tokio::time::timeout(DEADLINE, wakes.next())
            .await
            .expect("in time")
            .expect("open");
        assert_eq!((wake.lane, wake.raw_id.as_str()), (Lane::Interactive, "a1"));
    }
    let [first, second] = &mut shared[..] else {
        unreachable!()
    };
    let one = tokio::time::timeout(DEADLINE, async {
        tokio::select! { wake = first.next() => wake, wake = second.next() => wake }
    });
    assert_eq!(one.await.expect("in time").expect("open").raw_id, "a1");
    // Handing back at once wakes as well; a second wake of the first publish would come before it.
    let mut puller = Puller::new(&workers[0]).await.expect("a puller");
    let delivery = pull(&mut puller, Lane::Interactive).await;
    publish(&service, Lane::Batch, "a2")
        .await
        .expect("published");
    delivery
        .hand_back(Duration::ZERO)
        .await
        .expect("handed back");
    let wakes = [all[0].next().await, all[0].next().await].map(|wake| wake.expect("open").raw_id);
    assert_eq!(wakes, ["a2", "a1"]);
}

#[tokio::test]
async fn a_queued_submission_can_be_found_and_removed() {
    let nats = TestNats::start().await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    publish(&service, Lane::Batch, "a1")
        .await
        .expect("published");
    let (lane, stored) = queue::find_queued(&worker, &tenant(), &id("a1"))
        .await
        .expect("asked")
        .expect("queued");
    assert_eq!(
        (lane, &stored.body[..]),
        (Lane::Batch, &b"{\"id\":\"a1\"}"[..])
    );
    assert_eq!(
        queue::remove_queued(&worker, &tenant(), &id("a1"))
            .await
            .expect("purged"),
        1
    );
    assert_eq!(
        queue::remove_queued(&worker, &tenant(), &id("a1"))
            .await
            .expect("purged"),
        0
    );
    assert!(
        queue::find_queued(&worker, &tenant(), &id("a1"))
            .await
            .expect("asked")
            .is_none()
    );
}

// Settling

#[tokio::test]
async fn eight_that_settle_at_once_store_one_result_and_all_see_it() {
    let nats = TestNats::start().await;
    let service = nats.bus(Role::Service).await;
    let mut listener = Results::new(&service)
        .subscribe(&tenant(), "a1")
        .await
        .expect("listening");
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
    service.client.flush().await.expect("flushed");
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
async fn ended_attempts_are_noted_once_whoever_notes_them() {
    let nats = TestNats::start().await;
    let attempts = Attempts::new(&nats.bus(Role::Worker).await);
    let ended = |worker: &str| Attempt {
        worker: worker.to_owned(),
        host: "h".into(),
        started_at: OffsetDateTime::UNIX_EPOCH,
        ended_at: OffsetDateTime::UNIX_EPOCH,
        error: "gone".into(),
    };
    let (tenant, id) = (tenant(), id("a1"));
    let names = ["w0", "w1", "w2", "w3"].map(ended);
    let notes = names
        .iter()
        .map(|attempt| attempts.note(&tenant, &id, 1, attempt));
    for noted in futures_util::future::join_all(notes).await {
        assert!(!noted.expect("noted").is_empty());
    }
    assert_eq!(
        attempts
            .note(&tenant, &id, 1, &ended("w0"))
            .await
            .expect("noted")
            .len(),
        4
    );
    assert_eq!(
        attempts
            .note(&tenant, &id, 2, &ended("w0"))
            .await
            .expect("noted")
            .len(),
        1
    );
    let read = attempts.read(&tenant, &id).await.expect("read");
    assert_eq!(read.record.expect("there").generation, 2);
    let stale = attempts
        .update(&tenant, &id, &Record::default(), read.revision - 1)
        .await;
    assert!(
        matches!(stale, Err(AttemptsError::Changed { .. })),
        "{stale:?}"
    );
    attempts.delete(&tenant, &id).await.expect("deleted");
    assert!(
        attempts
            .read(&tenant, &id)
            .await
            .expect("read")
            .record
            .is_none()
    );
    assert_eq!(
        attempts
            .note(&tenant, &id, 0, &ended("w0"))
            .await
            .expect("noted")
            .len(),
        1
    );
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
    events::publish(&worker, &event, Encoding::Json)
        .await
        .expect("sent");
    (event.attempt, event.worker) = (2, "w2".into());
    events::publish(&worker, &event, Encoding::Json)
        .await
        .expect("sent");
    worker.client.flush().await.expect("flushed");
    let last = events::last_started(&worker, &tenant(), &id("a1"))
        .await
        .expect("asked");
    assert_eq!(last, Some(event));
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
        slots: 2,
        running: vec![Running {
            tenant: tenant(),
            id: "a".into(),
            since: OffsetDateTime::UNIX_EPOCH,
        }],
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

// The server

#[tokio::test]
async fn one_data_directory_has_one_server_that_keeps_its_passwords() {
    let mut nats = TestNats::start().await;
    let url = nats.url(Role::Service);
    let second = NatsServer::start(&nats.nats_config(Role::Operator), nats.data_dir()).await;
    assert!(matches!(second, Err(ServerError::InUse(_))), "{second:?}");
    assert_eq!(
        running_url(nats.data_dir(), Role::Service),
        Some(url.clone())
    );
    publish(&nats.bus(Role::Service).await, Lane::Batch, "a1")
        .await
        .expect("published");
    let pid = nats.pid();
    nats.pause().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(running_url(nats.data_dir(), Role::Service), None);
    nats.resume().await;
    assert_eq!(nats.url(Role::Service), url, "same port, same password");
    let queued = queue::find_queued(&nats.bus(Role::Worker).await, &tenant(), &id("a1"))
        .await
        .expect("asked");
    assert!(queued.is_some(), "what was acknowledged is still there");
}

#[tokio::test]
async fn a_server_that_an_earlier_run_left_behind_is_replaced() {
    let mut nats = TestNats::start().await;
    let old = nats.pid();
    nats.pause().await;
    // As an owner that was killed leaves it: a server, its pid file, and nobody that holds the lock.
    let dir = nats.data_dir().join("nats").canonicalize().expect("there");

    let mut left = std::process::Command::new(nats.program())
        .arg("-c")
        .arg(dir.join("server.conf"))
        .args(["-p", "-1"])
        .current_dir(&dir)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("started");
    std::fs::write(dir.join("nats-server.pid"), left.id().to_string()).expect("written");
    let reaper = std::thread::spawn(move || left.wait());
    nats.resume().await;
    assert_ne!(nats.pid(), old);
    reaper.join().expect("no panic").expect("it was ended");
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_the_end_of_its_log() {
    let nats = TestNats::start().await;
    let taken = nats
        .url(Role::Operator)
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a number");
    let mut config = nats.nats_config(Role::Operator);
    config.server_port = taken;
    let dir = tempfile::tempdir().expect("a directory");
    let error = NatsServer::start(&config, dir.path())
        .await
        .expect_err("the port is taken")
        .to_string();
    assert!(error.contains("address already in use"), "{error}");
}

#[tokio::test]
async fn who_cannot_connect_is_told_what_to_do() {
    let nats = TestNats::start().await;
    let mut config = nats.nats_config(Role::Service);
    let password = config
        .url
        .split(['@', ':'])
        .nth(2)
        .expect("a password")
        .to_owned();
    config.url = config.url.replace(&password, "wrong");
    let error = Bus::connect(&config, Role::Service, "test")
        .await
        .expect_err("refused");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    config.url = config.url.replace("service:wrong@", "");
    let error = Bus::connect(&config, Role::Service, "test")
        .await
        .expect_err("refused");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    config.credentials_file = Some(nats.data_dir().join("nats/credentials.toml"));
    Bus::connect(&config, Role::Service, "test")
        .await
        .expect("by the credentials file");
    config.url = "nats://127.0.0.1:1".into();
    config.connect_timeout_us = Micros(200_000);
    let error = Bus::connect(&config, Role::Service, "test")
        .await
        .expect_err("nobody there")
        .to_string();
    assert!(
        error.contains("127.0.0.1:1") && error.contains("--nats"),
        "{error}"
    );
}
