//! Measures a stage by its cgroup, which holds nothing but the stage (and on version 1 the sleeping launcher): CPU time from
//! just before exec to when only the init was left, without the init's own; peaks and refusals from the kernel's counters.

use std::{
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use envicutor_protocol::MemoryFrom;

use super::cgroups::Ready;
use crate::{
    cgroup::{Cgroup, Reading},
    child::{Handover, LastWords},
    meter::{CpuTime, Meter, OomKill},
    sys::Reaped,
};

/// Measures one stage of a slot.
pub struct SlotMeter {
    cgroup: Rc<Cgroup>,
    before: Reading,
    /// Processes in the cgroup that are not the program's.
    others: u64,
    handover: &'static Handover,
    /// What the kernel's tick has sampled, for the split.
    user: Duration,
    system: Duration,
    most_processes: u64,
    limit_bytes: u64,
}

impl SlotMeter {
    /// Begins, before the init is made. The stage may use `limit_bytes` of memory.
    pub fn start(ready: &Ready, handover: &'static Handover, limit_bytes: u64) -> Self {
        Self {
            before: ready.cgroup.read(),
            cgroup: Rc::clone(&ready.cgroup),
            others: ready.others,
            handover,
            user: Duration::ZERO,
            system: Duration::ZERO,
            most_processes: 0,
            limit_bytes,
        }
    }

    /// What the init wrote last, if it came to that.
    fn last_words(&self) -> Option<&LastWords> {
        let last_words = &self.handover.last_words;
        last_words
            .written
            .load(Ordering::Acquire)
            .then_some(last_words)
    }
}

impl Meter for SlotMeter {
    /// The cgroup's time just before exec is in the handover.
    fn executed(&mut self, _: Duration) {
        self.most_processes = 1;
    }

    fn add(&mut self, reaped: &Reaped) {
        self.user += reaped.user;
        self.system += reaped.system;
    }

    fn end_of_program(&self, status: libc::c_int) -> (libc::c_int, Option<Duration>) {
        match self.last_words() {
            Some(it) => (it.status.load(Ordering::Acquire), Some(time(&it.at_ns))),
            None => (status, None),
        }
    }

    fn was_cut_off(&self) -> bool {
        self.last_words().is_none()
    }

    fn cpu(&self) -> Duration {
        let (end, own) = match self.last_words() {
            Some(it) => (time(&it.usage_ns), time(&it.own_ns)),
            None => (self.cgroup.cpu().unwrap_or_default(), Duration::ZERO),
        };
        let all = end.saturating_sub(time(&self.handover.usage_ns));
        all.saturating_sub(own)
    }

    fn total_cpu(&self) -> CpuTime {
        CpuTime::divide(self.cpu(), self.user, self.system)
    }

    fn must_look(&self) -> bool {
        self.before.processes_peak.is_none()
    }

    fn count_processes(&mut self) -> u64 {
        let all = self.cgroup.processes().unwrap_or_default();
        let now = all.saturating_sub(self.others);
        self.most_processes = self.most_processes.max(now);
        now
    }

    /// A peak of the stage's own; the most that were seen where the kernel has none (before Linux 6.1).
    fn processes_peak(&self) -> u64 {
        let peak = self.cgroup.processes_peak().unwrap_or_default();
        self.most_processes.max(peak.saturating_sub(self.others))
    }

    fn forks_were_refused(&self) -> bool {
        self.cgroup.forks_refused() > self.before.forks_refused
    }

    fn oom_kill(&self) -> OomKill {
        if self.cgroup.oom_kills() <= self.before.oom_kills {
            return OomKill::None;
        }
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

    /// Without what was charged before it began, on version 1. A stage that met its limit has used all of it.
    fn memory_peak(&self, killed_at_limit: bool) -> (u64, MemoryFrom) {
        let peak = self.cgroup.memory_peak_bytes().unwrap_or_default();
        let before = self.before.memory_peak_bytes.unwrap_or_default();
        let own = peak.saturating_sub(before);
        let bytes = if killed_at_limit {
            own.max(self.limit_bytes.min(peak))
        } else {
            own
        };
        (bytes, MemoryFrom::Cgroup)
    }
}

fn time(nanos: &AtomicU64) -> Duration {
    Duration::from_nanos(nanos.load(Ordering::Acquire))
}
