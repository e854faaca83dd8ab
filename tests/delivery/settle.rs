//! Step 7, with a server that answers otherwise than a worker hopes: the settlement or its ack is lost, refused, or meets another
//! result. Each worker here lives on.

use envicutor::submission::{
    names::{Digest, Lane},
    result::{FailureCode, Outcome},
};

use crate::{
    fleet::{
        cluster::{Cluster, NODES},
        eventually, slowly,
    },
    site::{LONG, Site, micros},
};

/// What RESULTS answers to a result that expects nothing under its subject.
async fn refusal(site: &Site, id: &str) -> Option<u64> {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
    let subject = format!("envicutor.settle.default.{id}");
    let refused = site.bus.publish_stored(&subject, headers, "{}".into());
    let refused = refused.await.expect_err("something stands, or is about to");
    refused.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_is_lost_is_sent_again() {
    let site = Site::start().await;
    let worker = site.worker("w").fail_point("settle#1:lose").start().await;
    site.submit("a1", "echo done").await;
    assert_eq!(site.result("a1").await.attempt, 1);
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_whose_ack_is_lost_is_found_to_stand() {
    let site = Site::start().await;
    let worker = site.worker("w").fail_point("stored#1:lose").start().await;
    site.submit("a1", "echo done").await;
    site.await_empty_queue().await;
    assert_eq!(site.seen.events("a1", "started").len(), 1);
    site.end([worker]).await;
}

/// Refused with 10071: another result came between the end of the run and the settlement.
#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_is_refused_leaves_the_result_that_stands() {
    let site = Site::start_with(|config| config.nats.ack_wait_us = micros(slowly(LONG))).await;
    let worker = site.worker("w").fail_point("ran:stop").start().await;
    let body = Site::body("echo done");
    site.publish(Lane::Interactive, "a1", body.clone()).await;
    worker.stops().await;
    site.store_another("a1", 0, &body).await;
    assert_eq!(refusal(&site, "a1").await, Some(10071));
    worker.signal("CONT").await;
    site.await_empty_queue().await;
    assert_eq!(site.result("a1").await.worker, "another");
    assert!(site.letters().await.is_empty());
    site.end([worker]).await;
}

/// Refused with 10164: another result is in flight, and nobody knows yet whether it will stand. Only a stream of several copies
/// answers so; on one server a publish of a single message is stored before the next one is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_is_refused_for_one_in_flight_waits_for_what_stands() {
    let cluster = Cluster::start_with(|config| {
        config.nats.ack_wait_us = micros(slowly(LONG));
    })
    .await;
    let leader = cluster.leader("RESULTS").await;
    let others: Vec<_> = (0..NODES).filter(|node| *node != leader).collect();
    let site = Site::start_on(&cluster, leader).await;
    let worker = site.worker("w").fail_point("ran:stop").start().await;
    let body = Site::body("echo done");
    site.publish(Lane::Interactive, "a1", body.clone()).await;
    worker.stops().await;
    // From here on the leader finds no majority.
    for node in &others {
        cluster.hang(*node).await;
    }
    let another = site.store_another("a1", 0, &body);
    let meanwhile = async {
        eventually("another result is in flight", LONG, || async {
            site.seen.settlements("a1") == 1
        })
        .await;
        assert_eq!(refusal(&site, "a1").await, Some(10164));
        worker.signal("CONT").await;
        eventually("the worker is refused", LONG, || async {
            worker.log().contains("(error 10164)")
        })
        .await;
        for node in &others {
            cluster.go_on(*node).await;
        }
    };
    tokio::join!(another, meanwhile);
    site.await_empty_queue().await;
    assert_eq!(site.result("a1").await.worker, "another");
    site.end([worker]).await;
}

/// Refused with 10071 though nothing stands: the result of the generation before, which the settlement expects, ages out.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_ages_out_in_mid_run_does_not_stop_the_next_generations() {
    let mut site = Site::start_with(|config| {
        config.nats.ack_wait_us = micros(slowly(LONG));
        config.nats.result_age_us = micros(slowly(std::time::Duration::from_secs(3)));
    })
    .await;
    site.results_age_out = true;
    let worker = site.worker("w").fail_point("settle#1:stop").start().await;
    site.store_another("a1", 0, "the first").await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Envicutor-Generation", "1");
    crate::fleet::publish_with(
        &site.bus.client,
        "interactive",
        "a1",
        headers,
        Site::body("echo done").into_bytes(),
    )
    .await
    .expect("the publish is acknowledged");
    // It has seen what stands, and is about to settle over it.
    worker.stops().await;
    eventually("the first result is gone", LONG, || async {
        let last = site.bus.get_last("RESULTS", "envicutor.results.default.a1");
        last.await.expect("answered").is_none()
    })
    .await;
    worker.signal("CONT").await;
    assert_eq!(site.result_of("a1", 1).await.worker, worker.id);
    let log = worker.log();
    assert!(
        log.contains("wrong last sequence: 0 (error 10071)"),
        "{log}"
    );
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_appears_in_mid_run_ends_the_run() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let body = Site::body("sleep 50");
    site.publish(Lane::Interactive, "a1", body.clone()).await;
    eventually("it runs", LONG, || async {
        !site.seen.events("a1", "stage_started").is_empty()
    })
    .await;
    site.store_another("a1", 0, &body).await;
    site.await_empty_queue().await;
    assert!(site.letters().await.is_empty());
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_other_content_that_appears_in_mid_run_dead_letters_what_ran() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let body = Site::body("sleep 50");
    site.publish(Lane::Interactive, "a1", body.clone()).await;
    eventually("it runs", LONG, || async {
        !site.seen.events("a1", "stage_started").is_empty()
    })
    .await;
    site.store_another("a1", 0, "other content").await;
    is_dead_as_reused(&site, &body).await;
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_meets_a_result_of_other_content_dead_letters_what_ran() {
    let site = Site::start_with(|config| config.nats.ack_wait_us = micros(slowly(LONG))).await;
    let worker = site.worker("w").fail_point("ran:stop").start().await;
    let body = Site::body("echo done");
    site.publish(Lane::Interactive, "a1", body.clone()).await;
    worker.stops().await;
    site.store_another("a1", 0, "other content").await;
    worker.signal("CONT").await;
    is_dead_as_reused(&site, &body).await;
    site.end([worker]).await;
}

async fn is_dead_as_reused(site: &Site, body: &str) {
    site.await_empty_queue().await;
    let letters = site.letters().await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0].letter;
    assert_eq!(letter.reason.code, FailureCode::IdReused);
    assert_eq!(letter.submission.body, body.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_is_lost_is_made_good_by_the_next_delivery() {
    let site = Site::start().await;
    let worker = site.worker("w").fail_point("ack#1:lose").start().await;
    site.submit("a1", "echo done").await;
    site.await_empty_queue().await;
    assert_eq!(site.seen.events("a1", "started").len(), 1);
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_was_not_heard_to_arrive_is_one() {
    let site = Site::start().await;
    let worker = site.worker("w").fail_point("acked#1:lose").start().await;
    site.submit("a1", "echo done").await;
    site.await_empty_queue().await;
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_in_both_lanes_has_one_result() {
    let site = Site::start().await;
    let body = Site::body("sleep 1; echo done");
    for lane in Lane::ALL {
        site.publish(lane, "a1", body.clone()).await;
    }
    let worker = site.worker("w").env("WORKER__SLOTS", 2).start().await;
    site.await_empty_queue().await;
    assert_eq!(site.result("a1").await.outcome, Outcome::Finished);
    assert!(site.letters().await.is_empty());
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_in_both_lanes_with_other_content_loses_neither() {
    let site = Site::start().await;
    let bodies = ["sleep 1; echo one", "sleep 1; echo two"].map(Site::body);
    for (lane, body) in Lane::ALL.into_iter().zip(&bodies) {
        site.publish(lane, "a1", body.clone()).await;
    }
    let worker = site.worker("w").env("WORKER__SLOTS", 2).start().await;
    site.await_empty_queue().await;
    let result = site.result("a1").await;
    let letters = site.letters().await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0].letter;
    assert_eq!(letter.reason.code, FailureCode::IdReused);
    let dead = Digest::of(&letter.submission.body);
    let mut all = [dead, result.submission_digest.clone()];
    let mut expected = bodies.map(|body| Digest::of(body.as_bytes()));
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
    site.end([worker]).await;
}
