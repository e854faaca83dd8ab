//! The way of a runtime's program from its beginning to its first look at the submission: watched system call by system call.
//! What it does until then must be the same for every submission, and leave nothing behind but memory: whatever else it does,
//! there is no template of it.

use std::path::{Component, Path, PathBuf};

use envicutor_protocol::WORK_DIR;
use libc::c_long;

use super::tracee::{Call, Tracee};
use crate::failure::{Failure, Naming};

const STEP: &str = "take a template";

/// The most system calls before it looks.
const MOST_CALLS: usize = 20_000;

/// Calls that look at a path, and which argument is the path.
const LOOKS: [(c_long, usize); 11] = [
    (libc::SYS_open, 0),
    (libc::SYS_stat, 0),
    (libc::SYS_lstat, 0),
    (libc::SYS_access, 0),
    (libc::SYS_readlink, 0),
    (libc::SYS_openat, 1),
    (libc::SYS_newfstatat, 1),
    (libc::SYS_readlinkat, 1),
    (libc::SYS_faccessat, 1),
    (libc::SYS_faccessat2, 1),
    (libc::SYS_statx, 1),
];

/// Calls that change nothing but this program's memory, and tell nothing that differs from submission to submission.
const HARMLESS: [c_long; 41] = [
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_close,
    libc::SYS_pread64,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_ioctl,
    libc::SYS_fcntl,
    libc::SYS_getrandom,
    libc::SYS_getcwd,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_arch_prctl,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    libc::SYS_sched_getaffinity,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_fadvise64,
    libc::SYS_getrlimit,
    libc::SYS_dup,
    libc::SYS_read,
];

/// What differs from stage to stage, or leads to what does.
const CHANGING: [&str; 4] = ["/proc", "/tmp", "/dev/shm", "/dev/fd"];

/// What was seen on the way.
pub struct Boot {
    /// Paths below the work directory that it has looked for, in vain.
    pub missed: Vec<PathBuf>,
}

/// Runs `tracee` until it is about to look at one of the files that `argv` names.
pub fn run(tracee: &Tracee, argv: &[String]) -> Result<Boot, Failure> {
    let name = argv.first().map_or("", String::as_str);
    let named: Vec<PathBuf> = argv.iter().skip(1).map(|it| resolve(it.as_ref())).collect();
    let mut missed = Vec::new();
    for _ in 0..MOST_CALLS {
        let call = tracee.next_call().naming(STEP, name)?;
        let Some(path) = path(tracee, &call).naming(STEP, name)? else {
            if is_harmless(&call) {
                continue;
            }
            let error = format!("it makes system call {} before it looks", call.number);
            return Err(Failure::new(STEP, name, error));
        };
        if named.contains(&path) {
            return Ok(Boot { missed });
        }
        let looks_around = path == Path::new(WORK_DIR) && is_open(&call);
        if looks_around || CHANGING.iter().any(|it| path.starts_with(it)) {
            let error = format!("it looks at {} first", path.display());
            return Err(Failure::new(STEP, name, error));
        }
        if path != Path::new(WORK_DIR) && path.starts_with(WORK_DIR) {
            missed.push(path);
        }
    }
    Err(Failure::new(STEP, name, "it does not look at its file"))
}

/// The path that `call` looks at, if it does: without links, for what a runtime's root has is not the submission's.
fn path(tracee: &Tracee, call: &Call) -> std::io::Result<Option<PathBuf>> {
    let Some((_, index)) = LOOKS.iter().find(|(number, _)| *number == call.number) else {
        return Ok(None);
    };
    let path = tracee.string(call.arguments[*index])?;
    let path = Path::new(std::ffi::OsStr::new(
        std::str::from_utf8(&path).map_err(std::io::Error::other)?,
    ));
    let is_of_directory =
        *index == 1 && path.is_relative() && call.arguments[0] & 0xffff_ffff != AT_WORK_DIR;
    // A descriptor's own (`fstat`), or below a directory that was opened, which the work directory never is.
    Ok(Some(if is_of_directory {
        PathBuf::new()
    } else {
        resolve(path)
    }))
}

fn is_open(call: &Call) -> bool {
    [libc::SYS_open, libc::SYS_openat].contains(&call.number)
}

/// `AT_FDCWD`, as the low half of an argument.
const AT_WORK_DIR: u64 = libc::AT_FDCWD.cast_unsigned() as u64;

/// What changes nothing. Standard input is the submission's.
fn is_harmless(call: &Call) -> bool {
    const STDIO: std::ops::RangeInclusive<u64> = 0..=2;
    match call.number {
        libc::SYS_read | libc::SYS_pread64 => !STDIO.contains(&call.arguments[0]),
        // To ask alone.
        libc::SYS_prlimit64 => call.arguments[2] == 0,
        number => HARMLESS.contains(&number),
    }
}

/// Where a path leads from the work directory, by its letters.
fn resolve(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in Path::new(WORK_DIR).join(path).components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            Component::CurDir => {}
            other => resolved.push(other),
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::resolve;

    #[test]
    fn a_path_is_resolved_from_the_work_directory() {
        assert_eq!(resolve("main.py".as_ref()), Path::new("/work/main.py"));
        assert_eq!(resolve("./a/../b".as_ref()), Path::new("/work/b"));
        assert_eq!(resolve("/usr/x".as_ref()), Path::new("/usr/x"));
    }
}
