//! What this machine holds of a fleet's containers, from outside: processes by their host uids, containers, control groups, and
//! the worker's memory.

use std::{
    collections::BTreeSet,
    fmt, fs,
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::isolation::Isolation;
use tokio::process::Command;

use crate::{bed::slowly, fleet::Fleet};

/// The most that a worker may hold resident after whatever it has run.
const WORKER_BYTES: u64 = 64 << 20;

/// What the containers leave behind is removed within this, while the next submission already runs.
const REMOVAL: Duration = Duration::from_secs(20);

/// A slot that takes a template after a submission is done within this.
const TEMPLATE: Duration = Duration::from_secs(2);

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(100);

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Of the kernel's own settings, those that an escaped program would change first.
const SETTINGS: [&str; 5] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/panic",
    "/proc/swaps",
];

/// The machine, as it was before the first attack.
pub struct Host {
    uids: Range<u32>,
    slots: usize,
    /// Every container that was seen, by its id.
    seen: BTreeSet<String>,
    /// How many cgroups its containers had after the first submissions.
    groups: Option<usize>,
    settings: Vec<Option<String>>,
    /// What was listed in the host's own temporary directory and root.
    places: Vec<BTreeSet<PathBuf>>,
}

impl Host {
    /// Host uids that nobody else uses, of this process and of this call.
    pub fn uids() -> Range<u32> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        const COUNT: u32 = 1000;
        let first = 400_000_000 + (std::process::id() % 30_000) * 10_000;
        let first = first + NEXT.fetch_add(1, Ordering::Relaxed) * COUNT;
        first..first + COUNT
    }

    /// This machine as it is, for a fleet of so many slots.
    pub fn now(uids: Range<u32>, slots: usize) -> Self {
        Self {
            uids,
            slots,
            seen: BTreeSet::new(),
            groups: None,
            settings: settings(),
            places: places(),
        }
    }

    /// What is there that should not be, now that no submission runs.
    pub async fn leftovers(&mut self, isolation: Isolation, fleet: &Fleet) -> Vec<String> {
        let in_a_sandbox = isolation == Isolation::Sandbox;
        let before = self.seen.len().max(self.slots);
        let containers = self.containers_left(&fleet.worker).await;
        // In a slot the agent is the user of its container, and its copies are the first processes of stages.
        let idle = if in_a_sandbox { containers.len() } else { 0 };
        // A slot may be about to take a template, which is over in no time.
        let end = Instant::now() + slowly(TEMPLATE);
        let mut wrong = self.living(&agent_of(fleet), idle);
        while in_a_sandbox && !wrong.is_empty() && Instant::now() < end {
            tokio::time::sleep(PAUSE).await;
            wrong = self.living(&agent_of(fleet), idle);
        }
        if containers.len() > self.containers() {
            wrong.push(format!("too many containers are there: {containers:?}"));
        }
        if in_a_sandbox && self.seen.len() > before {
            wrong.push("its slot was given up for a new one".to_owned());
        }
        if in_a_sandbox {
            wrong.extend(self.cgroups_left().await);
        }
        let resident = fleet.resident_bytes();
        if resident > WORKER_BYTES {
            wrong.push(format!(
                "the worker holds {resident} bytes, expected {WORKER_BYTES} at most"
            ));
        }
        let (before, now) = (&self.settings, settings());
        if *before != now {
            wrong.push(format!(
                "the kernel's settings were {before:?}, now {now:?}"
            ));
        }
        wrong
    }

    /// The processes of the containers' users, but for so many idle agents.
    fn living(&self, agent: &Path, idle: usize) -> Vec<String> {
        let agent = identity_of(agent);
        let is_agent = |process: &Process| agent.is_some() && process.identity == agent;
        let (agents, others): (Vec<_>, Vec<_>) = self.processes().into_iter().partition(is_agent);
        let mut wrong: Vec<_> = others.iter().map(|it| format!("{it} lives on")).collect();
        if agents.len() > idle {
            let count = agents.len();
            wrong.push(format!(
                "{count} agents are there, expected {idle}: {agents:?}"
            ));
        }
        wrong
    }

    /// What is left after the fleet has stopped, and so will never go.
    pub fn left_for_ever(&self) -> Vec<String> {
        let outlived = |it: &Process| format!("{it} outlived the fleet");
        let mut wrong: Vec<_> = self.processes().iter().map(outlived).collect();
        let groups = cgroups_of(&self.seen);
        wrong.extend(
            groups
                .iter()
                .map(|group| format!("{} outlived the fleet", group.display())),
        );
        for (before, now) in self.places.iter().zip(places()) {
            let new: Vec<_> = now
                .difference(before)
                .filter(|path| self.is_ours(path))
                .cloned()
                .collect();
            if !new.is_empty() {
                wrong.push(format!("on the host there are now {new:?}"));
            }
        }
        wrong
    }

    /// What is too much of its containers' cgroups, once those on their way out are gone.
    async fn cgroups_left(&mut self) -> Option<String> {
        let count = |seen| {
            let below = |group: &PathBuf| 1 + directories(group).len();
            cgroups_of(seen).iter().map(below).sum::<usize>()
        };
        let expected = *self.groups.get_or_insert_with(|| count(&self.seen));
        let end = Instant::now() + slowly(REMOVAL);
        while count(&self.seen) > expected {
            if Instant::now() > end {
                let now = count(&self.seen);
                return Some(format!(
                    "there were {expected} cgroups of its container, now {now}"
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }

    /// Whether it belongs to a user of the containers.
    fn is_ours(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|it| self.uids.contains(&it.uid()))
    }

    /// The processes of the containers' users.
    fn processes(&self) -> Vec<Process> {
        let entries = fs::read_dir("/proc").expect("/proc can be read").flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter_map(|id| Process::of(id, &self.uids)).collect()
    }

    /// Containers that there may be at a time: for each slot one in use, one in the pool, and one on its way out.
    fn containers(&self) -> usize {
        3 * self.slots
    }

    /// The fleet's containers, once those on their way out are gone.
    async fn containers_left(&mut self, worker: &str) -> Vec<String> {
        let end = Instant::now() + slowly(REMOVAL);
        loop {
            let containers = full_ids(worker).await;
            self.seen.extend(containers.iter().cloned());
            if containers.len() <= self.containers() || Instant::now() > end {
                return containers;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A process of a container's user.
#[derive(Debug)]
struct Process {
    id: u32,
    command: String,
    /// Of the file that it executes.
    identity: Option<(u64, u64)>,
}

impl Process {
    /// The process `id`, if it is one of `uids`. One that has ended meanwhile is nobody's.
    fn of(id: u32, uids: &Range<u32>) -> Option<Self> {
        let about = PathBuf::from(format!("/proc/{id}"));
        let status = fs::read_to_string(about.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let mut own = line.split_whitespace().filter_map(|uid| uid.parse().ok());
        own.any(|uid| uids.contains(&uid)).then(|| Self {
            id,
            command: fs::read_to_string(about.join("cmdline")).unwrap_or_default(),
            identity: identity_of(&about.join("exe")),
        })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} of a container's user ({:?})",
            self.id, self.command
        )
    }
}

/// The agent's file, from which every container has it.
fn agent_of(fleet: &Fleet) -> PathBuf {
    let workers = fleet.data_dir.path().join("workers");
    workers.join(&fleet.worker).join("agent")
}

/// What tells a file from every other, whatever it is called.
fn identity_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The full ids of a worker's containers, running or not.
async fn full_ids(worker: &str) -> Vec<String> {
    let label = format!("label=envicutor.worker={worker}");
    let listed = Command::new("docker")
        .args(["ps", "-aq", "--no-trunc", "--filter", &label])
        .output()
        .await
        .expect("docker runs");
    assert!(listed.status.success(), "docker ps failed");
    let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
    ids.lines().map(str::to_owned).collect()
}

/// The directories of control groups that are named after one of `containers`.
fn cgroups_of(containers: &BTreeSet<String>) -> Vec<PathBuf> {
    let is_named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        containers.iter().any(|container| name.contains(container))
    };
    directories(Path::new(CGROUPS))
        .into_iter()
        .filter(is_named)
        .collect()
}

/// All directories below `top`.
fn directories(top: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(top).into_iter().flatten().flatten();
    let own = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
    own.flat_map(|entry| {
        let mut found = directories(&entry.path());
        found.push(entry.path());
        found
    })
    .collect()
}

fn settings() -> Vec<Option<String>> {
    SETTINGS
        .iter()
        .map(|path| fs::read_to_string(path).ok())
        .collect()
}

fn places() -> Vec<BTreeSet<PathBuf>> {
    let list = |place| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    ["/", "/tmp", "/dev/shm", "/var/tmp", "/dev"]
        .map(list)
        .into()
}
