//! What a stage has used, and the measure of it in a container: the difference that the stage made to the container's
//! cgroup, and what the kernel says of each process that has ended (rusage). That of a slot is [`crate::slot`]'s.
//!
//! The cgroup is the authority on CPU time: a program that ignores SIGCHLD has its children's rusage thrown away. The
//! agent's own CPU time, and that of the child before its exec, are taken off: they are not the submission's.

use std::{rc::Rc, time::Duration};

use envicutor_protocol::MemoryFrom;

use crate::{
    cgroup::{Cgroup, Reading},
    processes,
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
pub trait Meter {
    /// The program was executed, after its process had used `child_before` of CPU time.
    fn executed(&mut self, child_before: Duration);
    /// A process has ended.
    fn add(&mut self, reaped: &Reaped);
    /// The wait status of the program, and when it ended where that is known, from the wait status of the process that the
    /// agent started.
    fn end_of_program(&self, status: libc::c_int) -> (libc::c_int, Option<Duration>) {
        (status, None)
    }
    /// Whether the process that the agent started ended before it could say how the program did.
    fn was_cut_off(&self) -> bool {
        false
    }
    /// CPU time of the stage so far.
    fn cpu(&self) -> Duration;
    /// CPU time of the stage, after its last process was reaped.
    fn total_cpu(&self) -> CpuTime;
    /// Whether something is known of the stage only by looking often: its peaks, or what no limit of the kernel's refuses.
    fn must_look(&self) -> bool {
        true
    }
    /// Notes how many processes and threads there are now, and tells.
    fn count_processes(&mut self) -> u64;
    /// The most processes and threads at a time.
    fn processes_peak(&self) -> u64;
    /// Whether there are more processes than the limit allows: only where nothing refuses them.
    fn has_too_many_processes(&self) -> bool {
        false
    }
    /// Whether the process limit refused a fork.
    fn forks_were_refused(&self) -> bool;
    /// Whether the kernel killed for want of memory. That a limit was merely met is no sign: page cache meets it, and is
    /// dropped.
    fn oom_kill(&self) -> OomKill;
    /// The peak of memory, in bytes, and where it is from.
    fn memory_peak(&self, killed_at_limit: bool) -> (u64, MemoryFrom);
}

/// Of a stage that never began.
pub struct Nothing;

impl Meter for Nothing {
    fn executed(&mut self, _: Duration) {}
    fn add(&mut self, _: &Reaped) {}
    fn cpu(&self) -> Duration {
        Duration::ZERO
    }
    fn total_cpu(&self) -> CpuTime {
        CpuTime::divide(Duration::ZERO, Duration::ZERO, Duration::ZERO)
    }
    fn count_processes(&mut self) -> u64 {
        0
    }
    fn processes_peak(&self) -> u64 {
        0
    }
    fn forks_were_refused(&self) -> bool {
        false
    }
    fn oom_kill(&self) -> OomKill {
        OomKill::None
    }
    fn memory_peak(&self, _: bool) -> (u64, MemoryFrom) {
        (0, MemoryFrom::Cgroup)
    }
}

/// Measures one stage of a container.
pub struct ContainerMeter {
    cgroup: Rc<Cgroup>,
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

impl CpuTime {
    /// Divides `total`, which is exact, as the sampled times are.
    pub fn divide(total: Duration, user: Duration, system: Duration) -> Self {
        let sampled = (user + system).as_secs_f64();
        let system = if sampled > 0.0 {
            total.mul_f64((system.as_secs_f64() / sampled).clamp(0.0, 1.0))
        } else {
            Duration::ZERO
        };
        Self {
            user: total.saturating_sub(system),
            system: system.min(total),
        }
    }
}

impl ContainerMeter {
    /// Begins, before the fork.
    pub fn start(cgroup: &Rc<Cgroup>) -> Self {
        Self {
            cgroup: Rc::clone(cgroup),
            agent_before: sys::own_cpu(),
            before: cgroup.read(),
            child_before: Duration::ZERO,
            user: Duration::ZERO,
            system: Duration::ZERO,
            largest_bytes: 0,
            most_processes: 0,
        }
    }
}

impl Meter for ContainerMeter {
    fn executed(&mut self, child_before: Duration) {
        self.child_before = child_before;
        self.most_processes = 1;
    }

    fn add(&mut self, reaped: &Reaped) {
        self.user += reaped.user;
        self.system += reaped.system;
        self.largest_bytes = self.largest_bytes.max(reaped.peak_bytes);
    }

    /// Without a cgroup this misses, while the stage runs, what its processes have reaped themselves; `RLIMIT_CPU` stands
    /// behind it.
    fn cpu(&self) -> Duration {
        // The agent's clock first: what it reads is in the cgroup's number by then.
        let agent = sys::own_cpu().saturating_sub(self.agent_before);
        let ended = self.user + self.system;
        let all = match (self.cgroup.cpu(), self.before.cpu) {
            (Some(now), Some(before)) => {
                now.saturating_sub(before).saturating_sub(agent).max(ended)
            }
            _ => {
                ended
                    + processes::live()
                        .filter_map(|pid| sys::process_cpu(pid).ok())
                        .sum()
            }
        };
        all.saturating_sub(self.child_before)
    }

    /// The kernel samples the split by its tick, and knows the sum exactly: so the sum is divided as the sampled times are.
    fn total_cpu(&self) -> CpuTime {
        CpuTime::divide(self.cpu(), self.user, self.system)
    }

    fn count_processes(&mut self) -> u64 {
        let now = match self.cgroup.processes() {
            Some(with_agent) => with_agent.saturating_sub(1),
            None => processes::live().count() as u64,
        };
        self.most_processes = self.most_processes.max(now);
        now
    }

    /// The cgroup's peak if this stage raised it, else the most that were seen.
    fn processes_peak(&self) -> u64 {
        match risen(self.before.processes_peak, self.cgroup.processes_peak()) {
            Some(with_agent) => self.most_processes.max(with_agent.saturating_sub(1)),
            None => self.most_processes,
        }
    }

    fn forks_were_refused(&self) -> bool {
        risen(self.before.forks_refused, self.cgroup.forks_refused()).is_some()
    }

    fn oom_kill(&self) -> OomKill {
        if risen(self.before.oom_kills, self.cgroup.oom_kills()).is_none() {
            return OomKill::None;
        }
        // The kernel counts this before it kills, and it is read after.
        let at_own_limit = match (self.before.ooms, self.cgroup.ooms()) {
            (Some(before), Some(now)) => now > before,
            _ => self.cgroup.memory_was_full().unwrap_or(true),
        };
        if at_own_limit {
            OomKill::AtOwnLimit
        } else {
            OomKill::Elsewhere
        }
    }

    /// The cgroup's peak cannot be reset: it is this stage's if it rose
    /// during the stage, or if the stage was killed at the limit. It then holds everything in the container, the agent
    /// (about 1 MiB) and the files in memory too. Else there is the largest single process.
    fn memory_peak(&self, killed_at_limit: bool) -> (u64, MemoryFrom) {
        let now = self.cgroup.memory_peak_bytes();
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
