//! CPU time up to this moment. The kernel adds up the time of a program that runs at its tick, and when something about the program
//! changes (`update_curr` of its scheduler): in between, what a cgroup tells is behind. So who wants to know it exactly changes
//! something that the program does not feel: where it may run, to where it runs, and back.

use std::{fs, io, mem, path::Path, time::Duration};

use libc::pid_t;

use crate::{
    processes,
    sys::{self, check},
};

/// The threads that are looked at, at most: a stage may make very many, and each costs an open file.
const THREADS: usize = 256;

/// The shortest turn that a thread can ask for (Linux 6.12 and later; before, it is not heard).
const SHORTEST_TURN: Duration = Duration::from_micros(100);

/// The longest tick that a kernel is built with (`CONFIG_HZ=100`).
const LONGEST_TICK: Duration = Duration::from_millis(10);

/// How long a running program's time may not be counted yet, on each processor: the kernel's tick, 1 to 10 ms.
pub fn tick() -> Duration {
    // The coarse clock stands still between two ticks.
    sys::resolution(libc::CLOCK_MONOTONIC_COARSE).unwrap_or(LONGEST_TICK)
}

/// Has the kernel count what the running threads of all processes but PID 1 have used. One that may run on a single processor, or
/// is another user's (as in isolation `container`), stays counted up to the last tick. False: all of them sleep.
pub fn count_running() -> bool {
    let threads = processes::live_threads().take(THREADS);
    let running = threads.filter_map(|thread| Running::find(&thread));
    running.inspect(Running::count).count() > 0
}

/// As long as this lives, this thread interrupts programs when it wakes, instead of waiting for the end of their turn.
pub struct Hurry;

impl Hurry {
    /// Begins, where the kernel allows it.
    pub fn begin() -> Self {
        let _ = ask_for_turn(SHORTEST_TURN);
        Self
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        // The kernel's own.
        let _ = ask_for_turn(Duration::ZERO);
    }
}

/// Gives this thread turns of that length on its processor.
fn ask_for_turn(length: Duration) -> io::Result<()> {
    // SAFETY: the struct is plain data; all zero is an ordinary thread.
    let mut wish: libc::sched_attr = unsafe { mem::zeroed() };
    wish.size = u32::try_from(size_of_val(&wish)).map_err(io::Error::other)?;
    wish.sched_runtime = u64::try_from(length.as_nanos()).map_err(io::Error::other)?;
    // SAFETY: the struct is as large as it says; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A thread that runs, or waits for a processor.
struct Running {
    thread: pid_t,
    processor: usize,
}

impl Running {
    /// The one whose directory in `/proc` is `directory`, if it is runnable.
    fn find(directory: &Path) -> Option<Self> {
        let stat = fs::read_to_string(directory.join("stat")).ok()?;
        Some(Self {
            thread: directory.file_name()?.to_str()?.parse().ok()?,
            processor: processor(&stat)?,
        })
    }

    fn count(&self) {
        // One that has ended meanwhile was counted by that.
        let Ok(own) = Affinity::of(self.thread) else {
            return;
        };
        let here = Affinity::to(self.processor);
        if here.and_then(|it| it.give(self.thread)).is_ok() {
            let _ = own.give(self.thread);
        }
    }
}

/// The 39th field of a thread that is runnable, which the 3rd says. The 2nd is its name, in parentheses, and may hold anything.
fn processor(stat: &str) -> Option<usize> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if fields.next()? != "R" {
        return None;
    }
    fields.nth(35)?.parse().ok()
}

/// The processors that a thread may run on.
struct Affinity(libc::cpu_set_t);

impl Affinity {
    fn of(thread: pid_t) -> io::Result<Self> {
        let mut own = Self::nowhere();
        // SAFETY: the set has the size that is passed.
        let result =
            unsafe { libc::sched_getaffinity(thread, size_of_val(&own.0), &raw mut own.0) };
        check(result).map(|_| own)
    }

    /// One processor alone.
    fn to(processor: usize) -> io::Result<Self> {
        let mut one = Self::nowhere();
        if processor >= 8 * size_of_val(&one.0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the set has a bit for it, as was just looked at.
        unsafe { libc::CPU_SET(processor, &mut one.0) };
        Ok(one)
    }

    fn nowhere() -> Self {
        // SAFETY: a cpu_set_t is a plain bit set, all zero is the empty one.
        Self(unsafe { mem::zeroed() })
    }

    fn give(&self, thread: pid_t) -> io::Result<()> {
        // SAFETY: the set has the size that is passed.
        check(unsafe { libc::sched_setaffinity(thread, size_of_val(&self.0), &raw const self.0) })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        process::{Child, Command},
        time::Instant,
    };

    use super::*;

    /// Fields 4 to 38 do not matter.
    fn stat(name: &str, state: &str) -> String {
        format!("7 ({name}) {state} {}3 0 0", "0 ".repeat(35))
    }

    #[test]
    fn only_a_runnable_thread_has_a_processor() {
        assert_eq!(processor(&stat("sh", "R")), Some(3));
        assert_eq!(processor(&stat("sh", "S")), None);
        assert_eq!(processor(&stat(") R 1 2 (", "R")), Some(3));
        assert_eq!(processor(&stat(") R 1 2 (", "S")), None);
        assert_eq!(processor("7 (sh) R 1"), None);
    }

    #[test]
    fn a_set_has_room_for_so_many() {
        assert!(Affinity::to(1023).is_ok());
        assert!(Affinity::to(1024).is_err());
    }

    #[test]
    fn a_turn_can_be_asked_for() {
        ask_for_turn(SHORTEST_TURN).expect("is allowed");
        ask_for_turn(Duration::ZERO).expect("is allowed");
    }

    #[test]
    fn the_tick_is_one_that_kernels_have() {
        assert!(tick() <= LONGEST_TICK && !tick().is_zero(), "{:?}", tick());
    }

    /// A program that runs for ever.
    struct Spinning(Child);

    impl Spinning {
        fn start() -> Self {
            let program = Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn();
            Self(program.expect("starts"))
        }

        fn directory(&self) -> PathBuf {
            let id = self.0.id();
            format!("/proc/{id}/task/{id}").into()
        }

        /// In nanoseconds, as the kernel has counted it.
        fn used(&self) -> u64 {
            let text = fs::read_to_string(self.directory().join("schedstat")).expect("is told");
            let used = text.split_whitespace().next().expect("is the first");
            used.parse().expect("is a number")
        }
    }

    impl Drop for Spinning {
        fn drop(&mut self) {
            let _ = self.0.kill().and_then(|()| self.0.wait());
        }
    }

    /// Between two ticks the kernel counts nothing by itself, and a look takes some microseconds: ten in a row that find more than
    /// the one before are not the ticks. A few are not enough, because the program may have to wait for its processor.
    #[test]
    fn a_look_has_the_kernel_count_and_leaves_the_thread_free() {
        let program = Spinning::start();
        let id = pid_t::try_from(program.0.id()).expect("is a process id");
        let free = Affinity::of(id).expect("is told");
        let give_up = Instant::now() + Duration::from_mins(1);
        let mut in_a_row = 0;
        let mut before = program.used();
        while in_a_row < 10 {
            assert!(Instant::now() < give_up, "the kernel does not count");
            if let Some(running) = Running::find(&program.directory()) {
                running.count();
            }
            let now = program.used();
            in_a_row = if now > before { in_a_row + 1 } else { 0 };
            before = now;
        }
        let after = Affinity::of(id).expect("is told");
        // SAFETY: both sets were filled by the kernel.
        assert!(unsafe { libc::CPU_EQUAL(&free.0, &after.0) });
    }
}
