//! The trial: a stage that a slot runs before its first submission. Its program is the agent itself, which looks at the wall
//! from inside.

use std::{fs, path::Path, ptr, time::Duration};

use envicutor_protocol::{AGENT_PATH, Bounds, Limits, Stage as Order, Stdin};

use super::mounts;
use crate::{failure::Failure, spawn::Spawned, sys, wall::Launched};

/// The argument that makes the agent the trial's program.
pub const ARGUMENT: &str = "trial";

/// The work directory of the trial.
pub const WORK: Bounds = Bounds {
    bytes: 1 << 20,
    inodes: 10,
};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the stage is to run.
pub fn order() -> Order {
    Order {
        argv: vec![AGENT_PATH.to_owned(), ARGUMENT.to_owned()],
        env: Vec::new(),
        limits: Limits {
            cpu_time_us: 10_000_000,
            extra_time_us: 0,
            wall_time_us: 30_000_000,
            memory_bytes: 32 << 20,
            stack_bytes: 1 << 20,
            processes: 4,
            open_files: 64,
            file_size_bytes: 1 << 20,
            output_bytes: 1 << 10,
        },
        stdin: Stdin {
            data: Vec::new(),
            last: true,
        },
        may_be_warm: false,
    }
}

/// Waits for the program's end, and says what it found.
pub fn await_end(launched: Launched) -> Result<(), Failure> {
    const STEP: &str = "try the wall";
    let executed = match launched.spawned {
        Spawned::Executed(executed) => executed,
        Spawned::Refused(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            return Err(Failure::new(STEP, "execute the agent in it", error));
        }
    };
    let end = sys::now() + PATIENCE;
    let status = loop {
        if let sys::Reaping::Found(reaped) =
            sys::reap().map_err(|error| Failure::new(STEP, "reap", error))?
            && reaped.pid == executed.pid
        {
            break launched.meter.end_of_program(reaped.status).0;
        }
        if sys::now() > end {
            sys::kill_everyone();
            return Err(Failure::new(STEP, "its end", "it did not come in 30 s"));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let code = libc::WEXITSTATUS(status);
    if !libc::WIFEXITED(status) {
        let error = format!("it was ended by signal {}", libc::WTERMSIG(status));
        return Err(Failure::new(STEP, "the program in it", error));
    }
    let found = usize::try_from(code).unwrap_or_default();
    match (code, FINDINGS.get(found.wrapping_sub(1))) {
        (0, _) if launched.meter.cpu().is_zero() => {
            Err(Failure::new(STEP, "CPU time", "the cgroup counts none"))
        }
        (0, _) => Ok(()),
        (_, Some((finding, _))) => Err(Failure::new(STEP, "the program in it", finding)),
        (code, None) => {
            let error = format!("it ended with {code}");
            Err(Failure::new(STEP, "the program in it", error))
        }
    }
}

type Holds = fn() -> bool;

/// What the program may find wrong; its exit code is the number of the first, from 1.
const FINDINGS: [(&str, Holds); 9] = [
    ("it is not alone in its pid namespace", is_alone),
    ("it is another user than expected", is_inner_user),
    ("it has capabilities", has_no_capability),
    ("it may gain privileges", may_gain_nothing),
    ("its system calls are not filtered", is_filtered),
    ("it can make namespaces", makes_no_namespace),
    ("it can write to its root", writes_no_root),
    (
        "it cannot write to its work directory, /tmp or /dev/shm",
        writes_its_own,
    ),
    ("it sees cgroups outside of its own", sees_no_cgroup),
];

/// The program. Returns its exit code.
pub fn run() -> libc::c_int {
    let first = FINDINGS.iter().position(|(_, holds)| !holds());
    first.map_or(0, |index| libc::c_int::try_from(index + 1).unwrap_or(255))
}

fn is_alone() -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter(|it| it.file_name().as_encoded_bytes()[0].is_ascii_digit());
    sys::own_pid() == 2 && numbers.count() == 2
}

fn is_inner_user() -> bool {
    (sys::user_id(), sys::group_id()) == (super::INNER_ID, super::INNER_ID)
}

fn has_no_capability() -> bool {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .iter()
        .all(|set| status(set).is_some_and(|it| it.bytes().all(|digit| digit == b'0')))
}

fn may_gain_nothing() -> bool {
    status("NoNewPrivs").as_deref() == Some("1")
}

fn is_filtered() -> bool {
    status("Seccomp").as_deref() == Some("2")
}

/// A line of what the kernel says of this process.
fn status(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.strip_prefix(':')?.trim().to_owned())
}

fn makes_no_namespace() -> bool {
    mounts::unshare(libc::CLONE_NEWUSER).is_err()
        && mounts::mount(c"tmpfs", c"/tmp", 0, c"").is_err()
}

fn writes_no_root() -> bool {
    // SAFETY: the path ends with a NUL; no times are passed.
    let touched = unsafe { libc::utimensat(libc::AT_FDCWD, c"/".as_ptr(), ptr::null(), 0) };
    touched < 0 && !Path::new("/envicutor/runtimes").exists() && fs::write("/file", "").is_err()
}

fn writes_its_own() -> bool {
    ["/work/file", "/tmp/file", "/dev/shm/file"]
        .iter()
        .all(|path| fs::write(path, "x").is_ok())
}

fn sees_no_cgroup() -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut lines = own.lines().filter(|line| {
        let needed = ["memory", "pids", "cpuacct"];
        let mut names = line
            .split(':')
            .nth(1)
            .into_iter()
            .flat_map(|it| it.split(','));
        line.starts_with("0::") && !own.contains(":memory:")
            || names.any(|name| needed.contains(&name))
    });
    lines.all(|line| line.ends_with(":/"))
}
