//! Step 8: what cannot be run ends in the dead letters, once, with its reason and its history, wherever a worker dies on the way
//! there.

use envicutor::submission::{
    names::Lane,
    result::{FailureCode, Outcome},
    units::ByteSize,
};

use crate::site::{Site, worker::Builder};

/// A worker that fails in every attempt and gives up after the first, and meets one more fail point.
fn failing(site: &Site, name: &str, then: &str) -> Builder {
    site.worker(name)
        .env("WORKER__MAX_ATTEMPTS", 1)
        .fail_point(&format!("ran:panic,{then}"))
}

/// One letter, and one `failed` result.
async fn is_dead_once(site: &Site, body: &str) {
    site.await_empty_queue().await;
    let letters = site.letters().await;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    let letter = &letters[0].letter;
    assert_eq!(letter.reason.code, FailureCode::Internal);
    assert_eq!(letter.attempts.len(), 1);
    assert_eq!(letter.submission.body, body.as_bytes());
    assert!(!letter.log_tail.is_empty());
    let result = site.result("a1").await;
    assert_eq!(result.outcome, Outcome::Failed);
    let failure = result.failure.expect("why");
    assert_eq!((failure.code, failure.attempts), (FailureCode::Internal, 1));
}

/// The first worker dies at `fail_point` on the way to the dead letters; the second goes on.
async fn dies_on_the_way(fail_point: &str) {
    let site = Site::start().await;
    // The server soon forgets what it stored by its id: the letter must be found.
    site.change_dead_letters("duplicate_window", 100_000_000)
        .await;
    let victim = failing(&site, "victim", fail_point).start().await;
    let body = Site::body("echo done");
    site.publish(Lane::Interactive, "a1", body.clone()).await;
    victim.dies().await;
    let survivor = site.worker("survivor").env("WORKER__MAX_ATTEMPTS", 1);
    let survivor = survivor.start().await;
    is_dead_once(&site, &body).await;
    assert_eq!(site.seen.events("a1", "started").len(), 1);
    site.end([survivor]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_the_last_attempt_is_counted_leaves_the_burial_to_another() {
    Box::pin(dies_on_the_way("counted:abort")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_letter_and_failed_result_leaves_one_letter() {
    Box::pin(dies_on_the_way("buried:abort")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_failed_result_and_ack_leaves_one_letter() {
    Box::pin(dies_on_the_way("settled:abort")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_whose_failed_result_loses_is_removed_by_whoever_goes_on() {
    let site = Site::start().await;
    let victim = failing(&site, "victim", "buried:abort").start().await;
    let body = Site::body("echo done");
    site.publish(Lane::Interactive, "a1", body.clone()).await;
    victim.dies().await;
    assert_eq!(site.letters().await.len(), 1);
    site.store_another("a1", 0, &body).await;
    let survivor = site.worker("survivor").start().await;
    site.await_empty_queue().await;
    assert!(site.letters().await.is_empty());
    site.end([survivor]).await;
}

/// Its id was used before: dead at once, and once.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_the_letter_of_a_reused_id_leaves_one_letter() {
    let site = Site::start().await;
    site.change_dead_letters("duplicate_window", 100_000_000)
        .await;
    let victim = site
        .worker("victim")
        .fail_point("ack#2:abort")
        .start()
        .await;
    site.submit("a1", "echo done").await;
    site.await_empty_queue().await;
    site.submit("a1", "echo other").await;
    victim.dies().await;
    assert_eq!(site.queued().await, 1);
    let survivor = site.worker("survivor").start().await;
    site.await_empty_queue().await;
    let letters = site.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].letter.reason.code, FailureCode::IdReused);
    site.end([survivor]).await;
}

/// Full dead letters make what fails wait; nothing is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn what_finds_no_room_in_the_dead_letters_is_buried_when_there_is() {
    let site = Site::start_with(|config| config.nats.dead_letter_bytes = ByteSize(512)).await;
    let mut worker = failing(&site, "w", "")
        .env("WORKER__RETRY_MAX_US", "1s")
        .start()
        .await;
    let body = Site::body("echo done");
    site.publish(Lane::Interactive, "a1", body.clone()).await;
    worker.await_log("the dead letter was not stored").await;
    assert_eq!(site.queued().await, 1);
    site.change_dead_letters("max_bytes", 1 << 20).await;
    is_dead_once(&site, &body).await;
    site.end([worker]).await;
}

/// The backstop: deliveries that end before anything is noted of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_kills_every_worker_before_it_starts_is_dead_lettered() {
    let site = Site::start().await;
    let body = Site::body("echo done");
    site.publish(Lane::Interactive, "a1", body.clone()).await;
    for _ in 0..2 {
        let victim = site.worker("victim").fail_point("pulled:abort").spawn();
        victim.dies().await;
    }
    let survivor = site.worker("survivor").env("WORKER__MAX_DELIVERIES", 2);
    let survivor = survivor.start().await;
    site.await_empty_queue().await;
    let letters = site.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].letter.reason.code, FailureCode::Deliveries);
    assert_eq!(site.result("a1").await.outcome, Outcome::Failed);
    assert!(site.seen.events("a1", "started").is_empty());
    site.end([survivor]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_contents_of_one_id_that_die_have_a_letter_each() {
    let site = Site::start().await;
    let bodies = ["echo one", "echo two"].map(Site::body);
    for (lane, body) in Lane::ALL.into_iter().zip(&bodies) {
        site.publish(lane, "a1", body.clone()).await;
    }
    let worker = failing(&site, "w", "").start().await;
    site.await_empty_queue().await;
    let letters = site.letters().await;
    let mut dead: Vec<_> = letters
        .iter()
        .map(|letter| letter.letter.submission.body.clone())
        .collect();
    dead.sort();
    assert_eq!(dead, bodies.map(String::into_bytes));
    site.end([worker]).await;
}
