//! What no body may do, and what is kept of one that is rejected.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

#[test]
fn a_rejected_submission_keeps_its_labels_and_events() {
    let changes = json!({"runtime": "cobol", "labels": {"course": "cs101", "bad": "\u{0}"}, "events": "output"});
    let rejected = check_value(&with(&changes)).expect_err("refused");
    assert_eq!(
        rejected.labels,
        BTreeMap::from([("course".into(), "cs101".into())])
    );
    assert_eq!(rejected.events, EventsWanted::Output);
    assert!(
        rejected.to_string().contains("runtime: this fleet has no"),
        "{rejected}"
    );
}

#[test]
fn an_error_never_repeats_a_long_text() {
    let long = "\u{1}".repeat(5_000);
    let file = json!({"path": format!("/{long}"), "text": "", long.clone(): 1});
    let changes = json!({
        "runtime": long, "entry": long, "compare": long, "labels": {long.clone(): long}, "files": [file, long],
        "run": {"env": {format!("={long}"): ""}, "limits": long}, "tests": [{"name": long}], long.clone(): long,
    });
    let rejected = check_value(&with(&changes)).expect_err("refused");
    assert!(rejected.errors.len() > 9, "{rejected:?}");
    for error in &rejected.errors {
        assert!(error.path.len() + error.message.len() < 2_000, "{error:?}");
    }
}

#[test]
fn the_number_of_errors_is_bounded() {
    let files = vec![json!(1); 900];
    let errors = errors(&json!({"files": files}));
    assert_eq!(errors.len(), 101);
    assert!(errors[100].message.starts_with("and "), "{:?}", errors[100]);
}

/// Valid bodies of both encodings, to be damaged.
fn bodies() -> [(Vec<u8>, &'static str); 2] {
    let example = example();
    [
        (
            serde_json::to_vec(&example).expect("encodes"),
            "application/json",
        ),
        (
            rmp_serde::to_vec_named(&example).expect("encodes"),
            "application/msgpack",
        ),
    ]
}

#[test]
fn a_truncated_body_is_refused_at_every_length() {
    let (catalogue, ceilings) = (catalogue(), ceilings());
    for (body, content_type) in bodies() {
        for length in 0..body.len() {
            let checked = check(&body[..length], Some(content_type), &catalogue, &ceilings);
            assert_eq!(checked.expect_err("refused").errors[0].path, "");
        }
    }
}

#[test]
fn a_damaged_body_never_panics() {
    let (catalogue, ceilings) = (catalogue(), ceilings());
    let mut random = StdRng::seed_from_u64(7);
    for (body, content_type) in bodies() {
        for _ in 0..5_000 {
            let mut body = body.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..body.len());
                body[at] = random.random();
            }
            if let Err(rejected) = check(&body, Some(content_type), &catalogue, &ceilings) {
                assert!((1..=101).contains(&rejected.errors.len()));
            }
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let (catalogue, ceilings) = (catalogue(), ceilings());
    let mut random = StdRng::seed_from_u64(8);
    for _ in 0..5_000 {
        let mut body = vec![0; random.random_range(0..200)];
        random.fill(&mut body[..]);
        for content_type in ["application/json", "application/msgpack"] {
            assert!(check(&body, Some(content_type), &catalogue, &ceilings).is_err());
        }
    }
}

/// Runs what `ancestors` of each path would make slow, within the size of a body.
#[test]
fn deep_paths_take_no_time() {
    let files: Vec<_> = (0..400)
        .map(|index| json!({"path": format!("{}{index}", "x/".repeat(500)), "text": ""}))
        .collect();
    let start = std::time::Instant::now();
    accepted(&json!({"files": files}));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}
