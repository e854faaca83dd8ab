//! What is judged: the history, what the streams hold at the end, and what is left on the machine. Plain data, so that the
//! judgement can be tried on what never happened.

use super::history::{Entry, Seen};
use crate::submission::{names::Digest, result::FailureCode};

/// Everything that is known of a run.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was done and seen.
    pub history: Vec<Entry>,
    /// What the streams hold at the end.
    pub standing: Standing,
    /// What is left on the machine at the end.
    pub leftovers: Leftovers,
}

/// What the streams hold, as their leaders have it.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Every result.
    pub results: Vec<Seen>,
    /// Every dead letter.
    pub letters: Vec<Letter>,
    /// The subjects of what is still queued.
    pub queued: Vec<String>,
    /// Deliveries that are neither acknowledged nor given up.
    pub unacknowledged: u64,
    /// Messages that were ever stored in the queues.
    pub stored: u64,
    /// Deliveries, as the consumers count them.
    pub deliveries: u64,
}

/// A dead letter, as far as it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Of which submission.
    pub id: String,
    /// Of which generation.
    pub generation: u64,
    /// Why.
    pub code: FailureCode,
    /// The digest of the body that it holds.
    pub content: Digest,
    /// How many attempts it lists.
    pub attempts: usize,
    /// Its sequence in DEAD_LETTERS.
    pub sequence: u64,
}

/// What is left on the machine.
#[derive(Debug, Clone, Default)]
pub struct Leftovers {
    /// Containers of the run's workers.
    pub containers: Vec<String>,
    /// Root file systems in the volume of runtimes that are begun and not whole.
    pub root_parts: Vec<String>,
    /// Cgroups of the run's containers.
    pub cgroups: Vec<String>,
    /// Processes of the run's containers and workers.
    pub processes: Vec<String>,
    /// Directories of the run's workers.
    pub directories: Vec<String>,
}
