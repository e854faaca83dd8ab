//! A worker dies between two steps; another one goes on.

use crate::fleet::eventually;
use crate::site::{LONG, Site};

/// Steps 2 and 3.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_with_the_message_in_hand_has_started_nothing() {
    let site = Site::start().await;
    let victim = site
        .worker("victim")
        .fail_point("pulled:abort")
        .start()
        .await;
    site.submit("a1", "echo done").await;
    victim.dies().await;

    let survivor = site.worker("survivor").start().await;
    let result = site.result("a1").await;
    assert_eq!((&result.worker, result.attempt), (&survivor.id, 1));
    assert_eq!(result.runs[0].stdout.data, b"done\n");
    assert!(site.letters().await.is_empty());
    site.end([survivor]).await;
}

/// Step 6, before anything of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_started_has_used_an_attempt() {
    let site = Site::start().await;
    let victim = site
        .worker("victim")
        .fail_point("started:hang")
        .start()
        .await;
    site.submit("a1", "echo done").await;
    eventually("it started", LONG, || async {
        !site.seen.events("a1", "started").is_empty()
    })
    .await;
    let lost = victim.id.clone();
    victim.kill().await;

    let survivor = site.worker("survivor").start().await;
    let result = site.result("a1").await;
    assert_eq!((&result.worker, result.attempt), (&survivor.id, 2));
    let noted = site.attempts("a1").await.expect("noted");
    assert_eq!((noted.attempts.len(), noted.workers_lost), (1, 1));
    assert_eq!(noted.attempts[0].worker, lost);
    site.end([survivor]).await;
}

/// Step 6, in the middle of a run.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_mid_run_leaves_the_run_to_another() {
    let site = Site::start().await;
    let victim = site.worker("victim").start().await;
    site.submit("a1", "sleep 2; echo done").await;
    eventually("it runs", LONG, || async {
        !site.seen.events("a1", "stage_started").is_empty()
    })
    .await;
    victim.kill().await;

    let survivor = site.worker("survivor").start().await;
    let result = site.result("a1").await;
    assert_eq!((&result.worker, result.attempt), (&survivor.id, 2));
    site.end([survivor]).await;
}

/// Between steps 6 and 7: the code has run, and runs once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_the_run_has_it_run_again() {
    let site = Site::start().await;
    let victim = site.worker("victim").fail_point("ran:abort").start().await;
    site.submit("a1", "echo done").await;
    victim.dies().await;
    assert!(site.seen.results("a1").is_empty());

    let survivor = site.worker("survivor").start().await;
    let result = site.result("a1").await;
    assert_eq!((&result.worker, result.attempt), (&survivor.id, 2));
    site.end([survivor]).await;
}

/// Step 7: the server has the result, and nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_before_it_hears_that_the_result_is_stored_has_settled() {
    Box::pin(stored_and_dead("stored:abort")).await;
}

/// Step 7, before the ack.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_settle_and_ack_has_settled() {
    Box::pin(stored_and_dead("settled:abort")).await;
}

/// The result stands: the next delivery runs nothing.
async fn stored_and_dead(fail_point: &str) {
    let site = Site::start().await;
    let victim = site.worker("victim").fail_point(fail_point).start().await;
    site.submit("a1", "echo done").await;
    let settler = victim.id.clone();
    victim.dies().await;
    assert_eq!(site.queued().await, 1, "it is not acknowledged");

    let survivor = site.worker("survivor").start().await;
    site.await_empty_queue().await;
    assert_eq!(site.result("a1").await.worker, settler);
    assert_eq!(site.seen.events("a1", "started").len(), 1);
    site.end([survivor]).await;
}

/// After step 7.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_the_ack_leaves_nothing_to_do() {
    let site = Site::start().await;
    let victim = site
        .worker("victim")
        .fail_point("acked:abort")
        .start()
        .await;
    site.submit("a1", "echo done").await;
    let settler = victim.id.clone();
    victim.dies().await;
    assert_eq!(site.queued().await, 0);

    let survivor = site.worker("survivor").start().await;
    assert_eq!(site.result("a1").await.worker, settler);
    site.end([survivor]).await;
}
