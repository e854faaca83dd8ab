//! Templates: a program of a runtime that begins where an earlier start of the same program was when it first looked at the
//! submission.
//!
//! A template is no process. It is what the program had in memory at that point, taken once from a start of its own with an
//! empty work directory ([`boot`], [`tracee`], [`memory`]), and a list of system calls that puts it there again ([`island`]). A stage
//! begins as any other: the same init, namespaces, cgroup, limits and filter; only the last step is another, the list
//! in the place of `execve`. Nothing of a submission ever gets into a template, since none has begun when it is taken.
//!
//! The invariant: a stage starts from a template only with the very command, arguments, environment, limits and root that the
//! template was taken with. Whatever goes wrong, the template is dropped and the stage starts as any other.

mod boot;
pub mod island;
mod memory;
mod tracee;

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, FromRawFd},
    path::{Path, PathBuf},
};

use envicutor_protocol::{Limits, Stage as Order, WORK_DIR};
use libc::pid_t;

use crate::{
    failure::{Failure, Naming},
    sys::check,
};
use island::{Island, List, Registers};
use memory::{Area, Of};
use tracee::SYSCALL_BYTES;
pub use tracee::Tracee;

const STEP: &str = "take a template";

/// The most that a template's own pages may take, in bytes: they are in what a container has beyond the stage's memory.
const MOST: u64 = 3 << 20;

/// The largest stack of a program that begins from a template, in bytes.
const MOST_STACK: u64 = 120 << 20;

/// What must be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The root's name.
    root: String,
    argv: Vec<String>,
    env: Vec<(String, String)>,
    limits: Limits,
}

impl Key {
    /// That of `order` in the root `name`.
    pub fn of(root: &str, order: &Order) -> Self {
        Self {
            root: root.to_owned(),
            argv: order.argv.clone(),
            env: order.env.clone(),
            // What the agent keeps itself may differ.
            limits: Limits {
                wall_time_us: 0,
                output_bytes: 0,
                ..order.limits
            },
        }
    }

    /// Whether there may be a template: the kernel lays the memory of one out for a stack of 128 MiB at most.
    pub fn is_possible(&self) -> bool {
        self.limits.stack_bytes <= MOST_STACK
    }

    /// A stage of this key.
    pub fn order(&self) -> Order {
        Order {
            argv: self.argv.clone(),
            env: self.env.clone(),
            limits: self.limits.clone(),
            stdin: envicutor_protocol::Stdin {
                data: Vec::new(),
                last: true,
            },
            may_be_warm: true,
        }
    }
}

/// A template.
pub struct Template {
    pub key: Key,
    pub island: Island,
    /// Paths in the work directory that it has looked for in vain.
    missed: Vec<PathBuf>,
    /// What the list refers to by number.
    files: Vec<File>,
}

impl Template {
    /// How many descriptors the agent keeps for it.
    pub fn descriptors(&self) -> usize {
        self.files.len()
    }

    /// Whether it has looked for nothing that could be in the work directory `work`: not even its first directory is there, so
    /// that no link of the submission's is followed.
    pub fn fits(&self, work: &Path) -> bool {
        let mut missed = self.missed.iter().filter_map(|path| {
            let first = path.strip_prefix(WORK_DIR).ok()?.components().next()?;
            Some(work.join(first))
        });
        // A directory that cannot be looked into, as a compiler may leave it, could hold anything.
        let is_absent = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        missed.all(|path| path.symlink_metadata().is_err_and(is_absent))
    }

    /// Takes one of `tracee`, a program that was just executed with what `key` says, in a work directory with nothing in it.
    /// `root` is where the agent finds the root. The program stands where the template begins.
    pub fn take(key: Key, tracee: &Tracee, root: &Path) -> Result<Self, Failure> {
        let boot = boot::run(tracee, &key.argv)?;
        let name = key.argv.first().map_or("", String::as_str);
        check_alone(tracee.pid()).naming(STEP, name)?;
        let mut taking = Taking {
            tracee,
            root,
            files: Vec::new(),
            data: memory_file().naming(STEP, "its pages")?,
            length: 0,
            populates: populates(),
            list: List::new(&kernel_pages("self").naming(STEP, "the agent's memory")?),
        };
        let areas = memory::areas(&tracee.pid().to_string()).naming(STEP, name)?;
        for area in &areas {
            taking.area(area).naming(STEP, format_args!("{area:?}"))?;
        }
        taking.kernel_pages().naming(STEP, "the kernel's pages")?;
        taking
            .process()
            .naming(STEP, "what the kernel knows of it")?;
        let registers = registers(tracee).naming(STEP, "its registers")?;
        let Taking {
            list, files, data, ..
        } = taking;
        let files = files.into_iter().map(|(_, file)| file);
        let files = files.chain([data]).collect();
        Ok(Self {
            key,
            island: list.settle(&registers).naming(STEP, "its list")?,
            missed: boot.missed,
            files,
        })
    }
}

/// A template in the making.
struct Taking<'a> {
    tracee: &'a Tracee,
    root: &'a Path,
    /// With the paths that they have in the root.
    files: Vec<(String, File)>,
    data: File,
    /// How much is in `data`.
    length: u64,
    /// Whether the kernel can be asked to get pages ahead: faster than one fault after the other.
    populates: bool,
    list: List,
}

impl Taking<'_> {
    /// Lists what makes `area` again.
    fn area(&mut self, area: &Area) -> std::io::Result<()> {
        if area.is_kernel() {
            return Ok(());
        }
        if area.end > island::START && area.start < island::END {
            return Err(std::io::Error::from_raw_os_error(libc::EEXIST));
        }
        let runs = memory::own_pages(self.tracee, area)?;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let (flags, file, offset) = match &area.of {
            Of::Stack => (anonymous | libc::MAP_GROWSDOWN | libc::MAP_STACK, None, 0),
            Of::File(path) if !area.shared => {
                (libc::MAP_PRIVATE | libc::MAP_FIXED, Some(path), area.offset)
            }
            // Nobody can write to it.
            Of::File(path) if area.protection & WRITE == 0 => {
                (libc::MAP_SHARED | libc::MAP_FIXED, Some(path), area.offset)
            }
            Of::Nothing if !area.shared => (anonymous | libc::MAP_NORESERVE, None, 0),
            _ => return Err(std::io::Error::from_raw_os_error(libc::EINVAL)),
        };
        let descriptor = match file {
            Some(path) => self.open(path)?,
            None => u64::MAX,
        };
        let first = if runs.is_empty() {
            area.protection
        } else {
            area.protection | WRITE
        };
        let flags = u64::from(flags.cast_unsigned());
        let (start, bytes) = (area.start, area.bytes());
        let arguments = [start, bytes, first, flags, descriptor, offset].map(Into::into);
        self.list.call(libc::SYS_mmap, arguments, start);
        for run in runs {
            self.pages(run.start, &run.bytes)?;
        }
        if first != area.protection {
            let arguments = [start, bytes, area.protection].map(Into::into);
            self.list.call(libc::SYS_mprotect, arguments, 0);
        }
        Ok(())
    }

    /// Lists what fills the pages at `start`.
    fn pages(&mut self, start: u64, bytes: &[u8]) -> std::io::Result<()> {
        if self.length + bytes.len() as u64 > MOST {
            return Err(std::io::Error::from_raw_os_error(libc::E2BIG));
        }
        self.data.write_all(bytes)?;
        let (length, descriptor) = (bytes.len() as u64, number(&self.data));
        if self.populates {
            let advice = u64::from(POPULATE_WRITE.cast_unsigned());
            let arguments = [start, length, advice].map(Into::into);
            self.list.call(libc::SYS_madvise, arguments, 0);
        }
        let arguments = [descriptor, start, length, self.length].map(Into::into);
        self.list.call(libc::SYS_pread64, arguments, length);
        self.length += length;
        Ok(())
    }

    /// The descriptor of a file of the root, which stays open.
    fn open(&mut self, path: &str) -> std::io::Result<u64> {
        if let Some((_, file)) = self.files.iter().find(|(open, _)| open == path) {
            return Ok(number(file));
        }
        let file = File::open(self.root.join(path.trim_start_matches('/')))?;
        let descriptor = number(&file);
        self.files.push((path.to_owned(), file));
        Ok(descriptor)
    }

    /// Lists what puts the kernel's own pages where the program expects them.
    fn kernel_pages(&mut self) -> std::io::Result<()> {
        let own = kernel_pages("self")?;
        let theirs = kernel_pages(&self.tracee.pid().to_string())?;
        let lengths = |pages: &[(u64, u64)]| -> Vec<u64> { pages.iter().map(|it| it.1).collect() };
        if lengths(&own) != lengths(&theirs) {
            return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut place = island::PARKING;
        for (start, length) in theirs {
            self.list.move_memory(place, start, length);
            place += length;
        }
        Ok(())
    }

    /// Lists what the kernel is told of the program: where its parts are, its name, its signals.
    fn process(&mut self) -> std::io::Result<()> {
        let pid = self.tracee.pid();
        let layout = layout(pid)?;
        let auxiliary = std::fs::read(format!("/proc/{pid}/auxv"))?;
        self.list.describe(&layout, &auxiliary);
        let scratch = self.tracee.scratch()?;
        self.thread(scratch)?;
        self.signals(scratch)?;
        let comm = std::fs::read(format!("/proc/{pid}/comm"))?;
        let mut name = comm.trim_ascii_end().to_vec();
        name.push(0);
        let set_name = u64::from(libc::PR_SET_NAME.cast_unsigned());
        let arguments = [set_name.into(), name.as_slice().into()];
        self.list.call(libc::SYS_prctl, arguments, 0);
        // As every program is that was executed. Nothing of the agent is in its memory any more.
        let dumpable = u64::from(libc::PR_SET_DUMPABLE.cast_unsigned());
        let arguments = [dumpable, 1, 0, 0, 0].map(Into::into);
        self.list.call(libc::SYS_prctl, arguments, 0);
        Ok(())
    }

    /// What the kernel keeps for the program's thread.
    fn thread(&mut self, scratch: u64) -> std::io::Result<()> {
        const SET_FS: u64 = 0x1002;
        const GET_TID_ADDRESS: u64 = 40;
        let base = self.tracee.registers()?.fs_base;
        let arguments = [SET_FS, base].map(Into::into);
        self.list.call(libc::SYS_arch_prctl, arguments, 0);
        self.tracee
            .call(libc::SYS_prctl, [GET_TID_ADDRESS, scratch, 0, 0])?;
        let address = self.tracee.number(scratch)?;
        self.list
            .call_any(libc::SYS_set_tid_address, [address.into()]);
        let arguments = [0, scratch, scratch + 8, 0];
        self.tracee.call(libc::SYS_get_robust_list, arguments)?;
        let head = self.tracee.number(scratch)?;
        if head != 0 {
            let arguments = [head, self.tracee.number(scratch + 8)?].map(Into::into);
            self.list.call(libc::SYS_set_robust_list, arguments, 0);
        }
        let rseq = self.tracee.rseq()?;
        if rseq.address != 0 {
            let (size, signature) = (rseq.size.into(), rseq.signature.into());
            let arguments = [rseq.address, size, 0, signature].map(Into::into);
            self.list.call(libc::SYS_rseq, arguments, 0);
        }
        Ok(())
    }

    /// What it has set for signals, which are at their defaults else.
    fn signals(&mut self, scratch: u64) -> std::io::Result<()> {
        const SET_BYTES: u64 = 8;
        const ACTION_BYTES: usize = 32;
        for signal in 1..=64_u64 {
            let arguments = [signal, 0, scratch, SET_BYTES];
            self.tracee.call(libc::SYS_rt_sigaction, arguments)?;
            let mut action = [0; ACTION_BYTES];
            self.tracee.read(scratch, &mut action)?;
            if action[..8] != [0; 8] {
                let arguments = [
                    signal.into(),
                    action.as_slice().into(),
                    0.into(),
                    SET_BYTES.into(),
                ];
                self.list.call(libc::SYS_rt_sigaction, arguments, 0);
            }
        }
        self.tracee
            .call(libc::SYS_sigaltstack, [0, scratch, 0, 0])?;
        let mut stack = [0; 24];
        self.tracee.read(scratch, &mut stack)?;
        let arguments = [stack.as_slice().into(), 0.into()];
        self.list.call(libc::SYS_sigaltstack, arguments, 0);
        Ok(())
    }
}

const WRITE: u64 = libc::PROT_WRITE.cast_unsigned() as u64;

/// Gets pages to be written to, from Linux 5.14 on.
const POPULATE_WRITE: libc::c_int = 23;

fn populates() -> bool {
    let mut page = [0_u8; 2 * 4096];
    let inside = page
        .as_mut_ptr()
        .wrapping_add(page.as_ptr().align_offset(4096));
    // SAFETY: a page of ours, which stays as it is.
    unsafe { libc::madvise(inside.cast(), 4096, POPULATE_WRITE) == 0 }
}

fn number(file: &File) -> u64 {
    u64::from(file.as_raw_fd().cast_unsigned())
}

fn memory_file() -> std::io::Result<File> {
    // SAFETY: the name ends with a NUL.
    let file = check(unsafe { libc::memfd_create(c"template".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the call succeeded, so that it is open and nobody else's.
    Ok(unsafe { File::from_raw_fd(file) })
}

/// What the kernel maps into every program, as addresses and lengths.
fn kernel_pages(pid: &str) -> std::io::Result<Vec<(u64, u64)>> {
    let areas = memory::areas(pid)?;
    let known = ["[vvar]", "[vvar_vclock]", "[vdso]"];
    let kernel = areas.iter().filter_map(|area| match &area.of {
        Of::Kernel(name) => Some((name, area)),
        _ => None,
    });
    let mut pages = Vec::new();
    for (name, area) in kernel {
        if !known.contains(&name.as_str()) {
            let error = format!("it has memory that is called {name}");
            return Err(std::io::Error::other(error));
        }
        pages.push((area.start, area.bytes()));
    }
    Ok(pages)
}

/// Nothing but memory may be the program's: no thread, no child, no descriptor, no signal that waits or is held back.
fn check_alone(pid: pid_t) -> std::io::Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |name: &str| {
        let mut lines = status.lines().filter_map(|line| line.strip_prefix(name));
        lines.next().map(|it| it.trim_start_matches(':').trim())
    };
    let nothing = "0000000000000000";
    for (name, expected) in [
        ("Threads", "1"),
        ("SigPnd", nothing),
        ("ShdPnd", nothing),
        ("SigBlk", nothing),
        ("VmLck", "0 kB"),
    ] {
        if value(name) != Some(expected) {
            let error = format!("{name} is {:?}", value(name));
            return Err(std::io::Error::other(error));
        }
    }
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    if open != 3 {
        let error = format!("it has {open} descriptors, expected 3");
        return Err(std::io::Error::other(error));
    }
    Ok(())
}

/// Where the parts of the program are, in the order of the kernel's `prctl_mm_map`.
fn layout(pid: pid_t) -> std::io::Result<[u64; 11]> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rfind(')').map_or("", |at| &stat[at + 1..]);
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    // The third of proc(5) is the first after the name.
    let field = |number: usize| -> std::io::Result<u64> {
        let text = fields.get(number - 3).copied().unwrap_or("");
        text.parse().map_err(std::io::Error::other)
    };
    let start_brk = field(47)?;
    let brk = memory::end_of_heap(&pid.to_string())?.unwrap_or(start_brk);
    Ok([
        field(26)?,
        field(27)?,
        field(45)?,
        field(46)?,
        start_brk,
        brk,
        field(28)?,
        field(48)?,
        field(49)?,
        field(50)?,
        field(51)?,
    ])
}

/// The registers with which the program makes the call that it stands before.
///
/// A call is made by a function, over which vector registers keep nothing: what is left of them are the modes of arithmetic,
/// which must be the ones that every program begins with.
fn registers(tracee: &Tracee) -> std::io::Result<Registers> {
    const CONTROL: u16 = 0x37f;
    const VECTOR_CONTROL: u32 = 0x1f80;
    /// What arithmetic has met so far.
    const MET: u32 = 0x3f;
    let it = tracee.registers()?;
    let arithmetic = tracee.arithmetic()?;
    if it.gs_base != 0 || arithmetic.cwd != CONTROL || arithmetic.mxcsr & !MET != VECTOR_CONTROL {
        return Err(std::io::Error::other(
            "it has changed modes of the processor",
        ));
    }
    Ok([
        it.orig_rax,
        it.rdi,
        it.rsi,
        it.rdx,
        it.r10,
        it.r8,
        it.r9,
        it.rbx,
        it.rbp,
        it.r12,
        it.r13,
        it.r14,
        it.r15,
        it.rsp,
        it.rip - SYSCALL_BYTES,
    ])
}
