//! Step 6: the delivery is lost while the worker lives. It kills its run and is silent: a nak or a term of the old delivery would act
//! on the newer one.

use crate::{
    fleet::eventually,
    site::{LONG, Site, seen::Answer},
};

async fn runs(site: &Site, attempt: usize) {
    eventually("it runs", LONG, || async {
        site.seen.events("a1", "stage_started").len() >= attempt
    })
    .await;
}

/// What was said of the first delivery besides renewals.
fn last_words(site: &Site) -> Vec<Answer> {
    let answers = site.seen.answers(1).into_iter();
    answers
        .filter(|answer| answer.delivery == 1 && answer.word != "+WPI")
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_renew_kills_its_run_and_is_silent() {
    let site = Site::start().await;
    let first = site.worker("first").fail_point("renew:lose").start().await;
    site.submit("a1", "sleep 4; echo done").await;
    runs(&site, 1).await;
    // No more work for it; what it runs may go on.
    first.signal("TERM").await;
    let second = site.worker("second").start().await;
    let result = site.result("a1").await;
    assert_eq!(result.worker, second.id);
    assert!(result.attempt > 1);
    assert_eq!(last_words(&site), []);
    assert_eq!(first.containers().await, Vec::<String>::new());
    // It lives, so that the attempt does not count against the submission.
    let noted = site.attempts("a1").await.expect("noted");
    assert_eq!(noted.attempts, []);
    assert!(noted.handed_back > 0);
    site.end([second]).await;
    first.ends().await;
}

/// The server hands a message out twice, as it does after a nak of an old delivery, or when its clock is set forward.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_attempts_at_once_the_one_that_settles_first_ends_the_other() {
    let site = Site::start().await;
    let second = site.worker("second").start().await;
    second.signal("STOP").await;
    let first = site.worker("first").start().await;
    site.submit("a1", "sleep 6; echo done").await;
    runs(&site, 1).await;
    eventually("it is renewed", LONG, || async {
        site.seen.ack_subject(1, 1).is_some()
    })
    .await;
    let ack = site.seen.ack_subject(1, 1).expect("seen");
    second.signal("CONT").await;
    let nak = site.bus.client.publish(ack, "-NAK".into()).await;
    nak.expect("sent");
    runs(&site, 2).await;
    let result = site.result("a1").await;
    assert_eq!((&result.worker, result.attempt), (&first.id, 1));
    site.end([first, second]).await;
}

/// The second holder is done when the first one, stopped in mid-run, goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_wakes_up_after_another_is_done_changes_nothing() {
    let site = Site::start().await;
    let first = site.worker("first").start().await;
    site.submit("a1", "sleep 3; echo done").await;
    runs(&site, 1).await;
    first.signal("STOP").await;
    let second = site.worker("second").start().await;
    let result = site.result("a1").await;
    assert_eq!((&result.worker, result.attempt), (&second.id, 2));
    first.signal("CONT").await;
    site.end([first, second]).await;
}

/// A late ack removes the message under the worker that has it now: the result stands already, so that nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_ack_loses_nothing() {
    let site = Site::start().await;
    let first = site.worker("first").fail_point("ack:stop").start().await;
    site.submit("a1", "echo done").await;
    first.stops().await;
    let second = site
        .worker("second")
        .fail_point("pulled:stop")
        .start()
        .await;
    second.stops().await;
    first.signal("CONT").await;
    site.await_empty_queue().await;
    second.signal("CONT").await;
    assert_eq!(site.result("a1").await.worker, first.id);
    assert_eq!(site.seen.events("a1", "started").len(), 1);
    site.end([first, second]).await;
}

/// A nak of the old delivery would hand the message out once more while the newer one runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_hand_back_is_not_sent() {
    let site = Site::start().await;
    let first = site
        .worker("first")
        .fail_point("ran:panic,counted:stop")
        .start()
        .await;
    site.submit("a1", "echo done").await;
    first.stops().await;
    let second = site.worker("second").start().await;
    let result = site.result("a1").await;
    assert_eq!((&result.worker, result.attempt), (&second.id, 2));
    first.signal("CONT").await;
    site.end([first, second]).await;
}
