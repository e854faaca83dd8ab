//! Each invariant is shown a run that breaks it. A check that cannot fail is worth nothing.

use std::{collections::BTreeSet, time::Duration};

use time::OffsetDateTime;

use super::*;
use crate::{
    faults::{
        evidence::Letter,
        history::{Entry, Operation},
    },
    submission::names::Digest,
};

fn content(nonce: &str) -> Digest {
    Digest::of(nonce.as_bytes())
}

fn client(id: &str, operation: Operation) -> What {
    What::Client {
        id: id.to_owned(),
        operation,
    }
}

fn invoked(nonce: &str) -> Operation {
    Operation::Invoked {
        content: content(nonce),
        nonce: nonce.to_owned(),
    }
}

fn acknowledged(nonce: &str) -> Operation {
    Operation::Acknowledged {
        content: content(nonce),
        by: "sequence 1".to_owned(),
    }
}

fn refused(nonce: &str) -> Operation {
    Operation::Refused {
        content: content(nonce),
        why: "the queue is full".to_owned(),
    }
}

fn unknown(nonce: &str) -> Operation {
    Operation::Unknown {
        content: content(nonce),
        why: "no answer".to_owned(),
    }
}

fn finished(id: &str, nonce: &str, sequence: u64) -> Seen {
    Seen {
        id: id.to_owned(),
        generation: 0,
        attempt: 1,
        outcome: Outcome::Finished,
        verdict: Some(Verdict::Ok),
        failure: None,
        content: content(nonce),
        stdout: Some(format!("{nonce}\n").into_bytes()),
        worker: "w1".to_owned(),
        isolation: None,
        sequence,
        body: Digest::of(format!("{id} {nonce} {sequence}").as_bytes()),
    }
}

fn failed(id: &str, nonce: &str, sequence: u64) -> Seen {
    Seen {
        outcome: Outcome::Failed,
        verdict: None,
        failure: Some(FailureCode::WorkerLost),
        stdout: None,
        ..finished(id, nonce, sequence)
    }
}

fn letter(id: &str, nonce: &str, code: FailureCode, sequence: u64) -> Letter {
    Letter {
        id: id.to_owned(),
        generation: 0,
        code,
        content: content(nonce),
        attempts: 3,
        sequence,
    }
}

fn live(seen: Seen) -> What {
    What::Live {
        subscriber: 0,
        seen,
    }
}

fn read(seen: Seen) -> What {
    client(&seen.id.clone(), Operation::Read(Some(seen)))
}

/// A run that kept every promise: `a` ran, `b` lost three workers, `c` was refused, `d` was told nothing and ran after all, and
/// somebody else used the id of `a` again.
fn kept() -> Evidence {
    let (a, b, d) = (
        finished("a", "n-a", 1),
        failed("b", "n-b", 2),
        finished("d", "n-d", 3),
    );
    let whats = [
        client("a", invoked("n-a")),
        client("a", acknowledged("n-a")),
        client("b", invoked("n-b")),
        client("b", unknown("n-b")),
        client("b", invoked("n-b")),
        client("b", acknowledged("n-b")),
        client("c", invoked("n-c")),
        client("c", refused("n-c")),
        client("d", invoked("n-d")),
        client("d", unknown("n-d")),
        client("d", Operation::GaveUp),
        live(a.clone()),
        live(a.clone()),
        live(d.clone()),
        client("a", invoked("other")),
        client("a", acknowledged("other")),
        read(a.clone()),
        read(b.clone()),
        client("c", Operation::Read(None)),
        What::WorkerEnded {
            worker: "w1".to_owned(),
            cause: Cause::Killed,
            how: "signal: 9".to_owned(),
            after: Duration::from_secs(2),
        },
    ];
    let mut evidence = Evidence::default();
    evidence.history.extend(whats.map(entry));
    evidence.standing.results = vec![a, b, d];
    evidence.standing.letters = vec![
        letter("b", "n-b", FailureCode::WorkerLost, 1),
        letter("a", "other", FailureCode::IdReused, 2),
    ];
    evidence
}

fn entry(what: What) -> Entry {
    Entry {
        at: OffsetDateTime::UNIX_EPOCH,
        what,
    }
}

/// The names of the invariants that the run breaks after `change`.
fn broken_by(change: impl FnOnce(&mut Evidence)) -> BTreeSet<&'static str> {
    let mut evidence = kept();
    change(&mut evidence);
    let violations = check(&evidence);
    violations.iter().map(|it| it.invariant).collect()
}

fn add(what: What) -> impl FnOnce(&mut Evidence) {
    move |evidence| evidence.history.push(entry(what))
}

/// A change that breaks a run.
type Break = Box<dyn FnOnce(&mut Evidence)>;

/// Ways to break the run above, each with the invariants that it breaks.
#[expect(clippy::too_many_lines, reason = "a list, to be read from the top")]
fn breaks() -> Vec<(&'static [&'static str], Break)> {
    vec![
        // A submission vanished, and nobody saw a result.
        (
            &["nothing is lost"],
            Box::new(|run| {
                let whats = [
                    client("e", invoked("n-e")),
                    client("e", acknowledged("n-e")),
                ];
                run.history.extend(whats.map(entry));
            }),
        ),
        // The second content of an id vanished: its letter was dropped.
        (
            &["nothing is lost"],
            Box::new(|run| run.standing.letters.truncate(1)),
        ),
        // A publish was acknowledged after one that was refused.
        (
            &["nothing is lost"],
            Box::new(|run| {
                let whats = [
                    client("c", invoked("n-c")),
                    client("c", acknowledged("n-c")),
                ];
                run.history.extend(whats.map(entry));
            }),
        ),
        // A result that was seen is gone.
        (
            &["nothing is lost", "read by id", "seen is kept"],
            Box::new(|run| drop(run.standing.results.remove(0))),
        ),
        // The same, but another result took its place.
        (
            &["one result", "read by id", "seen is kept"],
            Box::new(|run| run.standing.results[0] = finished("a", "n-a", 9)),
        ),
        // Two attempts were both told.
        (
            &["one result", "seen is kept"],
            Box::new(add(live(finished("d", "n-d", 7)))),
        ),
        // The same bytes, stored twice.
        (
            &["one result", "seen is kept"],
            Box::new(|run| {
                let twice = Seen {
                    sequence: 8,
                    ..finished("d", "n-d", 3)
                };
                run.history.push(entry(live(twice)));
            }),
        ),
        // Dead without a letter.
        (
            &["failed and dead"],
            Box::new(|run| drop(run.standing.letters.remove(0))),
        ),
        // A letter of what finished.
        (
            &["failed and dead"],
            Box::new(|run| {
                let stray = letter("d", "n-d", FailureCode::Container, 3);
                run.standing.letters.push(stray);
            }),
        ),
        // Two letters for one death.
        (
            &["one letter"],
            Box::new(|run| {
                let again = letter("b", "n-b", FailureCode::WorkerLost, 3);
                run.standing.letters.push(again);
            }),
        ),
        // A result of what nobody published, under an id of nobody and under one in use.
        (
            &["nothing from nowhere"],
            Box::new(|run| run.standing.results.push(finished("x", "n-x", 9))),
        ),
        (
            &["nothing from nowhere"],
            Box::new(|run| {
                let stray = letter("a", "n-x", FailureCode::IdReused, 9);
                run.standing.letters.push(stray);
            }),
        ),
        // What was refused ran.
        (
            &["read by id", "refused is refused"],
            Box::new(|run| run.standing.results.push(finished("c", "n-c", 9))),
        ),
        (
            &["failed and dead", "refused is refused"],
            Box::new(|run| {
                let stray = letter("c", "n-c", FailureCode::WorkerLost, 9);
                run.standing.letters.push(stray);
            }),
        ),
        // Another submission's output.
        (
            &["right output"],
            Box::new(|run| run.standing.results[2].stdout = Some(b"n-a\n".to_vec())),
        ),
        (
            &["right output"],
            Box::new(|run| run.standing.results[2].verdict = Some(Verdict::RuntimeError)),
        ),
        (
            &["right output"],
            Box::new(|run| run.standing.results[2].outcome = Outcome::Cancelled),
        ),
        // A read that finds nothing, though a result stands.
        (
            &["read by id"],
            Box::new(add(client("a", Operation::Read(None)))),
        ),
        (
            &["queues are empty"],
            Box::new(|run| {
                let subject = "envicutor.submissions.default.batch.b";
                run.standing.queued.push(subject.to_owned());
            }),
        ),
        (
            &["queues are empty"],
            Box::new(|run| run.standing.unacknowledged = 1),
        ),
        (
            &["workers stay"],
            Box::new(add(What::WorkerEnded {
                worker: "w1".to_owned(),
                cause: Cause::Itself,
                how: "exit status: 101".to_owned(),
                after: Duration::ZERO,
            })),
        ),
        (
            &["no container"],
            Box::new(|run| run.leftovers.containers.push("c".to_owned())),
        ),
        (
            &["no part of a root"],
            Box::new(|run| run.leftovers.root_parts.push("p".to_owned())),
        ),
        (
            &["no cgroup"],
            Box::new(|run| run.leftovers.cgroups.push("g".to_owned())),
        ),
        (
            &["no process"],
            Box::new(|run| run.leftovers.processes.push("1".to_owned())),
        ),
        (
            &["no directory"],
            Box::new(|run| run.leftovers.directories.push("d".to_owned())),
        ),
    ]
}

#[test]
fn a_run_that_kept_every_promise_is_not_accused() {
    assert_eq!(check(&kept()), []);
}

#[test]
fn each_way_to_break_a_promise_is_seen_as_what_it_is() {
    for (place, (expected, change)) in breaks().into_iter().enumerate() {
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        assert_eq!(broken_by(change), expected, "the break {place} of the list");
    }
}

#[test]
fn every_invariant_is_broken_by_something() {
    let all: BTreeSet<_> = ALL.iter().map(|invariant| invariant.name).collect();
    assert_eq!(all.len(), ALL.len(), "two have one name");
    let broken: BTreeSet<_> = breaks()
        .into_iter()
        .flat_map(|(expected, _)| expected.iter().copied())
        .collect();
    assert_eq!(broken, all);
}

#[test]
fn the_documentation_names_every_invariant_and_says_the_same() {
    let page = include_str!("../../../docs/faults.md");
    let rows = ALL.map(|invariant| format!("| {} | {} |", invariant.name, invariant.promise));
    let table = page
        .split("| name | what it says |\n| --- | --- |\n")
        .nth(1);
    let table = table.and_then(|rest| rest.split("\n\n").next());
    assert_eq!(table.expect("the table of docs/faults.md"), rows.join("\n"));
}

#[test]
fn a_violation_names_its_submission() {
    let mut evidence = kept();
    evidence.standing.results[2].stdout = Some(b"wrong\n".to_vec());
    let violations = check(&evidence);
    assert_eq!(violations[0].id.as_deref(), Some("d"));
    assert!(violations[0].what.contains("wrong"), "{violations:?}");
}

#[test]
fn a_later_generation_takes_the_place_of_an_earlier_one() {
    let later = |mut seen: Seen| {
        seen.generation = 1;
        seen.sequence = 20;
        seen
    };
    let broken = broken_by(|run| {
        run.standing.results[0] = later(finished("a", "n-a", 1));
        run.history
            .push(entry(live(later(finished("a", "n-a", 1)))));
        run.history
            .push(entry(read(later(finished("a", "n-a", 1)))));
        // A replay that ran takes the place of the failure; its letter stays.
        run.standing.results[1] = later(finished("b", "n-b", 2));
        run.history
            .push(entry(read(later(finished("b", "n-b", 2)))));
    });
    assert_eq!(broken, BTreeSet::new());
}
