//! Letters are removed, and nothing is done to many that was not asked for.

use envicutor::{bus::Role, submission::result::FailureCode};

use crate::{
    desk::{BODY, Desk, outcomes},
    fleet::{
        letters::{bury, letter},
        operator::Operator,
    },
};

#[tokio::test]
async fn nothing_is_done_to_all_letters_or_many_that_was_not_asked_for() {
    let desk = Desk::open().await;
    desk.bury(3).await;
    for what in ["replay", "rm"] {
        let said = desk.operator.run(&["dead", what]).await;
        assert!(said.code == 2 && said.stderr.contains("--all"), "{said:?}");
        for many in [&["--all"][..], &["--reason", "worker_lost"]] {
            let said = desk.operator.run(&[&["dead", what], many].concat()).await;
            assert!(said.code == 2 && said.stderr.contains("--yes"), "{said:?}");
            let rehearsed = desk
                .operator
                .json(&[&["dead", what, "--dry-run", "--json"], many].concat())
                .await;
            assert_eq!(outcomes(&rehearsed).len(), 3, "{rehearsed:?}");
        }
        let missing = desk.operator.run(&["dead", what, "2", "99"]).await;
        assert!(
            missing.code == 2 && missing.stderr.contains("no dead letter 99"),
            "{missing:?}"
        );
    }
    assert_eq!(desk.sequences().await, [1, 2, 3]);
    assert_eq!(desk.generation_queued("a0").await, None);

    let service = Operator::new(&desk.nats.url(Role::Service));
    let refused = service.run(&["dead", "rm", "1"]).await;
    assert!(
        refused.code == 2 && refused.stderr.contains("operator"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn letters_are_removed_by_sequence_and_by_condition_and_nothing_else_is() {
    let desk = Desk::open().await;
    desk.bury(30).await;
    let mut image = letter("image", BODY);
    image.reason.code = FailureCode::Image;
    bury(&desk.worker, &image).await;
    let said = desk.operator.run(&["dead", "rm", "3"]).await;
    assert!(said.stdout.contains("default/a2  removed"), "{said:?}");
    let said = desk
        .operator
        .run(&["dead", "rm", "--reason", "worker_lost", "--yes"])
        .await;
    assert!(said.stdout.contains("29 removed"), "{said:?}");
    assert_eq!(desk.sequences().await, [31]);
    assert!(desk.queued("a0").await.is_none());
}
