//! Reads a cgroup, version 1 or 2. In a container it is the container's own, mounted read-only: the worker sets the limits,
//! nothing there can be reset, and a stage's numbers are differences. In a slot it is one that the agent has made for stages
//! (`crate::slot`).
//!
//! A cgroup that is not this container's alone (a whole hierarchy of the host) is never read: what cannot be told is
//! `None`, and the caller takes the kernel's numbers for single processes (rusage) instead.

use std::{
    fs,
    fs::File,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::FileExt,
    },
    path::Path,
    rc::Rc,
    time::Duration,
};

/// Where the container's runtime mounts the cgroups.
const MOUNT: &str = "/sys/fs/cgroup";

/// The most that is read of a file, in bytes: `memory.events` and `cpu.stat` have less than 1 KiB.
const FILE_BYTES: usize = 4096;

/// How far below its limit a cgroup can be and have no room for an allocation, in bytes: a huge page, and what each CPU
/// has charged ahead.
const FULL_MARGIN_BYTES: u64 = 4 << 20;

/// One number of the cgroup, in a file that stays open.
struct Counter {
    file: File,
    /// The line that holds it, where the file has more than one.
    key: Option<&'static str>,
}

impl Counter {
    /// The one of the file `name`; none without a directory, or without such a number in it.
    fn open(directory: Option<&Path>, name: &str, key: Option<&'static str>) -> Option<Self> {
        let file = File::open(directory?.join(name)).ok()?;
        let counter = Self { file, key };
        counter.read().map(|_| counter)
    }

    fn read(&self) -> Option<u64> {
        let mut buffer = [0; FILE_BYTES];
        let count = self.file.read_at(&mut buffer, 0).ok()?;
        number(std::str::from_utf8(&buffer[..count]).ok()?, self.key)
    }
}

/// The number of the line `key`, or the only one.
fn number(text: &str, key: Option<&str>) -> Option<u64> {
    let Some(key) = key else {
        return text.trim().parse().ok();
    };
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

/// A cgroup. On version 1 it has three parts, each of which may serve with others than before.
pub struct Cgroup {
    cpu: Rc<Option<Counter>>,
    /// The unit of `cpu`, in nanoseconds.
    cpu_unit_ns: u64,
    memory: Rc<Memory>,
    pids: Rc<Pids>,
}

/// The memory of a cgroup.
struct Memory {
    oom_kills: Option<Counter>,
    ooms: Option<Counter>,
    limit: Option<Counter>,
    used: Option<Counter>,
    peak: Option<Counter>,
}

/// The processes of a cgroup.
struct Pids {
    now: Option<Counter>,
    peak: Option<Counter>,
    refused: Option<Counter>,
}

/// What the counters said at one moment. They never fall.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// CPU time of everything that ever ran in it.
    pub cpu: Option<Duration>,
    /// Processes that the kernel killed for want of memory, whosoever limit it was.
    pub oom_kills: Option<u64>,
    /// How often its own limit left an allocation without memory. Only version 2 counts it.
    pub ooms: Option<u64>,
    /// The most memory ever in use, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// The most processes and threads ever, with the agent.
    pub processes_peak: Option<u64>,
    /// Forks that the limit refused.
    pub forks_refused: Option<u64>,
}

impl Cgroup {
    /// Finds what can be read of the container's.
    pub fn find() -> Self {
        let mount = Path::new(MOUNT);
        if mount.join("cgroup.controllers").exists() {
            Self::version_2(mount)
        } else {
            Self::version_1(mount)
        }
    }

    fn version_2(mount: &Path) -> Self {
        // The root of the hierarchy has no type.
        Self::at((mount.join("cgroup.type").exists() && holds_the_agent(mount)).then_some(mount))
    }

    /// The one of version 2 at `directory`; without one there is nothing to read.
    pub fn at(directory: Option<&Path>) -> Self {
        let open = |name: &str, key| Counter::open(directory, name, key);
        let memory = Memory {
            oom_kills: open("memory.events", Some("oom_kill")),
            ooms: open("memory.events", Some("oom")),
            limit: None,
            used: open("memory.current", None),
            peak: open("memory.peak", None),
        };
        Self {
            cpu: Rc::new(open("cpu.stat", Some("usage_usec"))),
            cpu_unit_ns: 1000,
            memory: Rc::new(memory),
            pids: Rc::new(Pids::at(directory)),
        }
    }

    fn version_1(mount: &Path) -> Self {
        let own = |controller: &str| {
            let directory = mount.join(controller);
            // Only the root of a hierarchy has a release agent.
            let own = !directory.join("release_agent").exists() && holds_the_agent(&directory);
            own.then_some(directory)
        };
        Self::of(
            own("memory").as_deref(),
            own("cpuacct").as_deref(),
            own("pids").as_deref(),
        )
    }

    /// The one of version 1 whose parts are at these directories.
    pub fn of(memory: Option<&Path>, cpuacct: Option<&Path>, pids: Option<&Path>) -> Self {
        Self {
            cpu: Rc::new(Counter::open(cpuacct, "cpuacct.usage", None)),
            cpu_unit_ns: 1,
            memory: Rc::new(Memory::of(memory)),
            pids: Rc::new(Pids::at(pids)),
        }
    }

    /// The same of version 1, with the parts at these directories in the place of its own where one is given.
    pub fn with(&self, memory: Option<&Path>, pids: Option<&Path>) -> Self {
        Self {
            cpu: Rc::clone(&self.cpu),
            cpu_unit_ns: self.cpu_unit_ns,
            memory: memory.map_or_else(
                || Rc::clone(&self.memory),
                |memory| Rc::new(Memory::of(Some(memory))),
            ),
            pids: pids.map_or_else(
                || Rc::clone(&self.pids),
                |pids| Rc::new(Pids::at(Some(pids))),
            ),
        }
    }

    /// The descriptor that [`Self::cpu`] reads from.
    pub fn cpu_descriptor(&self) -> Option<RawFd> {
        Some(self.cpu.as_ref().as_ref()?.file.as_raw_fd())
    }

    /// CPU time of everything that ever ran in it.
    pub fn cpu(&self) -> Option<Duration> {
        let units = self.cpu.as_ref().as_ref()?.read()?;
        Some(Duration::from_nanos(units.saturating_mul(self.cpu_unit_ns)))
    }

    /// Processes that the kernel killed for want of memory.
    pub fn oom_kills(&self) -> Option<u64> {
        self.memory.oom_kills.as_ref()?.read()
    }

    /// How often its own limit left an allocation without memory.
    pub fn ooms(&self) -> Option<u64> {
        self.memory.ooms.as_ref()?.read()
    }

    /// Whether it has ever been at its own memory limit; `None` where that cannot be told. For version 1, which does not
    /// count [`Self::ooms`]; and version 2 has no peak before Linux 5.19.
    ///
    /// Version 1 counts how often the limit was met (`memory.failcnt`), but Linux 6.18 does not count the limit with swap,
    /// which Docker sets to the same value: so peak and limit are compared.
    pub fn memory_was_full(&self) -> Option<bool> {
        let limit = self.memory.limit.as_ref()?.read()?;
        let peak = self.memory.peak.as_ref()?.read()?;
        Some(peak.saturating_add(FULL_MARGIN_BYTES) >= limit)
    }

    /// Memory in use now, in bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.memory.used.as_ref()?.read()
    }

    /// The most memory ever in use, in bytes.
    pub fn memory_peak_bytes(&self) -> Option<u64> {
        self.memory.peak.as_ref()?.read()
    }

    /// The most processes and threads ever, with the agent.
    pub fn processes_peak(&self) -> Option<u64> {
        self.pids.peak.as_ref()?.read()
    }

    /// Forks that the limit refused.
    pub fn forks_refused(&self) -> Option<u64> {
        self.pids.refused.as_ref()?.read()
    }

    /// Processes and threads now, with the agent.
    pub fn processes(&self) -> Option<u64> {
        self.pids.now.as_ref()?.read()
    }

    /// Reads everything.
    pub fn read(&self) -> Reading {
        Reading {
            cpu: self.cpu(),
            oom_kills: self.oom_kills(),
            ooms: self.ooms(),
            memory_peak_bytes: self.memory_peak_bytes(),
            processes_peak: self.processes_peak(),
            forks_refused: self.forks_refused(),
        }
    }
}

impl Memory {
    /// That of version 1 at `directory`.
    fn of(directory: Option<&Path>) -> Self {
        let open = |name: &str, key| Counter::open(directory, name, key);
        Self {
            oom_kills: open("memory.oom_control", Some("oom_kill")),
            ooms: None,
            limit: open("memory.limit_in_bytes", None),
            used: open("memory.usage_in_bytes", None),
            peak: open("memory.max_usage_in_bytes", None),
        }
    }
}

impl Pids {
    /// Those at `directory`, of either version.
    fn at(directory: Option<&Path>) -> Self {
        let open = |name: &str, key| Counter::open(directory, name, key);
        Self {
            now: open("pids.current", None),
            peak: open("pids.peak", None),
            refused: open("pids.events", Some("max")),
        }
    }
}

/// Whether the agent, PID 1 of its namespace, is directly in the cgroup at `directory`.
fn holds_the_agent(directory: &Path) -> bool {
    fs::read_to_string(directory.join("cgroup.procs"))
        .is_ok_and(|pids| pids.lines().any(|pid| pid == "1"))
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let events = "low 0\noom 3\noom_kill 2\n";
        assert_eq!(number(events, Some("oom")), Some(3));
        assert_eq!(number(events, Some("oom_kill")), Some(2));
        assert_eq!(number(events, Some("max")), None);
        assert_eq!(number("123\n", None), Some(123));
        assert_eq!(number("max\n", None), None);
    }
}
