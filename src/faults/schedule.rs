//! The faults of a run, in the order of their times. Each kind follows from the seed alone, so that another kind's presence or
//! pace changes nothing of it.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::plan::Kind;

/// A fault that is to strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When, from the beginning of the run.
    pub at: Duration,
    /// What.
    pub kind: Kind,
    /// A random number: which worker, connection or container it strikes, of those that there are then.
    pub choice: usize,
}

/// All faults of a seed, without end.
#[derive(Debug)]
pub struct Schedule(Vec<Course>);

/// The faults of one kind.
#[derive(Debug)]
struct Course {
    kind: Kind,
    pace: Duration,
    random: StdRng,
    next: Duration,
}

impl Schedule {
    /// The faults of these kinds, each at its pace.
    pub fn new(seed: u64, paces: &BTreeMap<Kind, Duration>) -> Self {
        let course = |(kind, pace): (&Kind, &Duration)| {
            let place = Kind::ALL.iter().position(|it| it == kind);
            let offset = place.and_then(|place| u64::try_from(place).ok());
            let mut course = Course {
                kind: *kind,
                // At a pace of nothing the schedule would not move on.
                pace: (*pace).max(Duration::from_millis(1)),
                random: StdRng::seed_from_u64(seed.rotate_left(32) ^ offset.unwrap_or_default()),
                next: Duration::ZERO,
            };
            course.move_on();
            course
        };
        Self(paces.iter().map(course).collect())
    }
}

impl Course {
    /// From half of the pace to one and a half.
    fn move_on(&mut self) {
        self.next += self.pace.mul_f64(self.random.random_range(0.5..1.5));
    }
}

impl Iterator for Schedule {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        let course = self.0.iter_mut().min_by_key(|course| course.next)?;
        let planned = Planned {
            at: course.next,
            kind: course.kind,
            choice: course.random.random_range(0..usize::from(u16::MAX)),
        };
        course.move_on();
        Some(planned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces(kinds: &[(Kind, u64)]) -> BTreeMap<Kind, Duration> {
        let pace = |(kind, seconds): &(Kind, u64)| (*kind, Duration::from_secs(*seconds));
        kinds.iter().map(pace).collect()
    }

    #[test]
    fn a_seed_gives_the_same_faults_and_another_one_others() {
        let paces = paces(&[(Kind::WorkerKilled, 2), (Kind::LeaderKilled, 20)]);
        let take = |seed| Schedule::new(seed, &paces).take(100).collect::<Vec<_>>();
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn faults_come_in_order_at_their_mean_pace() {
        let paces = paces(&[(Kind::WorkerKilled, 2), (Kind::LeaderKilled, 20)]);
        let hour = Duration::from_hours(1);
        let planned = Schedule::new(1, &paces).take_while(|planned| planned.at < hour);
        let planned: Vec<_> = planned.collect();
        assert!(planned.is_sorted_by_key(|planned| planned.at));
        let count = |kind| {
            planned
                .iter()
                .filter(|planned| planned.kind == kind)
                .count()
        };
        assert!((1_700..1_900).contains(&count(Kind::WorkerKilled)));
        assert!((160..200).contains(&count(Kind::LeaderKilled)));
    }

    #[test]
    fn a_kind_is_not_changed_by_another() {
        let kills = |with: &[(Kind, u64)]| {
            let planned = Schedule::new(3, &paces(with));
            let kills = planned.filter(|planned| planned.kind == Kind::WorkerKilled);
            kills.take(20).collect::<Vec<_>>()
        };
        assert_eq!(
            kills(&[(Kind::WorkerKilled, 2)]),
            kills(&[(Kind::WorkerKilled, 2), (Kind::AgentKilled, 1)])
        );
    }

    #[test]
    fn without_kinds_there_are_no_faults() {
        assert_eq!(Schedule::new(1, &BTreeMap::new()).next(), None);
    }
}
