//! What a run came to: counts, and whether each invariant held.

mod print;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use time::OffsetDateTime;

use super::{
    evidence::Evidence,
    history::{Cause, Entry, Operation, What},
    invariants::Violation,
    plan::{Kind, Plan},
};
use crate::submission::{
    result::{FailureCode, Isolation, Outcome},
    units::Micros,
};

/// A run that is over.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of this program.
    pub version: &'static str,
    /// The plan.
    pub plan: Planned,
    /// The isolation that submissions ran in.
    pub isolation: Vec<Isolation>,
    /// From the first publish until every client was done.
    pub under_faults_us: Micros,
    /// From then until the queues were empty.
    pub until_empty_us: Micros,
    /// The faults that struck.
    pub faults: BTreeMap<Kind, usize>,
    /// Workers' processes that were started.
    pub workers_started: usize,
    /// Containers that were made.
    pub containers_made: usize,
    /// What became of publishes.
    pub publishes: Publishes,
    /// What the fleet did.
    pub work: Work,
    /// What came out.
    pub outcomes: Outcomes,
    /// From the SIGKILL of a worker to the next start of what it had started.
    pub restarts: Restarts,
    /// What does not hold.
    pub violations: Vec<Told>,
}

/// What was planned.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// What everything random followed from.
    pub seed: u64,
    /// Submissions.
    pub submissions: usize,
    /// The most under way.
    pub at_a_time: usize,
    /// Workers.
    pub workers: usize,
    /// Submissions at a time, of each worker.
    pub slots: usize,
    /// NATS servers.
    pub servers: usize,
    /// The wait before a delivery is given to another worker.
    pub ack_wait_us: Micros,
    /// Attempts before a submission is dead-lettered.
    pub max_attempts: u64,
    /// The mean time between two faults of a kind.
    pub paces_us: BTreeMap<Kind, Micros>,
}

/// What became of publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Publishes {
    /// Tries.
    pub invoked: usize,
    /// Stored, for all that is known.
    pub acknowledged: usize,
    /// Not stored.
    pub refused: usize,
    /// One or the other.
    pub unknown: usize,
}

/// What the fleet did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Messages that the queues stored.
    pub stored: u64,
    /// Deliveries of them, as the consumers count.
    pub deliveries: u64,
    /// Deliveries after the first of each.
    pub redeliveries: u64,
    /// `started` events that a subscriber heard.
    pub starts: usize,
    /// Results by the number of the start that came to an end.
    pub results_by_attempt: BTreeMap<u64, usize>,
}

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// Results that stand.
    pub results: usize,
    /// Those that finished.
    pub finished: usize,
    /// Those that failed, and are in the dead letters.
    pub failed: usize,
    /// Dead letters by their reason.
    pub letters: BTreeMap<String, usize>,
    /// Results that at least one plain subscriber got.
    pub seen_live: usize,
    /// Results that a subscriber got more than once.
    pub seen_twice: usize,
}

/// How soon what a killed worker had started was started again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Restarts {
    /// How many.
    pub count: usize,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// Of a hundred, one took longer.
    pub p99_us: u64,
    /// The longest.
    pub most_us: u64,
}

/// A violation with its story.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// What does not hold.
    #[serde(flatten)]
    pub violation: Violation,
    /// Everything that is known of its submission, a line for each thing; empty where it is none's, or the stories are too
    /// many.
    pub story: Vec<String>,
}

/// What only who ran it knows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    /// From the first publish until every client was done.
    pub(super) under_faults: Duration,
    /// From then until the queues were empty.
    pub(super) until_empty: Duration,
}

impl Report {
    /// Counts, and takes `violations` as they are.
    pub(super) fn of(
        plan: &Plan,
        evidence: &Evidence,
        times: Times,
        containers_made: usize,
        violations: Vec<Told>,
    ) -> Self {
        let history = &evidence.history;
        let started = |entry: &&Entry| matches!(entry.what, What::WorkerStarted { .. });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            plan: Planned::of(plan),
            isolation: isolations(evidence),
            under_faults_us: micros(times.under_faults),
            until_empty_us: micros(times.until_empty),
            faults: faults(history),
            workers_started: history.iter().filter(started).count(),
            containers_made,
            publishes: Publishes::of(history),
            work: Work::of(evidence),
            outcomes: Outcomes::of(evidence),
            restarts: Restarts::of(history),
            violations,
        }
    }

    /// Whether every invariant held.
    pub fn is_kept(&self) -> bool {
        self.violations.is_empty()
    }
}

impl Planned {
    fn of(plan: &Plan) -> Self {
        let pace = |(kind, pace): (&Kind, &Duration)| (*kind, micros(*pace));
        Self {
            seed: plan.seed,
            submissions: plan.submissions,
            at_a_time: plan.at_a_time,
            workers: plan.workers,
            slots: plan.slots,
            servers: plan.servers,
            ack_wait_us: plan.config.nats.ack_wait_us,
            max_attempts: plan.config.worker.max_attempts,
            paces_us: plan.paces.iter().map(pace).collect(),
        }
    }
}

impl Publishes {
    fn of(history: &[Entry]) -> Self {
        let mut publishes = Self::default();
        for entry in history {
            let What::Client { operation, .. } = &entry.what else {
                continue;
            };
            match operation {
                Operation::Invoked { .. } => publishes.invoked += 1,
                Operation::Acknowledged { .. } => publishes.acknowledged += 1,
                Operation::Refused { .. } => publishes.refused += 1,
                Operation::Unknown { .. } => publishes.unknown += 1,
                Operation::Read(_) | Operation::GaveUp => {}
            }
        }
        publishes
    }
}

impl Work {
    fn of(evidence: &Evidence) -> Self {
        let standing = &evidence.standing;
        let starts = evidence
            .history
            .iter()
            .filter(|entry| started(entry).is_some());
        let mut results_by_attempt = BTreeMap::new();
        for result in &standing.results {
            *results_by_attempt.entry(result.attempt).or_default() += 1;
        }
        Self {
            stored: standing.stored,
            deliveries: standing.deliveries,
            redeliveries: standing.deliveries.saturating_sub(standing.stored),
            starts: starts.count(),
            results_by_attempt,
        }
    }
}

impl Outcomes {
    fn of(evidence: &Evidence) -> Self {
        let standing = &evidence.standing;
        let count = |outcome| {
            let results = standing.results.iter();
            results.filter(|result| result.outcome == outcome).count()
        };
        let mut letters = BTreeMap::new();
        for letter in &standing.letters {
            *letters.entry(word(letter.code)).or_default() += 1;
        }
        let mut live: BTreeMap<(&str, u64), BTreeMap<usize, usize>> = BTreeMap::new();
        for entry in &evidence.history {
            if let What::Live { subscriber, seen } = &entry.what {
                let subscribers = live.entry((&seen.id, seen.generation)).or_default();
                *subscribers.entry(*subscriber).or_default() += 1;
            }
        }
        let twice = live
            .values()
            .filter(|subscribers| subscribers.values().any(|times| *times > 1));
        Self {
            results: standing.results.len(),
            finished: count(Outcome::Finished),
            failed: count(Outcome::Failed),
            letters,
            seen_live: live.len(),
            seen_twice: twice.count(),
        }
    }
}

impl Restarts {
    fn of(history: &[Entry]) -> Self {
        let mut times = restarts(history);
        times.sort_unstable();
        let at = |share: usize| {
            let place = (times.len() * share).div_ceil(100).saturating_sub(1);
            times.get(place).map_or(0, |time| micros(*time).0)
        };
        Self {
            count: times.len(),
            p50_us: at(50),
            p99_us: at(99),
            most_us: at(100),
        }
    }
}

/// From each kill of a worker to the next start of each submission that it had started and not ended.
fn restarts(history: &[Entry]) -> Vec<Duration> {
    // By submission: its starts in order, and who ended it.
    let mut starts: BTreeMap<&str, Vec<(OffsetDateTime, &str)>> = BTreeMap::new();
    for entry in history {
        if let Some((id, at, worker)) = started(entry) {
            starts.entry(id).or_default().push((at, worker));
        }
    }
    let mut kills: BTreeMap<&str, Vec<(OffsetDateTime, OffsetDateTime)>> = BTreeMap::new();
    for entry in history {
        if let What::WorkerEnded {
            worker,
            cause: Cause::Killed,
            after,
            ..
        } = &entry.what
        {
            let life = (entry.at - *after, entry.at);
            kills.entry(worker).or_default().push(life);
        }
    }
    let mut times = Vec::new();
    for starts in starts.values_mut() {
        starts.sort_unstable();
        for pair in starts.windows(2) {
            let ((at, worker), (again, _)) = (pair[0], pair[1]);
            let lives = kills.get(worker).into_iter().flatten();
            let killed = lives
                .filter(|(from, to)| (*from..*to).contains(&at))
                .map(|(_, to)| *to);
            // Started again before its worker was killed: another reason.
            times.extend(
                killed
                    .filter(|killed| again > *killed)
                    .filter_map(|killed| Duration::try_from(again - killed).ok()),
            );
        }
    }
    times
}

fn started(entry: &Entry) -> Option<(&str, OffsetDateTime, &str)> {
    match &entry.what {
        What::Event {
            id,
            worker,
            kind: "started",
            at,
            ..
        } => Some((id, *at, worker)),
        _ => None,
    }
}

fn isolations(evidence: &Evidence) -> Vec<Isolation> {
    let mut isolations = Vec::new();
    for isolation in evidence
        .standing
        .results
        .iter()
        .filter_map(|it| it.isolation)
    {
        if !isolations.contains(&isolation) {
            isolations.push(isolation);
        }
    }
    isolations
}

fn faults(history: &[Entry]) -> BTreeMap<Kind, usize> {
    let mut faults = BTreeMap::new();
    for entry in history {
        if let What::Fault { kind, .. } = entry.what {
            *faults.entry(kind).or_default() += 1;
        }
    }
    faults
}

fn micros(time: Duration) -> Micros {
    Micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// The word of the contract.
fn word(code: FailureCode) -> String {
    let word = serde_json::to_value(code).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_the_next_start_is_from_the_kill() {
        let start = time::macros::datetime!(2026-01-02 03:04:05 UTC);
        let at = |seconds| start + time::Duration::seconds(seconds);
        let started = |id: &str, seconds, worker: &str| Entry {
            at: at(seconds),
            what: What::Event {
                id: id.to_owned(),
                attempt: 1,
                worker: worker.to_owned(),
                kind: "started",
                at: at(seconds),
            },
        };
        let killed = |seconds, worker: &str, after| Entry {
            at: at(seconds),
            what: What::WorkerEnded {
                worker: worker.to_owned(),
                cause: Cause::Killed,
                how: String::new(),
                after: Duration::from_secs(after),
            },
        };
        let history = [
            started("a", 1, "w1"),
            killed(3, "w1", 3),
            // The next one of this id: not the one that had started it.
            killed(9, "w1", 5),
            started("a", 6, "w2"),
            // Handed back by one that was not killed then.
            started("b", 1, "w2"),
            started("b", 2, "w1"),
            // Never started again: it had ended.
            started("c", 2, "w1"),
        ];
        // `b` by w1 was started last, and so not again.
        assert_eq!(restarts(&history), [Duration::from_secs(3)]);
        let restarts = Restarts::of(&history);
        assert_eq!((restarts.count, restarts.p99_us), (1, 3_000_000));
    }
}
