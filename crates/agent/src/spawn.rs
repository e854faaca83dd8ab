//! Starts a stage's program: prepares, forks, and waits for the exec. The child's own steps are in [`crate::child`]; a slot
//! puts an inner wall between, see [`crate::slot`].

use std::{
    ffi::{CString, NulError, OsStr, c_char},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
    sync::atomic::Ordering,
    time::Duration,
};

use envicutor_protocol::Stage;
use libc::{pid_t, sock_filter};

use crate::{
    child::{CONTAINER_STEPS, EXEC, Ending, Handover, LastWords, Prepared, become_program},
    failure::{Failure, Naming},
    limits::rlimits,
    sys,
    work::Work,
};

/// How long the way from fork to exec may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of starting a program.
pub enum Spawned {
    /// It runs.
    Executed(Executed),
    /// The system refused to execute it, with this `errno`. Its process is left to be reaped.
    Refused(i32),
}

/// A program that runs.
pub struct Executed {
    /// Its process id.
    pub pid: pid_t,
    /// When it was executed, by the monotonic clock.
    pub at: Duration,
    /// CPU time that its process had used before: the agent's, not the program's.
    pub cpu_before: Duration,
}

/// Makes the page that agent and child share; at the address `place`, where nothing is yet, if one is given.
pub fn handover(place: Option<usize>) -> Result<&'static Handover, Failure> {
    let fixed = place.map_or(0, |_| libc::MAP_FIXED_NOREPLACE);
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS | fixed,
    );
    let size = size_of::<Handover>();
    let place = ptr::without_provenance_mut(place.unwrap_or(0));
    // SAFETY: a new mapping, over none that is there.
    let page = unsafe { libc::mmap(place, size, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        let error = io::Error::last_os_error();
        return Err(Failure::new(
            "map memory",
            "the page shared with a stage",
            error,
        ));
    }
    // SAFETY: the mapping is large enough, aligned to a page, zero (a valid value of every field), never unmapped, and
    // written through atomics alone.
    Ok(unsafe { &*page.cast::<Handover>() })
}

/// Starts `stage`, whose `strings` these are, in a container's work directory, with `stdio` as its descriptors 0, 1 and 2.
pub fn spawn(
    strings: &Strings,
    stage: &Stage,
    work: &Work,
    stdio: &[OwnedFd; 3],
    filter: &[sock_filter],
    handover: &Handover,
) -> Result<Spawned, Failure> {
    let name = stage.argv.first().map_or("", String::as_str);
    let work_dir = CString::new(work.path.as_os_str().as_bytes())
        .map_err(|error| Failure::new("name the work directory", name, error))?;
    let rlimits = rlimits(&stage.limits);
    let (candidates, argv, envp) = strings.pointers();
    let prepared = Prepared {
        identity: work.identity,
        rlimits: &rlimits,
        work_dir: &work_dir,
        stdio: stdio.each_ref().map(AsRawFd::as_raw_fd),
        candidates: &candidates,
        argv: &argv,
        envp: &envp,
        filter,
        ending: Ending::Execute,
        cgroup: None,
    };
    let (done, running) = sys::pipe().naming("make a pipe", name)?;
    handover.begin();
    // SAFETY: the agent has one thread; the child calls nothing but `become_program`, which is made for this.
    let pid = match sys::check(unsafe { libc::fork() }).naming("fork", name)? {
        0 => become_program(&prepared, handover, &CONTAINER_STEPS, 0),
        pid => pid,
    };
    drop(running);
    wait_for_exec(&done, name)?;
    let step = |index| CONTAINER_STEPS.get(index).map(|(name, _)| *name);
    what_came(handover, pid, name, &step)
}

impl Handover {
    /// As it must be before a child is made.
    pub fn begin(&self) {
        let LastWords { written, .. } = &self.last_words;
        written.store(false, Ordering::Release);
        self.candidate.store(0, Ordering::Release);
        self.step.store(0, Ordering::Release);
        self.errno.store(0, Ordering::Release);
    }
}

/// Waits until the child's end of the pipe closes: by exec, or by its end.
pub fn wait_for_exec(done: &OwnedFd, name: &str) -> Result<(), Failure> {
    let end = sys::now() + PATIENCE;
    loop {
        let mut fds = [libc::pollfd {
            fd: done.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        }];
        let left = end.saturating_sub(sys::now());
        sys::poll(&mut fds, Some(left)).naming("wait for the exec", name)?;
        if fds[0].revents != 0 {
            return Ok(());
        }
        if left.is_zero() {
            let error = format!("it took more than {} s", PATIENCE.as_secs());
            return Err(Failure::new("execute", name, error));
        }
    }
}

/// Reads what the child left. `step_name` says what a step is called.
pub fn what_came(
    handover: &Handover,
    pid: pid_t,
    name: &str,
    step_name: &dyn Fn(usize) -> Option<&'static str>,
) -> Result<Spawned, Failure> {
    let step = handover.step.load(Ordering::Acquire);
    let errno = handover.errno.load(Ordering::Acquire);
    let step = (step != EXEC).then(|| step_name(step).unwrap_or("start the program"));
    match (step, errno) {
        (None, 0) => Ok(Spawned::Executed(Executed {
            pid,
            at: Duration::from_nanos(handover.at_ns.load(Ordering::Acquire)),
            cpu_before: Duration::from_nanos(handover.cpu_ns.load(Ordering::Acquire)),
        })),
        (None, errno) => Ok(Spawned::Refused(errno)),
        // Nothing but the OOM killer ends our own child in the middle of a step.
        (Some(_), 0 | libc::ENOMEM) => Ok(Spawned::Refused(libc::ENOMEM)),
        (Some(step), errno) => Err(Failure::new(
            step,
            name,
            io::Error::from_raw_os_error(errno),
        )),
    }
}

/// A stage's strings, as exec wants them.
pub struct Strings {
    /// Where the program may be, in this order.
    pub candidates: Vec<CString>,
    argv: Vec<CString>,
    envp: Vec<CString>,
}

impl Strings {
    /// Those of `stage`.
    pub fn of(stage: &Stage) -> Result<Self, Failure> {
        let name = stage.argv.first().map_or("", String::as_str);
        Self::all(stage, name).map_err(|error| Failure::new("read command", name, error))
    }

    fn all(stage: &Stage, name: &str) -> Result<Self, NulError> {
        let path = stage.env.iter().find(|(key, _)| key == "PATH");
        let candidates = candidates(name, path.map(|(_, value)| value.as_str()));
        let assignments = stage
            .env
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        Ok(Self {
            candidates: c_strings(candidates)?,
            argv: c_strings(stage.argv.iter().cloned())?,
            envp: c_strings(assignments)?,
        })
    }

    /// The candidate that was tried last, relative to the work directory.
    pub fn tried(&self, handover: &Handover) -> &Path {
        let tried = self
            .candidates
            .get(handover.candidate.load(Ordering::Acquire));
        tried.map_or(Path::new(""), |it| {
            Path::new(OsStr::from_bytes(it.to_bytes()))
        })
    }

    /// Candidates, arguments and environment; the last two closed by a null.
    pub fn pointers(&self) -> (Vec<*const c_char>, Vec<*const c_char>, Vec<*const c_char>) {
        let pointers = |strings: &[CString]| strings.iter().map(|it| it.as_ptr()).collect();
        let (candidates, mut argv, mut envp): (Vec<_>, Vec<_>, Vec<_>) = (
            pointers(&self.candidates),
            pointers(&self.argv),
            pointers(&self.envp),
        );
        argv.push(ptr::null());
        envp.push(ptr::null());
        (candidates, argv, envp)
    }
}

fn c_strings(strings: impl IntoIterator<Item = String>) -> Result<Vec<CString>, NulError> {
    strings.into_iter().map(CString::new).collect()
}

/// Where `name` is looked for: itself where it has a slash, else in the directories of `path`.
fn candidates(name: &str, path: Option<&str>) -> Vec<String> {
    const DEFAULT_PATH: &str = "/bin:/usr/bin";
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|directory| match directory {
            "" => name.to_owned(),
            directory => format!("{directory}/{name}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::candidates;

    #[test]
    fn a_name_without_a_slash_is_looked_up() {
        assert_eq!(candidates("./a", Some("/x")), ["./a"]);
        assert_eq!(candidates("a", Some("/x:/y")), ["/x/a", "/y/a"]);
        assert_eq!(candidates("a", Some(":/y")), ["a", "/y/a"]);
        assert_eq!(candidates("a", None), ["/bin/a", "/usr/bin/a"]);
        assert!(candidates("", Some("/x")).is_empty());
    }
}
