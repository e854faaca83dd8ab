//! The limits that the kernel keeps for each process (`setrlimit`). Those of the whole tree are not here: the container's
//! cgroup keeps memory and processes, the stage keeps CPU time, wall time and output.

use envicutor_protocol::Limits;

/// A limit for `setrlimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// `RLIMIT_…`.
    pub resource: libc::__rlimit_resource_t,
    /// Its name, for errors.
    pub name: &'static str,
    /// Where the kernel refuses or signals.
    pub soft: u64,
    /// How far the process may raise the soft one.
    pub hard: u64,
}

/// How many limits there are for each process.
pub const RLIMITS: usize = 9;

/// What a program may lock in memory, in bytes: a ring or a key, not a working set.
const LOCKED_BYTES: u64 = 64 << 10;

/// The limits of each process of a stage. Raising one over the container's own hard limit fails, and is never clamped.
pub fn rlimits(limits: &Limits) -> [Rlimit; RLIMITS] {
    let cpu = cpu_backstop_s(limits);
    [
        // SIGXCPU at the soft limit, SIGKILL at the hard one.
        limit(libc::RLIMIT_CPU, "RLIMIT_CPU", cpu, cpu + 1),
        both(libc::RLIMIT_STACK, "RLIMIT_STACK", limits.stack_bytes),
        both(libc::RLIMIT_NOFILE, "RLIMIT_NOFILE", limits.open_files),
        both(libc::RLIMIT_FSIZE, "RLIMIT_FSIZE", limits.file_size_bytes),
        // Not 0: to a host that pipes core dumps into a program of its own, only 1 means none at all (`man 5 core`).
        both(libc::RLIMIT_CORE, "RLIMIT_CORE", 1),
        both(libc::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK", LOCKED_BYTES),
        both(libc::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE", 0),
        both(libc::RLIMIT_NICE, "RLIMIT_NICE", 0),
        both(libc::RLIMIT_RTPRIO, "RLIMIT_RTPRIO", 0),
    ]
}

/// A little over the CPU time that a stage may use before it is killed, in whole seconds: it ends a single process
/// should the agent be kept from looking.
fn cpu_backstop_s(limits: &Limits) -> u64 {
    let kill_us = limits.cpu_time_us.saturating_add(limits.extra_time_us);
    kill_us.div_ceil(1_000_000) + 1
}

fn both(resource: libc::__rlimit_resource_t, name: &'static str, value: u64) -> Rlimit {
    limit(resource, name, value, value)
}

fn limit(resource: libc::__rlimit_resource_t, name: &'static str, soft: u64, hard: u64) -> Rlimit {
    Rlimit {
        resource,
        name,
        soft,
        hard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_backstop_lies_over_the_limit() {
        let limits = |cpu_time_us, extra_time_us| Limits {
            cpu_time_us,
            extra_time_us,
            wall_time_us: 1,
            memory_bytes: 1,
            stack_bytes: 1,
            processes: 1,
            open_files: 1,
            file_size_bytes: 1,
            output_bytes: 1,
        };
        assert_eq!(cpu_backstop_s(&limits(1, 0)), 2);
        assert_eq!(cpu_backstop_s(&limits(1_000_000, 500_000)), 3);
        assert!(cpu_backstop_s(&limits(u64::MAX, u64::MAX)) < u64::MAX - 1);
    }
}
