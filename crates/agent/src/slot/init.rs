//! The init of a stage: PID 1 of the stage's pid namespace, a copy of the agent that never executes anything. It builds what
//! is left of the wall, starts the program as PID 2, buries everybody, and leaves its last words in the handover.
//!
//! A program as PID 1 would be deaf to its own signals (`abort`), and orphans would have nobody. When the init ends, the
//! kernel ends everything in its namespace and takes the mounts away before the agent can reap it.
//!
//! Only system calls and reads of what was prepared before: nothing here may allocate, lock or unwind.

use std::{
    ffi::{CStr, c_void},
    io,
    os::fd::{AsRawFd, RawFd},
    ptr,
    sync::atomic::Ordering,
};

use libc::{c_int, c_ulong};

use super::{
    mounts::{bind, mount},
    root::Mask,
};
use crate::{
    cgroup::Cgroup,
    child::{
        Ending, Handover, LastWords, Prepared, SLOT_STEPS, become_program, drop_everything, nanos,
        offer_to_oom_killer,
    },
    sys::{self, check},
};

/// The user and group of a stage, as it sees itself. It is the agent's user outside.
pub const INNER_ID: libc::uid_t = 1000;

/// The namespaces of each stage's own.
const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP)
    .cast_unsigned() as u64;

/// `CLONE_INTO_CGROUP`, which the library has in too few bits.
const INTO_CGROUP: u64 = 1 << 33;

/// Where file systems in memory are mounted, in every root.
const SCRATCH: [&CStr; 2] = [c"/tmp", c"/dev/shm"];

/// What the init needs, made before it is.
pub struct Enclosure<'a> {
    /// The program's part.
    pub program: Prepared<'a>,
    /// Files of `/proc` that nobody needs and everybody could read.
    pub masks: &'a [Mask],
    /// The options of each of [`SCRATCH`].
    pub scratch: &'a CStr,
    /// What the program's beginning runs on.
    pub stack: &'a Stack,
    /// The stage's cgroup.
    pub cgroup: &'a Cgroup,
    /// Closed when the program was executed, or will not be.
    pub running: RawFd,
    /// What is shared with the agent.
    pub handover: &'static Handover,
}

type Step = (&'static str, fn(&Enclosure) -> io::Result<()>);

/// The wall's own steps, before those of the program.
const STEPS: [Step; 5] = [
    ("map the user", map_user),
    ("mount the processes", mount_processes),
    ("mask the processes' file system", mask_processes),
    ("mount the file systems in memory", mount_scratch),
    // The init itself, so that the program never meets one that can do more than it.
    ("drop capabilities", drop_capabilities),
];

/// What a step of a stage is called, the init's and the program's.
pub fn step_name(index: usize) -> Option<&'static str> {
    let own = STEPS.iter().map(|(name, _)| *name);
    let program = SLOT_STEPS.iter().map(|(name, _)| *name);
    own.chain(program).nth(index)
}

/// A stack for the program's beginning, while its init waits.
pub struct Stack(*mut c_void);

impl Stack {
    const BYTES: usize = 64 << 10;

    /// Takes memory for it, for as long as the agent lives.
    pub fn take() -> io::Result<Self> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
        );
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), Self::BYTES, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(start))
    }

    /// Where a stack that grows down begins.
    fn top(&self) -> *mut c_void {
        // SAFETY: the end of the mapping, which no one reads.
        unsafe { self.0.byte_add(Self::BYTES) }
    }
}

/// Makes the init, in `entrance` where there is one: its pid.
pub fn start(enclosure: &Enclosure, entrance: Option<&impl AsRawFd>) -> io::Result<libc::pid_t> {
    // SAFETY: the struct is plain data; what is zero is not asked for.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = NAMESPACES;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(entrance) = entrance {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = u64::from(entrance.as_raw_fd().cast_unsigned());
    }
    let size = size_of_val(&arguments);
    // SAFETY: the arguments are as large as `size`. Without CLONE_VM the child has a copy of everything and goes on here; it
    // calls nothing but `be_init`, which is made for this.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) };
    match pid {
        0 => be_init(enclosure),
        pid if pid < 0 => Err(io::Error::last_os_error()),
        pid => libc::pid_t::try_from(pid).map_err(io::Error::other),
    }
}

fn be_init(enclosure: &Enclosure) -> ! {
    let handover = enclosure.handover;
    for (index, (_, step)) in STEPS.iter().enumerate() {
        handover.step.store(index, Ordering::Release);
        if let Err(error) = step(enclosure) {
            give_up(handover, &error);
        }
    }
    handover.step.store(STEPS.len(), Ordering::Release);
    match start_program(enclosure) {
        // A program that begins from a template is on its way, and says itself what came of it.
        Ok(program) if has_own_memory(enclosure) || handover.errno.load(Ordering::Acquire) == 0 => {
            bury(program, enclosure);
        }
        // It has left its error already.
        Ok(_) => {}
        Err(error) => give_up(handover, &error),
    }
    exit(0)
}

fn give_up(handover: &Handover, error: &io::Error) -> ! {
    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
    handover.errno.store(errno, Ordering::Release);
    exit(1)
}

fn exit(code: c_int) -> ! {
    // SAFETY: ends this process without running anything of the agent's.
    unsafe { libc::_exit(code) }
}

/// Starts the program, and returns when it was executed or is dead. Until then it shares this memory: nothing is copied. One
/// that begins from a template changes its memory before it is the program: it has a copy, and is not waited for.
fn start_program(enclosure: &Enclosure) -> io::Result<libc::pid_t> {
    const SHARED: c_int = libc::CLONE_VM | libc::CLONE_VFORK;
    let shared = if has_own_memory(enclosure) { 0 } else { SHARED };
    let argument = ptr::from_ref(enclosure).cast_mut().cast();
    let (stack, flags) = (enclosure.stack.top(), shared | libc::SIGCHLD);
    // SAFETY: the stack is nobody else's and large enough for `program`; this process waits until it is done with both, where
    // they are not copies.
    check(unsafe { libc::clone(program, stack, flags, argument) })
}

fn has_own_memory(enclosure: &Enclosure) -> bool {
    matches!(enclosure.program.ending, Ending::Restore(_))
}

extern "C" fn program(argument: *mut c_void) -> c_int {
    // SAFETY: `start_program` passes an enclosure that lives while it waits.
    let enclosure = unsafe { &*argument.cast::<Enclosure>() };
    become_program(
        &enclosure.program,
        enclosure.handover,
        &SLOT_STEPS,
        STEPS.len(),
    )
}

/// Reaps until `program` has ended, kills the rest, reaps that too, and writes what came of it.
fn bury(program: libc::pid_t, enclosure: &Enclosure) {
    let own_before = sys::own_cpu();
    let_go(enclosure);
    let last_words = &enclosure.handover.last_words;
    loop {
        let mut status = 0;
        // SAFETY: `status` is ours; the usage is not asked for.
        let pid = unsafe { libc::wait4(-1, &raw mut status, libc::__WALL, ptr::null_mut()) };
        if pid == program {
            last_words.status.store(status, Ordering::Relaxed);
            last_words.at_ns.store(nanos(sys::now()), Ordering::Relaxed);
            sys::kill_everyone();
        }
        let error = io::Error::last_os_error().raw_os_error();
        if pid < 0 && error != Some(libc::EINTR) {
            break; // Nobody is left.
        }
    }
    write_last_words(last_words, enclosure.cgroup, own_before);
}

fn write_last_words(last_words: &LastWords, cgroup: &Cgroup, own_before: std::time::Duration) {
    let Some(usage) = cgroup.cpu() else { return };
    let own = sys::own_cpu().saturating_sub(own_before);
    last_words.usage_ns.store(nanos(usage), Ordering::Relaxed);
    last_words.own_ns.store(nanos(own), Ordering::Relaxed);
    last_words.written.store(true, Ordering::Release);
}

/// Descriptors let this process do more than reap: all go, but the one that the cgroup is read by. The end of `running` among them tells the agent that the program was executed.
fn let_go(enclosure: &Enclosure) {
    let keep = enclosure.cgroup.cpu_descriptor().unwrap_or(-1);
    let close = |first: c_int, last: c_int| {
        if first <= last {
            // SAFETY: no one in this process uses descriptors, but the one that is left out.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    };
    close(0, keep - 1);
    close(keep + 1, c_int::MAX);
    // SAFETY: as above; where the kernel does not know the call before, the agent must be told all the same.
    unsafe { libc::close(enclosure.running) };
}

fn drop_capabilities(_: &Enclosure) -> io::Result<()> {
    drop_everything()
}

/// The agent's user is [`INNER_ID`] in here, and nobody else is anybody.
fn map_user(_: &Enclosure) -> io::Result<()> {
    const MAP: &[u8] = b"1000 0 1";
    sys::allow_dumps()?;
    write(c"/proc/self/setgroups", b"deny")?;
    write(c"/proc/self/uid_map", MAP)?;
    write(c"/proc/self/gid_map", MAP)?;
    // Goes on to the program: should memory end, the kernel takes them and not the agent.
    offer_to_oom_killer()
}

fn mount_processes(_: &Enclosure) -> io::Result<()> {
    const FLAGS: c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(c"proc", c"/proc", FLAGS, c"")
}

fn mask_processes(enclosure: &Enclosure) -> io::Result<()> {
    const FLAGS: c_ulong = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    for mask in enclosure.masks {
        match mask {
            Mask::File(path) => bind(c"/dev/null", path)?,
            Mask::Directory(path) => mount(c"tmpfs", path, FLAGS, c"mode=0555,nr_inodes=1")?,
        }
    }
    Ok(())
}

fn mount_scratch(enclosure: &Enclosure) -> io::Result<()> {
    const FLAGS: c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
    for path in SCRATCH {
        mount(c"tmpfs", path, FLAGS, enclosure.scratch)?;
    }
    Ok(())
}

fn write(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the path ends with a NUL.
    let file = check(unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) })?;
    // SAFETY: the bytes are there, `file` is open.
    let written = unsafe { libc::write(file, bytes.as_ptr().cast(), bytes.len()) };
    let error = io::Error::last_os_error();
    // SAFETY: it is nobody else's.
    unsafe { libc::close(file) };
    if written < 0 {
        return Err(error);
    }
    Ok(())
}
