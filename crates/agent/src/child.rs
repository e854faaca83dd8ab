//! Between fork and exec: what turns a copy of the agent into the submission's program.
//!
//! Only system calls and reads of what was prepared before the fork: nothing here may allocate, lock or unwind. A step
//! that fails is left in the [`Handover`], a page that the agent shares with this process until exec.

use std::{
    ffi::{CStr, c_char},
    io,
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use libc::{c_int, c_long};

use crate::{
    cgroup::Cgroup, identity::Identity, limits::Rlimit, slot::template::island::Island, sys,
    sys::check,
};

/// What the child needs, made before the fork.
pub struct Prepared<'a> {
    /// Who to become.
    pub identity: Identity,
    /// What each process may use.
    pub rlimits: &'a [Rlimit],
    /// The current directory.
    pub work_dir: &'a CStr,
    /// What becomes descriptor 0, 1 and 2. Each is above 2.
    pub stdio: [RawFd; 3],
    /// Where to look for the program, in this order.
    pub candidates: &'a [*const c_char],
    /// The arguments, closed by a null.
    pub argv: &'a [*const c_char],
    /// The environment, closed by a null.
    pub envp: &'a [*const c_char],
    /// What decides on each system call of the program.
    pub filter: &'a [libc::sock_filter],
    /// What makes this process the program in the end.
    pub ending: Ending<'a>,
    /// The cgroup whose CPU time is noted just before exec, where the process is in one of the stage's own.
    pub cgroup: Option<&'a Cgroup>,
}

/// What makes a process the program, once all steps are taken.
pub enum Ending<'a> {
    /// `execve`.
    Execute,
    /// The same, when there is something to read from this descriptor: until then the agent can take hold of the process.
    ExecuteWhenHeld(RawFd),
    /// A template. The process has memory of its own.
    Restore(&'a Island),
}

/// What the child leaves for the agent.
pub struct Handover {
    /// The step it is at, or [`EXEC`] once only that is left.
    pub step: AtomicUsize,
    /// `errno` of the step, 0 as long as it has not failed.
    pub errno: AtomicI32,
    /// CPU time that the child had used just before exec, in nanoseconds.
    pub cpu_ns: AtomicU64,
    /// The monotonic clock just before exec, in nanoseconds.
    pub at_ns: AtomicU64,
    /// CPU time of the stage's cgroup just before exec, in nanoseconds.
    pub usage_ns: AtomicU64,
    /// Which of the candidates was tried last.
    pub candidate: AtomicUsize,
    /// What the init of a slot's stage leaves.
    pub last_words: LastWords,
}

/// What the init of a slot's stage leaves when the program has ended; nothing where it was killed before.
#[derive(Default)]
pub struct LastWords {
    /// Whether the rest was written.
    pub written: AtomicBool,
    /// The wait status of the program.
    pub status: AtomicI32,
    /// The monotonic clock when the program had ended, in nanoseconds.
    pub at_ns: AtomicU64,
    /// CPU time of the stage's cgroup when no process but the init was left, in nanoseconds.
    pub usage_ns: AtomicU64,
    /// CPU time that the init itself has used since the exec, in nanoseconds.
    pub own_ns: AtomicU64,
}

/// The step that only exec is left after.
pub const EXEC: usize = usize::MAX;

/// A step on the way to the program, and its name.
pub type Step = (&'static str, fn(&Prepared) -> io::Result<()>);

/// The way to the program in a container. The order matters: what needs root stands before the change of ids, the check
/// after it.
pub const CONTAINER_STEPS: [Step; 12] = [
    // First of all: should memory end here, the kernel takes this process and not the agent.
    ("offer the process to the OOM killer", raise_oom_score),
    ("start a session", start_session),
    ("yield to the agent", yield_to_the_agent),
    ("reset signals", reset_signals),
    ("connect the pipes", connect_pipes),
    ("close descriptors", close_descriptors),
    ("change user and group", change_ids),
    ("drop capabilities", drop_capabilities),
    ("verify user and capabilities", verify),
    ("enter the work directory", enter_work_dir),
    // Late: a submission may ask for limits too small for the steps above, and that is no failure of the agent's.
    ("set the limits", set_rlimits),
    // Beside the Engine's own profile, so that a program finds the same in every isolation.
    ("filter system calls", filter_system_calls),
];

/// The way to the program in a slot, after the inner wall's own.
pub const SLOT_STEPS: [Step; 8] = [
    ("start a session", start_session),
    ("reset signals", reset_signals),
    ("connect the pipes", connect_pipes),
    ("close descriptors", close_descriptors),
    ("verify user and capabilities", verify),
    ("enter the work directory", enter_work_dir),
    ("set the limits", set_rlimits),
    // Last, since it forbids some of the above.
    ("filter system calls", filter_system_calls),
];

/// Becomes the program by `steps`, which are counted from `first`; or leaves in `handover` why not and exits.
pub fn become_program(prepared: &Prepared, handover: &Handover, steps: &[Step], first: usize) -> ! {
    let error = match take_steps(prepared, handover, steps, first) {
        Ok(()) => end(prepared, handover),
        Err(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
    };
    handover.errno.store(error, Ordering::Release);
    // SAFETY: ends this process without running anything of the agent's.
    unsafe { libc::_exit(127) }
}

fn take_steps(
    prepared: &Prepared,
    handover: &Handover,
    steps: &[Step],
    first: usize,
) -> io::Result<()> {
    for (index, (_, step)) in (first..).zip(steps) {
        handover.step.store(index, Ordering::Release);
        step(prepared)?;
    }
    handover.step.store(EXEC, Ordering::Release);
    Ok(())
}

fn end(prepared: &Prepared, handover: &Handover) -> c_int {
    match prepared.ending {
        Ending::Execute => execute(prepared, handover),
        Ending::ExecuteWhenHeld(holder) => match wait_to_be_held(holder) {
            Ok(()) => execute(prepared, handover),
            Err(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
        },
        Ending::Restore(island) => {
            note_time(prepared, handover);
            island.go(&handover.errno)
        }
    }
}

/// Only a process that may be dumped can be held. Nothing of a submission runs beside it.
fn wait_to_be_held(holder: RawFd) -> io::Result<()> {
    let mut byte = 0_u8;
    sys::allow_dumps()?;
    // SAFETY: there is room for one byte.
    if unsafe { libc::read(holder, (&raw mut byte).cast(), 1) } == 1 {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EPIPE))
}

/// Tries the candidates as `execvpe` does; returns only where none can be executed, with the `errno` that tells most.
fn execute(prepared: &Prepared, handover: &Handover) -> c_int {
    let mut answer = libc::ENOENT;
    for (index, &path) in prepared.candidates.iter().enumerate() {
        handover.candidate.store(index, Ordering::Relaxed);
        note_time(prepared, handover);
        // SAFETY: the path and both arrays end as execve wants it, and live as long as this process.
        unsafe { libc::execve(path, prepared.argv.as_ptr(), prepared.envp.as_ptr()) };
        match io::Error::last_os_error().raw_os_error().unwrap_or(0) {
            libc::EACCES => answer = libc::EACCES,
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            error => return error,
        }
    }
    answer
}

fn note_time(prepared: &Prepared, handover: &Handover) {
    let usage = prepared.cgroup.and_then(Cgroup::cpu).unwrap_or_default();
    handover.usage_ns.store(nanos(usage), Ordering::Relaxed);
    let own = nanos(sys::own_cpu());
    handover.cpu_ns.store(own, Ordering::Relaxed);
    handover.at_ns.store(nanos(sys::now()), Ordering::Release);
}

/// As the handover has it.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn check_long(result: c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn raise_oom_score(_: &Prepared) -> io::Result<()> {
    offer_to_oom_killer()
}

/// Should memory end, the kernel takes this process and not the agent. To be called while nothing but the agent and copies of
/// it run: for a moment this one may be dumped, because only such a process may write to its own files in `/proc`.
pub fn offer_to_oom_killer() -> io::Result<()> {
    sys::allow_dumps()?;
    let offered = write_oom_score();
    sys::forbid_dumps()?;
    offered
}

fn write_oom_score() -> io::Result<()> {
    const MOST: &[u8] = b"1000";
    let path = c"/proc/self/oom_score_adj".as_ptr();
    // SAFETY: the path ends with a NUL.
    let file = check(unsafe { libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC) })?;
    // SAFETY: the bytes are there, `file` is open. It closes at exec.
    if unsafe { libc::write(file, MOST.as_ptr().cast(), MOST.len()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn start_session(_: &Prepared) -> io::Result<()> {
    // SAFETY: touches no memory.
    check(unsafe { libc::setsid() }).map(drop)
}

/// In the CPU share of the container the agent comes first, however many processes the stage has: limits are kept in
/// time. Against other containers it changes nothing, there the cgroup's weight counts.
fn yield_to_the_agent(_: &Prepared) -> io::Result<()> {
    const NICENESS: c_int = 10;
    // SAFETY: touches no memory.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) }).map(drop)
}

/// Every signal at its default and none blocked, also those that libc keeps to itself (32, 33).
fn reset_signals(_: &Prepared) -> io::Result<()> {
    const LAST: c_int = 64;
    const SET_BYTES: usize = 8;
    // The kernel's sigaction: handler (0 is the default), flags, restorer, mask.
    let default = [0_u64; 4];
    for signal in 1..=LAST {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            continue;
        }
        let null = ptr::null_mut::<u64>();
        // SAFETY: `default` is as large as the kernel's struct; the old action is not asked for.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                null,
                SET_BYTES,
            )
        };
        check_long(result)?;
    }
    let none = 0_u64;
    let old = ptr::null_mut::<u64>();
    let (how, set) = (libc::SIG_SETMASK, &raw const none);
    // SAFETY: the set is SET_BYTES large; the old one is not asked for.
    check_long(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, set, old, SET_BYTES) })
}

fn set_rlimits(prepared: &Prepared) -> io::Result<()> {
    for limit in prepared.rlimits {
        let value = libc::rlimit {
            rlim_cur: limit.soft,
            rlim_max: limit.hard,
        };
        // SAFETY: `value` is an rlimit of ours.
        match check(unsafe { libc::setrlimit(limit.resource, &raw const value) }) {
            // Nobody is refused to lower a limit but by a kernel that does not keep it (gVisor).
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && lowers(limit)? => {}
            result => result.map(drop)?,
        }
    }
    Ok(())
}

fn lowers(limit: &Rlimit) -> io::Result<bool> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `now` is an rlimit that the call may write.
    check(unsafe { libc::getrlimit(limit.resource, &raw mut now) })?;
    Ok(limit.hard <= now.rlim_max)
}

fn connect_pipes(prepared: &Prepared) -> io::Result<()> {
    for (target, &source) in (0..).zip(&prepared.stdio) {
        // SAFETY: both are descriptors; dup2 clears close-on-exec, because source and target differ.
        check(unsafe { libc::dup2(source, target) })?;
    }
    Ok(())
}

/// Everything of the agent's closes on exec already; this is a second lock. Where the kernel or a filter does not know the
/// call or its flag (Linux before 5.11, gVisor), the first one holds.
fn close_descriptors(_: &Prepared) -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    let (last, flags) = (libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: only marks descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST, last, flags) };
    match check_long(result) {
        Err(error) if unknown(&error) => Ok(()),
        result => result,
    }
}

fn unknown(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)
    )
}

fn change_ids(prepared: &Prepared) -> io::Result<()> {
    become_user(prepared.identity)
}

/// Real, effective and saved ids; no supplementary groups. Group first: without root it would be refused.
pub fn become_user(identity: Identity) -> io::Result<()> {
    let (uid, gid) = (identity.uid(), identity.gid());
    let none = ptr::null::<libc::gid_t>();
    // SAFETY: an empty list is read from nowhere.
    check_long(unsafe { libc::syscall(libc::SYS_setgroups, 0_usize, none) })?;
    // SAFETY: touches no memory.
    check_long(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: touches no memory.
    check_long(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// The kernel's header and sets of `capset`, version 3: twice effective, permitted, inheritable.
const CAPABILITY_HEADER: [u32; 2] = [0x2008_0522, 0];
const CAPABILITY_WORDS: usize = 6;

/// Whoever makes a user namespace has every capability in it, and may have them again by a program until the bounding set
/// is empty too.
pub fn drop_everything() -> io::Result<()> {
    const MOST: libc::c_ulong = 63;
    for capability in 0..=MOST {
        // SAFETY: takes integers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } < 0 {
            break; // The first that this kernel does not know.
        }
    }
    drop_for_good()
}

/// Decides on each system call from here on, also those of programs that are executed later.
fn filter_system_calls(prepared: &Prepared) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(prepared.filter.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: prepared.filter.as_ptr().cast_mut(),
    };
    let (mode, program) = (libc::SECCOMP_MODE_FILTER, &raw const program);
    // SAFETY: the program has as many instructions as it says; the kernel copies them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, program) }).map(drop)
}

/// The change of ids has cleared the effective and permitted set; this clears the inheritable and the ambient one too,
/// and sees to it that no program can give new ones.
fn drop_capabilities(_: &Prepared) -> io::Result<()> {
    drop_for_good()
}

fn drop_for_good() -> io::Result<()> {
    give_capabilities_up()?;
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    Ok(())
}

/// Clears every set of capabilities of this process.
fn give_capabilities_up() -> io::Result<()> {
    let (header, empty) = (CAPABILITY_HEADER, [0_u32; CAPABILITY_WORDS]);
    // SAFETY: header and sets have the kernel's layout for this version.
    check_long(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), empty.as_ptr()) })?;
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    // SAFETY: takes integers only.
    match check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0) }) {
        // A kernel without such a set (gVisor).
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        result => result.map(drop)?,
    }
    Ok(())
}

/// Believes the kernel's state, not the return values.
fn verify(prepared: &Prepared) -> io::Result<()> {
    let (uid, gid) = (prepared.identity.uid(), prepared.identity.gid());
    let (mut uids, mut gids) = ([0; 3], [0; 3]);
    let [real, effective, saved] = &mut uids;
    // SAFETY: three values of ours.
    check(unsafe { libc::getresuid(real, effective, saved) })?;
    let [real, effective, saved] = &mut gids;
    // SAFETY: three values of ours.
    check(unsafe { libc::getresgid(real, effective, saved) })?;
    // Its own group may be named once more: the Engine does that for a user that it starts a container as.
    let mut group = gid;
    // SAFETY: there is room for one; more are an error.
    let groups = check(unsafe { libc::getgroups(1, &raw mut group) })?;
    let (mut header, mut sets) = (CAPABILITY_HEADER, [u32::MAX; CAPABILITY_WORDS]);
    // SAFETY: header and sets have the kernel's layout for this version.
    check_long(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) })?;
    if uids == [uid; 3]
        && gids == [gid; 3]
        && groups <= 1
        && group == gid
        && sets == [0; CAPABILITY_WORDS]
    {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

fn enter_work_dir(prepared: &Prepared) -> io::Result<()> {
    // SAFETY: the path ends with a NUL.
    check(unsafe { libc::chdir(prepared.work_dir.as_ptr()) }).map(drop)
}
