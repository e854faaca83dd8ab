//! What a run is made of: how much is submitted, to how large a fleet, and which faults strike it at what pace. The same plan
//! with the same seed submits the same programs under the same ids and plans the same faults; what a fault meets is the
//! machine's.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What everything random follows from.
    pub seed: u64,
    /// How much is submitted.
    pub submissions: usize,
    /// The most that clients have under way.
    pub at_a_time: usize,
    /// Worker processes.
    pub workers: usize,
    /// Submissions at a time, of each worker.
    pub slots: usize,
    /// NATS servers: one, or a cluster of three with three copies of everything.
    pub servers: usize,
    /// Each kind of fault that strikes, with the mean time from one to the next.
    pub paces: BTreeMap<Kind, Duration>,
    /// How long a client waits, how long nothing at all may come of what was submitted, and how long what goes by itself may take
    /// to be gone from the machine.
    pub patience: Duration,
    /// The program `envicutor-worker`.
    pub worker: PathBuf,
    /// What the fleet's configuration differs from; its directory, servers and names are the run's own.
    pub config: Config,
}

/// A kind of fault.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A worker is killed (SIGKILL), and started anew.
    WorkerKilled,
    /// A worker is stopped (SIGSTOP) for longer than `ack_wait`, and goes on.
    WorkerFrozen,
    /// A worker drains (SIGTERM), and is started anew.
    WorkerDrained,
    /// The NATS server that leads a stream is killed (SIGKILL), and started again.
    LeaderKilled,
    /// The connections of a worker or of the clients are cut.
    ConnectionCut,
    /// Nothing comes through the connections of a worker or of the clients for longer than `ack_wait`.
    ConnectionSilent,
    /// A container is removed by hand.
    ContainerRemoved,
    /// An agent is killed (SIGKILL).
    AgentKilled,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::WorkerKilled,
        Self::WorkerFrozen,
        Self::WorkerDrained,
        Self::LeaderKilled,
        Self::ConnectionCut,
        Self::ConnectionSilent,
        Self::ContainerRemoved,
        Self::AgentKilled,
    ];

    /// The mean time from one to the next where nothing else is asked for.
    pub const fn pace(self) -> Duration {
        Duration::from_secs(match self {
            Self::WorkerKilled => 5,
            Self::WorkerFrozen | Self::WorkerDrained | Self::LeaderKilled => 20,
            Self::ConnectionCut => 7,
            Self::ConnectionSilent => 25,
            Self::ContainerRemoved => 11,
            Self::AgentKilled => 13,
        })
    }

    /// In words, for what is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker killed",
            Self::WorkerFrozen => "worker frozen",
            Self::WorkerDrained => "worker drained",
            Self::LeaderKilled => "leader killed",
            Self::ConnectionCut => "connection cut",
            Self::ConnectionSilent => "connection silent",
            Self::ContainerRemoved => "container removed",
            Self::AgentKilled => "agent killed",
        }
    }
}

impl Plan {
    /// How long a frozen worker and a silent connection last: another worker has the delivery by then.
    pub fn absence(&self) -> Duration {
        self.config.nats.ack_wait_us.duration().mul_f64(1.5)
    }
}
