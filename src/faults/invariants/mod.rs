//! What must hold at the end of a run, whatever struck it: one list. Each invariant is a name, the sentence that it keeps, and a
//! function that finds what breaks it. `cases` puts together what is known of one submission.
//!
//! The promise of `docs/delivery.md` is the first five; the rest is what a service or an operator would see if those were
//! kept by luck.

mod cases;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use cases::{Case, Cases, Content};

use super::{
    evidence::Evidence,
    history::{Cause, Seen, What, short},
};
use crate::submission::result::{FailureCode, Outcome, Verdict};

/// Something that must hold.
pub struct Invariant {
    /// How it is called.
    pub name: &'static str,
    /// What it says.
    pub promise: &'static str,
    check: fn(&Cases<'_>, &mut Broken),
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// The submission that shows it, where it is one's.
    pub id: Option<String>,
    /// What is seen of it.
    pub what: String,
}

/// Every invariant.
pub const ALL: [Invariant; 16] = [
    Invariant {
        name: "nothing is lost",
        promise: "a content whose publish was acknowledged has a result, or a dead letter",
        check: nothing_is_lost,
    },
    Invariant {
        name: "one result",
        promise: "whoever sees a result of a generation sees the same one",
        check: one_result,
    },
    Invariant {
        name: "seen is kept",
        promise: "a result that anybody saw stands at the end",
        check: seen_is_kept,
    },
    Invariant {
        name: "failed and dead",
        promise: "a failed result has its dead letter, and a dead letter its failed result",
        check: failed_and_dead,
    },
    Invariant {
        name: "one letter",
        promise: "a content of a generation has at most one dead letter",
        check: one_letter,
    },
    Invariant {
        name: "nothing from nowhere",
        promise: "no result and no dead letter is of a content that was never published under its id",
        check: nothing_from_nowhere,
    },
    Invariant {
        name: "refused is refused",
        promise: "a content whose every publish was refused has no result and no dead letter",
        check: refused_is_refused,
    },
    Invariant {
        name: "right output",
        promise: "a result that finished is ok and holds what its own program prints",
        check: right_output,
    },
    Invariant {
        name: "read by id",
        promise: "at the end a read by id finds the result that stands",
        check: read_by_id,
    },
    Invariant {
        name: "queues are empty",
        promise: "nothing is queued, and no delivery is open",
        check: queues_are_empty,
    },
    Invariant {
        name: "workers stay",
        promise: "a worker ends only when it is killed or asked to, and then in good order",
        check: workers_stay,
    },
    Invariant {
        name: "no container",
        promise: "no container of the run's workers is left",
        check: |cases, broken| left("container", &cases.evidence.leftovers.containers, broken),
    },
    Invariant {
        name: "no part of a root",
        promise: "no root file system of a runtime is left half filled",
        check: |cases, broken| {
            left(
                "part of a root",
                &cases.evidence.leftovers.root_parts,
                broken,
            );
        },
    },
    Invariant {
        name: "no cgroup",
        promise: "no cgroup of the run's containers is left",
        check: |cases, broken| left("cgroup", &cases.evidence.leftovers.cgroups, broken),
    },
    Invariant {
        name: "no process",
        promise: "no process of the run's workers and containers is left",
        check: |cases, broken| left("process", &cases.evidence.leftovers.processes, broken),
    },
    Invariant {
        name: "no directory",
        promise: "no directory of the run's workers is left",
        check: |cases, broken| left("directory", &cases.evidence.leftovers.directories, broken),
    },
];

/// Every way in which `evidence` breaks an invariant.
pub fn check(evidence: &Evidence) -> Vec<Violation> {
    let cases = Cases::of(evidence);
    let mut violations = Vec::new();
    for invariant in &ALL {
        let mut broken = Broken {
            invariant: invariant.name,
            violations: &mut violations,
        };
        (invariant.check)(&cases, &mut broken);
    }
    violations
}

/// Takes what breaks one invariant.
struct Broken<'a> {
    invariant: &'static str,
    violations: &'a mut Vec<Violation>,
}

impl Broken<'_> {
    fn by(&mut self, id: Option<&str>, what: String) {
        self.violations.push(Violation {
            invariant: self.invariant,
            id: id.map(str::to_owned),
            what,
        });
    }

    /// By the submission `id`.
    fn case(&mut self, id: &str, what: String) {
        self.by(Some(id), what);
    }
}

fn nothing_is_lost(cases: &Cases<'_>, broken: &mut Broken) {
    for (id, case) in &cases.by_id {
        for (digest, content) in &case.contents {
            let has_result = case.results.iter().any(|seen| seen.content == **digest);
            let has_letter = case.letters.iter().any(|letter| letter.content == **digest);
            if content.acknowledged > 0 && !has_result && !has_letter {
                let what = format!("content {} has no result and no dead letter", short(digest));
                broken.case(id, what);
            }
        }
    }
}

fn one_result(cases: &Cases<'_>, broken: &mut Broken) {
    for (id, case) in &cases.by_id {
        let mut all: Vec<&Seen> = case.seen.iter().chain(&case.results).copied().collect();
        // Stable: of equal generations the first stays the first.
        all.sort_by_key(|seen| seen.generation);
        for pair in all.windows(2) {
            if pair[0].generation == pair[1].generation && !pair[0].is(pair[1]) {
                broken.case(id, format!("{}; and {}", pair[0], pair[1]));
            }
        }
    }
}

fn seen_is_kept(cases: &Cases<'_>, broken: &mut Broken) {
    for (id, case) in &cases.by_id {
        let last = case.results.iter().map(|result| result.generation).max();
        let is_kept = |seen: &Seen| {
            last > Some(seen.generation) || case.results.iter().any(|result| result.is(seen))
        };
        if let Some(seen) = case.seen.iter().find(|seen| !is_kept(seen)) {
            broken.case(id, format!("it does not stand any more: {seen}"));
        }
    }
}

fn failed_and_dead(cases: &Cases<'_>, broken: &mut Broken) {
    for (id, case) in &cases.by_id {
        for result in &case.results {
            let has_letter = case.letters.iter().any(|letter| {
                (letter.generation, &letter.content) == (result.generation, &result.content)
            });
            if result.outcome == Outcome::Failed && !has_letter {
                broken.case(id, format!("no dead letter for {result}"));
            }
        }
        // A letter for another content of a used id is told by itself: the result is the first content's.
        let of_attempts = |code| code != FailureCode::IdReused;
        for letter in case
            .letters
            .iter()
            .filter(|letter| of_attempts(letter.code))
        {
            let has_result = case.results.iter().any(|result| {
                result.generation > letter.generation
                    || (result.generation == letter.generation && result.outcome == Outcome::Failed)
            });
            if !has_result {
                let what = format!("no failed result for the dead letter {}", letter.sequence);
                broken.case(id, what);
            }
        }
    }
}

fn one_letter(cases: &Cases<'_>, broken: &mut Broken) {
    for (id, case) in &cases.by_id {
        for (place, letter) in case.letters.iter().enumerate() {
            let same = case.letters[..place].iter().find(|earlier| {
                (earlier.generation, &earlier.content) == (letter.generation, &letter.content)
            });
            if let Some(earlier) = same {
                let (one, two) = (earlier.sequence, letter.sequence);
                broken.case(
                    id,
                    format!("the dead letters {one} and {two} are of one content"),
                );
            }
        }
    }
}

fn nothing_from_nowhere(cases: &Cases<'_>, broken: &mut Broken) {
    for (id, case) in &cases.by_id {
        let seen = case.seen.iter().chain(&case.results);
        let of_results = seen.map(|seen| (&seen.content, seen.to_string()));
        let of_letters = case.letters.iter();
        let of_letters =
            of_letters.map(|letter| (&letter.content, format!("dead letter {}", letter.sequence)));
        let stray = of_results
            .chain(of_letters)
            .find(|(content, _)| !case.contents.contains_key(content));
        if let Some((_, what)) = stray {
            broken.case(id, format!("of a content that nobody published: {what}"));
        }
    }
}

fn refused_is_refused(cases: &Cases<'_>, broken: &mut Broken) {
    for (id, case) in &cases.by_id {
        for (digest, _) in case.contents.iter().filter(|(_, it)| it.is_refused()) {
            let mut seen = case.seen.iter().chain(&case.results);
            if let Some(seen) = seen.find(|seen| seen.content == **digest) {
                broken.case(
                    id,
                    format!("content {} was refused, and {seen}", short(digest)),
                );
            }
            let mut letters = case.letters.iter();
            if let Some(letter) = letters.find(|letter| letter.content == **digest) {
                let letter = letter.sequence;
                broken.case(
                    id,
                    format!(
                        "content {} was refused, and dead letter {letter}",
                        short(digest)
                    ),
                );
            }
        }
    }
}

fn right_output(cases: &Cases<'_>, broken: &mut Broken) {
    for (id, case) in &cases.by_id {
        for seen in case.seen.iter().chain(&case.results) {
            // Of nobody's content: that is another invariant's.
            let Some(content) = case.contents.get(&seen.content) else {
                continue;
            };
            let expected = format!("{}\n", content.nonce);
            let is_right = match seen.outcome {
                Outcome::Failed => true,
                Outcome::Finished => {
                    seen.verdict == Some(Verdict::Ok)
                        && seen.stdout.as_deref() == Some(expected.as_bytes())
                }
                // Nobody asked for these.
                Outcome::Rejected | Outcome::Cancelled | Outcome::Expired => false,
            };
            if !is_right {
                broken.case(id, format!("expected {expected:?}, came {seen}"));
                break;
            }
        }
    }
}

fn read_by_id(cases: &Cases<'_>, broken: &mut Broken) {
    for (id, case) in &cases.by_id {
        let last = case.results.iter().max_by_key(|result| result.sequence);
        let Some(read) = case.last_read else {
            continue;
        };
        match (read, last) {
            (None, None) => {}
            (Some(read), Some(last)) if read.is(last) => {}
            (read, last) => {
                let show = |seen: Option<&Seen>| seen.map_or("none".to_owned(), Seen::to_string);
                let (read, last) = (show(read), show(last.copied()));
                broken.case(id, format!("read: {read}; stands: {last}"));
            }
        }
    }
}

fn queues_are_empty(cases: &Cases<'_>, broken: &mut Broken) {
    let standing = &cases.evidence.standing;
    for subject in &standing.queued {
        let id = subject.rsplit('.').next();
        broken.by(id, format!("{subject} is queued"));
    }
    if standing.unacknowledged > 0 {
        let what = format!("{} deliveries are open", standing.unacknowledged);
        broken.by(None, what);
    }
}

fn workers_stay(cases: &Cases<'_>, broken: &mut Broken) {
    for entry in &cases.evidence.history {
        if let What::WorkerEnded {
            worker,
            cause: Cause::Itself,
            how,
            ..
        } = &entry.what
        {
            broken.by(None, format!("{worker} ended: {how}"));
        }
    }
}

fn left(what: &str, left: &[String], broken: &mut Broken) {
    for one in left {
        broken.by(None, format!("{what} {one}"));
    }
}
