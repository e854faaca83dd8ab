//! The system calls that the standard library has no form of, as safe functions. No decision is made here.
//!
//! What runs between fork and exec has its own calls: see [`crate::child`].

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use libc::{c_int, pid_t};

/// The value of a system call, or its error.
pub fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The smallest step of clock `id`.
pub fn resolution(id: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec that the call may write.
    check(unsafe { libc::clock_getres(id, &raw mut time) })?;
    Ok(duration_of(time))
}

/// The time of clock `id` (`CLOCK_MONOTONIC`, `CLOCK_PROCESS_CPUTIME_ID`, the CPU clock of a process).
pub fn clock(id: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec that the call may write.
    check(unsafe { libc::clock_gettime(id, &raw mut time) })?;
    Ok(duration_of(time))
}

fn duration_of(time: libc::timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time since some fixed point, which no one can set.
pub fn now() -> Duration {
    clock(libc::CLOCK_MONOTONIC).unwrap_or_default()
}

/// The CPU time that the agent itself has used.
pub fn own_cpu() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_default()
}

/// The CPU time that all threads of process `pid` have used, without its children.
pub fn process_cpu(pid: pid_t) -> io::Result<Duration> {
    // The kernel's encoding of a process's clock (`clock_getcpuclockid` makes the same): scheduler time, whole process.
    const SCHEDULED: libc::clockid_t = 2;
    clock((!pid << 3) | SCHEDULED)
}

/// How many CPUs this process may run on, at least 1.
pub fn cpus() -> u32 {
    // SAFETY: a cpu_set_t is a plain bit set, all zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` has the size that is passed.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result < 0 {
        return 1;
    }
    // SAFETY: `set` was filled by the call above.
    let count = unsafe { libc::CPU_COUNT(&set) };
    u32::try_from(count).unwrap_or(1).max(1)
}

/// A pipe, reading end first. Both close on exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: `ends` has room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the call succeeded, so that both are open and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Makes reads and writes of `fd` return instead of wait.
pub fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument; the descriptor is open while it is borrowed.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: F_SETFL takes flags.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// A descriptor that becomes readable when one of `signals` comes; they are blocked from then on.
pub fn signal_fd(signals: &[c_int]) -> io::Result<OwnedFd> {
    // SAFETY: a sigset_t is plain data, and is emptied before use.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a sigset_t of ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    for &signal in signals {
        // SAFETY: as above.
        check(unsafe { libc::sigaddset(&raw mut set, signal) })?;
    }
    // SAFETY: `set` is initialised; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })?;
    // SAFETY: -1 asks for a new descriptor.
    let fd = check(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    })?;
    // SAFETY: the call succeeded, so that the descriptor is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal that waits at `fd` of [`signal_fd`], if any.
pub fn next_signal(fd: &OwnedFd) -> Option<c_int> {
    // SAFETY: the struct is plain data.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: `info` has `size` bytes, and every bit pattern is valid in it.
    let read = unsafe { libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size) };
    (usize::try_from(read) == Ok(size)).then(|| c_int::try_from(info.ssi_signo).unwrap_or(0))
}

/// Ignores `signal`.
pub fn ignore(signal: c_int) {
    // SAFETY: SIG_IGN is no handler of ours, so that nothing can be called at a bad time.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Keeps other processes of the container from reading this one's memory and descriptors through `/proc` or ptrace.
pub fn forbid_dumps() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes one integer.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    Ok(())
}

/// Makes this process its own master in `/proc`, which one that may not be dumped is not: to write its user's map. To be
/// followed by [`forbid_dumps`] before anything but the agent runs.
pub fn allow_dumps() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes one integer.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) })?;
    Ok(())
}

/// Takes `bytes` of memory ahead and keeps them for later allocations: when a stage has filled the container's memory with
/// files, the agent must still be able to report.
pub fn reserve_memory(bytes: usize) {
    const NEVER: c_int = 1 << 30;
    // SAFETY: both change how malloc keeps memory, and nothing else.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, NEVER);
        libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
        // One for all threads: what is touched is less.
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    // Written, because the kernel gives memory at the first write only.
    drop(std::hint::black_box(vec![1_u8; bytes]));
}

/// Sets the mask of new files' modes.
pub fn set_umask(mask: libc::mode_t) {
    // SAFETY: the call cannot fail.
    unsafe { libc::umask(mask) };
}

/// Opens 0, 1 and 2 where they are not, so that nothing of the agent's gets their numbers, and closes every other
/// descriptor that whoever started the agent left open. To be called before the agent opens anything.
pub fn settle_descriptors() {
    const FIRST: RawFd = 3;
    const ENOUGH_FOR_A_RUNTIME: RawFd = 4096;
    // SAFETY: the path ends with a NUL; the lowest free number is given, and the first one over 2 is closed below.
    while (0..FIRST).contains(&unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) }) {}
    // SAFETY: nobody uses these descriptors yet.
    if unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    for fd in FIRST..ENOUGH_FOR_A_RUNTIME {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

/// Waits until one of `fds` is ready or `timeout` is over (for ever without one). A signal ends it early.
pub fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let pointer = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
    // SAFETY: `fds` has `count` entries; the timeout is null or lives until the end of the call.
    match check(unsafe { libc::ppoll(fds.as_mut_ptr(), count, pointer, std::ptr::null()) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// A process that has ended and was taken off the kernel's table.
pub struct Reaped {
    /// Its process id.
    pub pid: pid_t,
    /// Its wait status.
    pub status: c_int,
    /// CPU time of it and of the children it had reaped, user mode.
    pub user: Duration,
    /// The same in the kernel.
    pub system: Duration,
    /// The most memory that it, or one of the children it had reaped, had resident, in bytes.
    pub peak_bytes: u64,
}

/// What came of looking for ended processes.
pub enum Reaping {
    /// One was found.
    Found(Reaped),
    /// There are processes, and all live.
    AllLive,
    /// There is no process but the agent.
    NoneLeft,
}

/// Takes one ended process, without waiting for it.
pub fn reap() -> io::Result<Reaping> {
    let mut status = 0;
    // SAFETY: an rusage is plain data.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values of ours.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    match check(pid) {
        Ok(0) => Ok(Reaping::AllLive),
        Ok(pid) => Ok(Reaping::Found(Reaped {
            pid,
            status,
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        })),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(Reaping::NoneLeft),
        Err(error) => Err(error),
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// The effective user.
pub fn user_id() -> libc::uid_t {
    // SAFETY: cannot fail, touches no memory.
    unsafe { libc::geteuid() }
}

/// The effective group.
pub fn group_id() -> libc::gid_t {
    // SAFETY: cannot fail, touches no memory.
    unsafe { libc::getegid() }
}

/// The id of this thread in its pid namespace.
pub fn own_thread() -> pid_t {
    // SAFETY: cannot fail, touches no memory.
    unsafe { libc::gettid() }
}

/// The id of this process in its pid namespace.
pub fn own_pid() -> u32 {
    std::process::id()
}

/// Kills every process of the pid namespace but the caller, its PID 1, in one pass that no fork escapes (the kernel holds new
/// processes off while it signals). Does nothing for another than PID 1: elsewhere this would end the host.
///
/// To find the processes of one namespace the kernel looks at each process of the host, so it is not asked where there is
/// nobody.
pub fn kill_everyone() {
    if own_pid() != 1 || has_no_child() {
        return;
    }
    // SAFETY: a signal to other processes touches no memory of ours.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// Whether this process has no child, alive or to be reaped. A PID 1 without one is alone: who loses a parent becomes its child
/// before that parent can be reaped.
fn has_no_child() -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: the struct is plain data.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is a siginfo_t that the call may write; nothing is reaped.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut found, options) };
    check(result).is_err_and(|error| error.raw_os_error() == Some(libc::ECHILD))
}
