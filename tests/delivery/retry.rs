//! Step 8: what fails through us is tried again with care, and an end is made of what fails every time. Whoever only ran beside it
//! comes through.

use envicutor::submission::{
    names::Lane,
    result::{FailureCode, Outcome},
};

use crate::{
    fleet::eventually,
    site::{LONG, Site, docker, signal, worker::Worker},
};

/// Waits until `id` has begun to run `attempt` times.
async fn runs(site: &Site, id: &str, attempt: usize) {
    eventually("it runs", LONG, || async {
        site.seen.events(id, "stage_started").len() >= attempt
    })
    .await;
}

/// Kills what is PID 1 of the worker's only container.
async fn kill_agent(worker: &Worker) {
    let containers = worker.containers().await;
    assert_eq!(containers.len(), 1, "{containers:?}");
    docker(&["kill", "--signal", "KILL", &containers[0]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_whose_agent_dies_once_runs_again_in_another_container() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    site.submit("a1", "sleep 3; echo done").await;
    runs(&site, "a1", 1).await;
    kill_agent(&worker).await;
    let result = site.result("a1").await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Finished, 2));
    assert!(site.letters().await.is_empty());
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_whose_agent_dies_every_time_is_dead_lettered_with_its_history() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    site.submit("a1", "sleep 50").await;
    for attempt in 1..=3 {
        runs(&site, "a1", attempt).await;
        kill_agent(&worker).await;
    }
    let result = site.result("a1").await;
    assert_eq!(result.outcome, Outcome::Failed);
    site.await_empty_queue().await;
    let letters = site.letters().await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0].letter;
    assert_eq!(letter.reason.code, FailureCode::Agent);
    assert_eq!(letter.attempts.len(), 3);
    assert!(letter.attempts.iter().all(|it| it.worker == worker.id));
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_counts_as_an_attempt_and_the_worker_lives() {
    let site = Site::start().await;
    let worker = site.worker("w").fail_point("ran#1:panic").start().await;
    site.submit("a1", "echo done").await;
    let result = site.result("a1").await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Finished, 2));
    let noted = site.attempts("a1").await.expect("noted");
    assert_eq!(noted.last_code, Some(FailureCode::Internal));
    assert!(noted.attempts[0].error.contains("panicked"));
    site.end([worker]).await;
}

/// The last attempt of what lost its workers: nothing else runs meanwhile, and nothing else is lost with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_attempt_after_a_lost_worker_runs_alone() {
    let site = Site::start().await;
    let worker = |name| site.worker(name).env("WORKER__MAX_ATTEMPTS", 2);
    let body = Site::body("sleep 50");
    let publish = |id| site.publish(Lane::Interactive, id, body.clone());
    let victim = worker("victim").start().await;
    publish("suspect").await;
    runs(&site, "suspect", 1).await;
    let mut worker = worker("w").env("WORKER__SLOTS", 2).start().await;
    publish("before").await;
    runs(&site, "before", 1).await;
    victim.kill().await;
    // It waits for the one that runs, and the one that is published now waits for it.
    worker.await_log("waits until nothing else runs").await;
    site.submit("after", "true").await;
    // Another attempt's result ends each that runs.
    site.store_another("before", 0, &body).await;
    runs(&site, "suspect", 2).await;
    site.store_another("suspect", 0, &body).await;
    site.await_empty_queue().await;
    site.seen.settle().await;
    let expected = [
        "started suspect",
        "started before",
        "ended before",
        "started suspect",
        "ended suspect",
        "started after",
        "ended after",
    ];
    assert_eq!(site.seen.order(), expected);
    site.end([worker]).await;
}

/// A crash of the server may forget the event that told of a start. What is noted from the second on is not forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_remembered_over_a_crash_of_the_server_from_the_second_on() {
    let mut site = Site::start().await;
    for attempt in 1..=2 {
        let victim = site.worker("victim").start().await;
        if attempt == 1 {
            site.submit("a1", "sleep 3; echo done").await;
        }
        runs(&site, "a1", attempt).await;
        victim.kill().await;
    }
    site.nats().restart().await;
    site.forget_events().await;
    let survivor = site.worker("survivor").start().await;
    let result = site.result("a1").await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Finished, 3));
    let noted = site.attempts("a1").await.expect("noted");
    assert_eq!(noted.workers_lost, 2);
    site.end([survivor]).await;
}

/// The results cannot be written: the run is over, and its result cannot be told.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_results_is_counted_against_nobody() {
    let site = Site::start().await;
    let mut worker = site
        .worker("first")
        .env("WORKER__RETRY_MAX_US", "1s")
        .fail_point("settle:lose")
        .start()
        .await;
    site.submit("a1", "echo done").await;
    worker.await_log("it is not known whether the result").await;
    worker.drain().await;
    let worker = site.worker("second").start().await;
    is_uncounted(&site).await;
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_counted_against_nobody() {
    let mut site = Site::start().await;
    let mut worker = site.worker("w").start().await;
    site.submit("a1", "sleep 6; echo done").await;
    runs(&site, "a1", 1).await;
    let pid = site.nats().pid();
    signal(pid, "STOP").await;
    worker.await_log("could not be renewed and is lost").await;
    signal(pid, "CONT").await;
    is_uncounted(&site).await;
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_nats_is_counted_against_nobody() {
    let mut site = Site::start().await;
    let mut worker = site.worker("w").start().await;
    site.submit("a1", "sleep 6; echo done").await;
    runs(&site, "a1", 1).await;
    site.nats().pause().await;
    worker.await_log("could not be renewed and is lost").await;
    site.nats().resume().await;
    is_uncounted(&site).await;
    site.end([worker]).await;
}

async fn is_uncounted(site: &Site) {
    let result = site.result("a1").await;
    assert_eq!(result.outcome, Outcome::Finished);
    site.await_empty_queue().await;
    let noted = site.attempts("a1").await.expect("noted");
    assert_eq!((noted.attempts.len(), noted.workers_lost), (0, 0));
    assert!(noted.handed_back > 0, "{noted:#?}");
}
