//! What a stage has used: the difference that it made to the container's cgroup, and what the kernel says of each process
//! that has ended (rusage).
//!
//! The cgroup is the authority on CPU time: a program that ignores SIGCHLD has its children's rusage thrown away. The
//! agent's own CPU time, and that of the child before its exec, are taken off: they are not the submission's.

use std::{fs, time::Duration};

use envicutor_protocol::MemoryFrom;
use libc::pid_t;

use crate::{
    cgroup::{Cgroup, Reading},
    sys::{self, Reaped},
};

/// Whether the kernel killed a process of the stage for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomKill {
    /// It did not.
    None,
    /// It did, at the container's own limit.
    AtOwnLimit,
    /// It did, and the container had not met its limit: the host, or a cgroup above, ran out. Nothing the submission did.
    Elsewhere,
}

/// Measures one stage.
pub struct Meter {
    before: Reading,
    agent_before: Duration,
    /// CPU time of the stage's process before exec.
    child_before: Duration,
    /// Sums over the ended processes.
    user: Duration,
    system: Duration,
    largest_bytes: u64,
    most_processes: u64,
}

/// CPU time of a whole stage.
pub struct CpuTime {
    /// In user mode.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

impl Meter {
    /// Begins, before the fork.
    pub fn start(cgroup: &Cgroup) -> Self {
        Self {
            agent_before: sys::own_cpu(),
            before: cgroup.read(),
            child_before: Duration::ZERO,
            user: Duration::ZERO,
            system: Duration::ZERO,
            largest_bytes: 0,
            most_processes: 0,
        }
    }

    /// The program was executed, after its process had used `child_before` of CPU time.
    pub fn executed(&mut self, child_before: Duration) {
        self.child_before = child_before;
        self.most_processes = 1;
    }

    /// A process has ended.
    pub fn add(&mut self, reaped: &Reaped) {
        self.user += reaped.user;
        self.system += reaped.system;
        self.largest_bytes = self.largest_bytes.max(reaped.peak_bytes);
    }

    /// CPU time of the stage so far.
    ///
    /// Without a cgroup this misses, while the stage runs, what its processes have reaped themselves; `RLIMIT_CPU` stands
    /// behind it.
    pub fn cpu(&self, cgroup: &Cgroup) -> Duration {
        // The agent's clock first: what it reads is in the cgroup's number by then.
        let agent = sys::own_cpu().saturating_sub(self.agent_before);
        let ended = self.user + self.system;
        let all = match (cgroup.cpu(), self.before.cpu) {
            (Some(now), Some(before)) => {
                now.saturating_sub(before).saturating_sub(agent).max(ended)
            }
            _ => {
                ended
                    + live_processes()
                        .filter_map(|pid| sys::process_cpu(pid).ok())
                        .sum()
            }
        };
        all.saturating_sub(self.child_before)
    }

    /// CPU time of the stage, after its last process was reaped. The kernel samples the split by its tick, and knows the
    /// sum exactly: so the sum is divided as the sampled times are.
    pub fn total_cpu(&self, cgroup: &Cgroup) -> CpuTime {
        let total = self.cpu(cgroup);
        let sampled = (self.user + self.system).as_secs_f64();
        let system = if sampled > 0.0 {
            total.mul_f64((self.system.as_secs_f64() / sampled).clamp(0.0, 1.0))
        } else {
            Duration::ZERO
        };
        CpuTime {
            user: total.saturating_sub(system),
            system: system.min(total),
        }
    }

    /// Notes how many processes there are now.
    pub fn count_processes(&mut self, cgroup: &Cgroup) {
        let now = match cgroup.processes() {
            Some(with_agent) => with_agent.saturating_sub(1),
            None => live_processes().count() as u64,
        };
        self.most_processes = self.most_processes.max(now);
    }

    /// The most processes and threads at a time: the cgroup's peak if this stage raised it, else the most that were seen.
    pub fn processes_peak(&self, cgroup: &Cgroup) -> u64 {
        match risen(self.before.processes_peak, cgroup.read().processes_peak) {
            Some(with_agent) => self.most_processes.max(with_agent.saturating_sub(1)),
            None => self.most_processes,
        }
    }

    /// Whether the process limit refused a fork.
    pub fn forks_were_refused(&self, cgroup: &Cgroup) -> bool {
        risen(self.before.forks_refused, cgroup.read().forks_refused).is_some()
    }

    /// Whether the kernel killed for want of memory. That a limit was merely met is no sign: page cache meets it, and is
    /// dropped.
    pub fn oom_kill(&self, cgroup: &Cgroup) -> OomKill {
        if risen(self.before.oom_kills, cgroup.oom_kills()).is_none() {
            return OomKill::None;
        }
        // The kernel counts this before it kills, and it is read after.
        let at_own_limit = match (self.before.ooms, cgroup.ooms()) {
            (Some(before), Some(now)) => now > before,
            _ => cgroup.memory_was_full().unwrap_or(true),
        };
        if at_own_limit {
            OomKill::AtOwnLimit
        } else {
            OomKill::Elsewhere
        }
    }

    /// The peak of memory, in bytes, and where it is from. The cgroup's peak cannot be reset: it is this stage's if it rose
    /// during the stage, or if the stage was killed at the limit. It then holds everything in the container, the agent
    /// (about 1 MiB) and the files in memory too. Else there is the largest single process.
    pub fn memory_peak(&self, cgroup: &Cgroup, killed_at_limit: bool) -> (u64, MemoryFrom) {
        let now = cgroup.read().memory_peak_bytes;
        let own = risen(self.before.memory_peak_bytes, now);
        match own.or(now.filter(|_| killed_at_limit)) {
            Some(bytes) => (bytes, MemoryFrom::Cgroup),
            None => (self.largest_bytes, MemoryFrom::Rusage),
        }
    }
}

/// `now`, if it is more than `before`.
fn risen(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    now.filter(|now| before.is_some_and(|before| *now > before))
}

/// The processes of the pid namespace but the agent. Only asked for where no cgroup can be read.
fn live_processes() -> impl Iterator<Item = pid_t> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != 1)
}

#[cfg(test)]
mod tests {
    use super::risen;

    #[test]
    fn a_counter_that_cannot_be_read_has_not_risen() {
        assert_eq!(risen(Some(1), Some(2)), Some(2));
        assert_eq!(risen(Some(2), Some(2)), None);
        assert_eq!(risen(None, Some(2)), None);
        assert_eq!(risen(Some(2), None), None);
    }
}
