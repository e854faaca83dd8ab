//! What tells a run from every other on this machine, of this process or another: the beginning of its workers' ids, and the
//! uids of its containers.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// How many uids the workers of a place have.
pub(super) const UIDS: u32 = 200;

/// How many uids a run has: for sixteen places.
const RUN: u32 = 16 * UIDS;

/// How many runs have uids that differ.
const RUNS: u32 = 1_000;

/// The tag of a run.
#[derive(Debug, Clone)]
pub struct Tag {
    /// The runs of this process before it.
    number: u32,
    /// What the ids of its workers begin with. Short, since they are a part of sockets' paths.
    beginning: String,
}

impl Tag {
    /// One that nobody has.
    pub(in crate::faults) fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = process::id();
        Self {
            number: process.wrapping_add(number) % RUNS,
            beginning: format!("f{process}x{number}-"),
        }
    }

    /// Whether the worker of this id is the run's.
    pub fn is_of(&self, worker: &str) -> bool {
        worker.starts_with(&self.beginning)
    }

    /// What the ids of the workers of a place begin with.
    pub fn place(&self, place: usize) -> String {
        format!("{}{place}", self.beginning)
    }

    /// The first uid of a place, from the first that there is for runs.
    pub(super) fn uid(&self, first: u32, place: usize) -> u32 {
        let place = u32::try_from(place).unwrap_or_default();
        first + self.number * RUN + place * UIDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_runs_share_a_worker_or_a_uid() {
        let (one, two) = (Tag::fresh(), Tag::fresh());
        let worker = format!("{}-0", one.place(2));
        assert!(one.is_of(&worker) && !two.is_of(&worker), "{worker}");
        let uids = |tag: &Tag| {
            (0..16)
                .map(|place| tag.uid(710_000, place))
                .collect::<Vec<_>>()
        };
        assert!(uids(&one).iter().all(|uid| !uids(&two).contains(uid)));
        assert_eq!(one.uid(0, 1) - one.uid(0, 0), UIDS);
    }
}
