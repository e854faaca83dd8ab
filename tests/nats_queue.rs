//! Taking from a queue: what is handed out, renewed, handed back, woken for; and what hostile publishers put there. Against a
//! real nats-server.

mod fleet;

use std::time::Duration;

use async_nats::HeaderMap;
use envicutor::{
    bus::{
        Role,
        queue::{self, Puller, QueueError},
        results::Settled,
        wake::Wakes,
    },
    submission::{encoding::Encoding, names::Lane, units::Micros},
};
use fleet::{
    messages::{DEADLINE, id, publish, pull, result, settle, tenant},
    nats::{RawClient, TestNats},
};
use time::OffsetDateTime;

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
    assert!(matches!(error, QueueError::Nobody { .. }), "{error}");
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
async fn a_message_that_no_client_can_read_does_not_stop_the_queue() {
    let nats =
        TestNats::start_with(|config| config.nats.request_timeout_us = Micros(1_000_000)).await;
    let (service, worker) = (nats.bus(Role::Service).await, nats.bus(Role::Worker).await);
    let mut puller = Puller::new(&worker).await.expect("a puller");
    let poisons: [(&[u8], &[u8]); 3] = [
        (
            b"envicutor.submissions.default.batch.p1",
            b"NATS/1.0\r\nno colon\r\n\r\n",
        ),
        (
            b"envicutor.submissions.default.batch.p2",
            b"NATS/1.0\r\nA: \xff\r\n\r\n",
        ),
        (
            b"envicutor.submissions.default.batch.p\xff",
            b"NATS/1.0\r\nA: b\r\n\r\n",
        ),
    ];
    for (subject, headers) in poisons {
        let mut raw = RawClient::connect(&nats, Role::Service).await;
        raw.publish_bytes(subject, headers, b"{}").await;
    }
    publish(&service, Lane::Batch, "good")
        .await
        .expect("published");
    let good = pull(&mut puller, Lane::Batch).await;
    assert_eq!(good.address.raw_id, "good");
    good.ack().await.expect("acknowledged");
    let info: serde_json::Value = worker
        .api("STREAM.INFO.SUBMISSIONS_default", &serde_json::Value::Null)
        .await
        .expect("asked");
    assert_eq!(
        info["state"]["messages"], 0,
        "what cannot be read was removed"
    );
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
async fn a_queued_submission_can_be_found() {
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
}
