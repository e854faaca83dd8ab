//! Letters are found by every condition, and shown and exported whole.

use envicutor::submission::{dead_letter::DeadLetter, result::FailureCode};

use crate::{
    desk::{BODY, Desk, other_tenant, outcomes, packed},
    fleet::letters::{bury, letter},
};

#[tokio::test]
async fn letters_are_found_by_every_condition() {
    let desk = Desk::open().await;
    let mut labelled = letter("labelled", BODY);
    labelled.labels = [("course".to_owned(), "cs101".to_owned())].into();
    let mut image = letter("image", r#"{"runtime":"bash"}"#);
    image.reason.code = FailureCode::Image;
    let mut old = letter("old", "no JSON");
    old.dead_at -= time::Duration::hours(5);
    let mut elsewhere = letter("elsewhere", BODY);
    elsewhere.tenant = other_tenant();
    for letter in [&labelled, &image, &old, &elsewhere] {
        bury(&desk.worker, letter).await;
    }
    let conditions: [(&[&str], &[&str]); 12] = [
        (&[], &["labelled", "image", "old", "elsewhere"]),
        (&["--tenant", "other"], &["elsewhere"]),
        (&["--tenant", "nobody"], &[]),
        (&["--id", "old"], &["old"]),
        (&["--runtime", "python"], &["labelled", "elsewhere"]),
        (&["--runtime", "bash@5.2"], &[]),
        (&["--reason", "image"], &["image"]),
        (
            &[
                "--reason",
                "image",
                "--reason",
                "worker_lost",
                "--tenant",
                "default",
            ],
            &["labelled", "image", "old"],
        ),
        (&["--label", "course"], &["labelled"]),
        (&["--label", "course=cs102"], &[]),
        (&["--since", "2h"], &["labelled", "image", "elsewhere"]),
        (&["--limit", "2"], &["labelled", "image"]),
    ];
    for (condition, expected) in conditions {
        let listed = desk
            .operator
            .json(&[&["dead", "ls", "--json"], condition].concat())
            .await;
        let found: Vec<_> = listed
            .iter()
            .map(|letter| letter["id"].as_str().expect("an id"))
            .collect();
        assert_eq!(found, expected, "{condition:?}");
    }
    let unknown = desk.operator.run(&["dead", "ls", "--reason", "lost"]).await;
    assert_eq!(unknown.code, 2, "{unknown:?}");
}

#[tokio::test]
async fn more_letters_than_a_batch_of_reads_are_all_listed_in_order() {
    let desk = Desk::open().await;
    desk.bury(150).await;
    let removed = desk
        .operator
        .json(&["dead", "rm", "70", "1", "150", "--json"])
        .await;
    assert_eq!(outcomes(&removed).len(), 3);
    let expected: Vec<u64> = (2..150).filter(|sequence| *sequence != 70).collect();
    assert_eq!(desk.sequences().await, expected);
}

#[tokio::test]
async fn a_letter_is_shown_whole_and_exported_whole() {
    let desk = Desk::open().await;
    let mut buried = letter("shown", BODY);
    buried.log_tail = vec!["a line\x1b[2J".into()];
    let sequence = bury(&desk.worker, &buried).await.to_string();
    let shown = desk.operator.run(&["dead", "show", &sequence]).await;
    for part in [
        "default/shown",
        "worker_lost",
        "on w1 (h1)",
        "a line\\x1b[2J",
        "\"memory_bytes\":1048576",
    ] {
        assert!(shown.stdout.contains(part), "{part} in\n{}", shown.stdout);
    }
    let json = desk
        .operator
        .json(&["dead", "show", &sequence, "--json"])
        .await;
    assert_eq!(json[0]["sequence"], 1);
    let read: DeadLetter =
        serde_json::from_value(json[0].clone()).expect("the message of the contract");
    assert_eq!(read, buried);
    let body = desk
        .operator
        .run(&["dead", "show", &sequence, "--body"])
        .await;
    assert_eq!(body.stdout, BODY);

    bury(&desk.worker, &packed("packed")).await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("letters");
    let file = file.to_str().expect("UTF-8");
    let exported = desk
        .operator
        .run(&["dead", "export", "--output", file])
        .await;
    assert_eq!(exported.code, 0, "{exported:?}");
    let written = std::fs::read_to_string(file).expect("written");
    let lines: Vec<DeadLetter> = written
        .lines()
        .map(|line| serde_json::from_str(line).expect("a letter"))
        .collect();
    assert_eq!(lines[0], buried);
    assert_eq!(lines[1].submission, packed("packed").submission);
    let again = desk
        .operator
        .run(&["dead", "export", "--output", file])
        .await;
    assert_eq!(again.code, 2, "an export overwrites nothing: {again:?}");

    let none = desk.operator.run(&["dead", "show", "99"]).await;
    assert!(
        none.code == 2 && none.stderr.contains("no dead letter 99"),
        "{none:?}"
    );
}
