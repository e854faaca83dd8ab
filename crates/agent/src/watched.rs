//! The measure of a stage in a container whose kernel has no cgroups to tell or to limit by, but says how much memory all
//! processes have together: gVisor.
//!
//! The container's own limits are kept outside of that kernel, around it as a whole: past them the container ends, and the agent
//! with it. They are to be wide, and the agent keeps those of the stage: it looks, and ends a stage that has too much. What a
//! program can take between two looks, 20 ms, it takes.

use std::{cell::Cell, fs, path::Path, rc::Rc, time::Duration};

use envicutor_protocol::{Limits, MemoryFrom};

use crate::{
    cgroup::Cgroup,
    failure::Failure,
    meter::{ContainerMeter, CpuTime, Meter, OomKill},
    processes,
    sys::{self, Reaped},
};

/// A file that gVisor alone has.
const SIGN: &str = "/proc/sentry-meminfo";

/// The line of `/proc/meminfo` with the memory of processes and of file systems in memory.
const MEMORY: &str = "Active(anon):";

/// A kernel that has no cgroups, and tells of memory.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// What is in use without any stage, in bytes.
    idle_bytes: u64,
}

impl Kernel {
    /// The one that the agent runs on.
    pub fn find() -> Result<Self, Failure> {
        let idle_bytes = Path::new(SIGN).exists().then(memory).flatten();
        let idle_bytes = idle_bytes.ok_or_else(|| {
            let error = "it does not tell the memory in use, expected gVisor's kernel";
            Failure::new("watch memory", "/proc/meminfo", error)
        })?;
        Ok(Self { idle_bytes })
    }

    fn memory(self) -> u64 {
        memory().unwrap_or_default().saturating_sub(self.idle_bytes)
    }
}

fn memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn kilobytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(MEMORY))?;
    let number = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    number.checked_mul(1024)
}

/// How many threads the process has, one that is gone none.
fn threads(pid: libc::pid_t) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    number_of_threads(&text).unwrap_or_default()
}

/// The 20th field. The 2nd is the program's name, in parentheses, and may hold anything.
fn number_of_threads(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(17)?.parse().ok()
}

/// Measures one stage.
pub struct WatchedMeter {
    /// For what is told of single processes.
    processes: ContainerMeter,
    kernel: Kernel,
    limits: Limits,
    /// The most memory that was seen, in bytes.
    peak_bytes: Cell<u64>,
    /// The most processes and threads that were seen.
    most_processes: u64,
    started: Duration,
}

impl WatchedMeter {
    /// Begins, before the fork.
    pub fn start(kernel: Kernel, limits: &Limits) -> Self {
        Self {
            processes: ContainerMeter::start(&Rc::new(Cgroup::at(None))),
            kernel,
            limits: limits.clone(),
            peak_bytes: Cell::new(0),
            most_processes: 0,
            started: sys::now(),
        }
    }

    /// gVisor counts a process that waits for a processor as one that runs. More than all processors could give in the time is
    /// not believed.
    fn believed(&self, cpu: Duration) -> Duration {
        let possible = sys::now().saturating_sub(self.started) * sys::cpus();
        cpu.min(possible)
    }
}

impl Meter for WatchedMeter {
    fn executed(&mut self, child_before: Duration) {
        self.processes.executed(child_before);
        self.most_processes = 1;
        self.started = sys::now();
    }

    fn add(&mut self, reaped: &Reaped) {
        self.processes.add(reaped);
    }

    fn cpu(&self) -> Duration {
        self.believed(self.processes.cpu())
    }

    fn total_cpu(&self) -> CpuTime {
        let CpuTime { user, system } = self.processes.total_cpu();
        CpuTime::divide(self.believed(user + system), user, system)
    }

    fn count_processes(&mut self) -> u64 {
        let now = processes::live().map(threads).sum();
        self.most_processes = self.most_processes.max(now);
        now
    }

    fn processes_peak(&self) -> u64 {
        self.most_processes
    }

    fn has_too_many_processes(&self) -> bool {
        self.most_processes > self.limits.processes
    }

    /// Forks are not refused here, but end the stage.
    fn forks_were_refused(&self) -> bool {
        self.has_too_many_processes()
    }

    /// Nobody was killed yet, but is to be.
    fn oom_kill(&self) -> OomKill {
        let peak = self.peak_bytes.get().max(self.kernel.memory());
        self.peak_bytes.set(peak);
        if peak > self.limits.memory_bytes {
            OomKill::AtOwnLimit
        } else {
            OomKill::None
        }
    }

    /// The most that was seen, or the largest single process where that was more.
    fn memory_peak(&self, killed_at_limit: bool) -> (u64, MemoryFrom) {
        let (largest, from) = self.processes.memory_peak(killed_at_limit);
        (largest.max(self.peak_bytes.get()), from)
    }
}

#[cfg(test)]
mod tests {
    use super::{kilobytes, number_of_threads};

    #[test]
    fn memory_is_that_of_processes_and_files_in_memory() {
        let text = "MemTotal:        524288 kB\nActive(anon):      87572 kB\nCached:             7096 kB\n";
        assert_eq!(kilobytes(text), Some(87_572 * 1024));
        assert_eq!(kilobytes("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn threads_are_found_behind_any_name() {
        let stat = "11 (a ) b) R 1 1 1 0 0 0 0 0 0 0 1 1 0 0 20 0 3 0 135 10936320 1026";
        assert_eq!(number_of_threads(stat), Some(3));
        assert_eq!(number_of_threads(""), None);
    }
}
