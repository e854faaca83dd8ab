//! The cgroups of a slot's stages, below the container's own: the agent cannot raise the container's limits, and no stage can
//! get past them either.
//!
//! The worker has given the agent's user the directory of the container's cgroup and the files that move processes, no
//! others. The agent mounts the hierarchies anew, in a user and a cgroup namespace of its own; no stage sees them.
//!
//! | | version 1 | version 2 |
//! | --- | --- | --- |
//! | how a stage gets in | its parent, the launcher's thread, sits in it | `clone3` with `CLONE_INTO_CGROUP` |
//! | processor time | one cgroup for all stages; a stage's time is a difference | the stage's own |
//! | memory | the one before, while next to nothing is charged to it | the stage's own |
//! | processes | the one before, while there was never more than one | the stage's own |
//!
//! What a stage will need is made ahead, after the stage before was reported.

use std::{
    cell::Cell,
    fs,
    io::{self, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    rc::Rc,
};

use envicutor_protocol::Limits;

use super::mounts::mount;
use crate::{
    cgroup::Cgroup,
    failure::{Failure, Naming},
};

/// How much may be charged to a memory cgroup of version 1 that serves another stage, in bytes: what the kernel has not
/// given back yet.
const NEXT_TO_NOTHING: u64 = 1 << 20;

/// The processes in a stage's cgroup that are not the program's: its init, and on version 1 the launcher.
const OTHERS_ON_ONE: u64 = 2;
const OTHERS_ON_TWO: u64 = 1;

/// A memory limit that leaves the launcher room to work, in bytes.
const ROOMY: u64 = 16 << 20;

/// The period in which processor time is limited, in microseconds.
const PERIOD_US: u64 = 100_000;

/// Where the cgroups of stages are made.
pub struct Cgroups {
    version: Version,
    /// Numbers the directories.
    made: u64,
    /// For the next stage, or the one that runs.
    current: Option<Current>,
}

enum Version {
    One {
        memory: Anchor,
        pids: Anchor,
        cpuacct: Anchor,
    },
    Two {
        container: Anchor,
        cpu_millis: u64,
    },
}

/// A directory that is found again whatever the root of the thread is, as long as there is a `/proc` in it.
struct Anchor {
    path: PathBuf,
    _open: fs::File,
}

impl Anchor {
    fn at(path: &Path) -> Result<Self, Failure> {
        let open = fs::File::open(path).naming("open a cgroup", path.display())?;
        Ok(Self {
            path: format!("/proc/self/fd/{}", open.as_raw_fd()).into(),
            _open: open,
        })
    }
}

/// A cgroup for a stage.
struct Current {
    cgroup: Rc<Cgroup>,
    memory: Rc<MemoryPart>,
    pids: Rc<PidsPart>,
    /// To start a process in it, on version 2.
    entrance: Option<fs::File>,
}

/// What limits the memory of a stage. Its files stay open, since it may serve many stages.
struct MemoryPart {
    path: PathBuf,
    /// In bytes, once it is known.
    limited_to: Cell<Option<u64>>,
    limit: fs::File,
    /// The limit of memory and swap together, on version 1 where the kernel counts swap.
    limit_with_swap: Option<fs::File>,
    /// To forget the peak, on version 1.
    peak: Option<fs::File>,
}

/// What limits the processes of a stage, in the same way.
struct PidsPart {
    path: PathBuf,
    limited_to: Cell<Option<u64>>,
    limit: fs::File,
}

impl MemoryPart {
    /// That of version 1 at `path`.
    fn one(path: PathBuf) -> Result<Self, Failure> {
        let with_swap = path.join("memory.memsw.limit_in_bytes");
        let has_swap = with_swap.exists(); // Not where the kernel counts none.
        Ok(Self {
            limit: open(&path.join("memory.limit_in_bytes"))?,
            limit_with_swap: has_swap.then(|| open(&with_swap)).transpose()?,
            peak: Some(open(&path.join("memory.max_usage_in_bytes"))?),
            limited_to: Cell::default(),
            path,
        })
    }

    /// That of version 2 at `path`.
    fn two(path: PathBuf) -> Result<Self, Failure> {
        Ok(Self {
            limit: open(&path.join("memory.max"))?,
            limit_with_swap: None,
            peak: None,
            limited_to: Cell::default(),
            path,
        })
    }

    fn forget_peak(&self) -> io::Result<()> {
        self.peak.as_ref().map_or(Ok(()), |peak| tell(peak, "0"))
    }

    /// Memory with and without swap, which there is none of. The limit with swap may never be below the other.
    fn limit_to(&self, bytes: u64) -> io::Result<()> {
        if self.limited_to.take() != Some(bytes) {
            let value = bytes.to_string();
            if let Some(with_swap) = &self.limit_with_swap {
                tell(with_swap, "-1")?;
            }
            tell(&self.limit, &value)?;
            if let Some(with_swap) = &self.limit_with_swap {
                tell(with_swap, &value)?;
            }
        }
        self.limited_to.set(Some(bytes));
        Ok(())
    }
}

impl PidsPart {
    /// That at `path`.
    fn at(path: PathBuf) -> Result<Self, Failure> {
        Ok(Self {
            limit: open(&path.join("pids.max"))?,
            limited_to: Cell::default(),
            path,
        })
    }

    fn limit_to(&self, processes: u64) -> io::Result<()> {
        if self.limited_to.take() != Some(processes) {
            tell(&self.limit, &processes.to_string())?;
        }
        self.limited_to.set(Some(processes));
        Ok(())
    }
}

/// A cgroup that a stage can begin in.
pub struct Ready {
    /// Its numbers.
    pub cgroup: Rc<Cgroup>,
    /// The processes in it that are not the program's: its init, and the launcher on version 1.
    pub others: u64,
    /// The descriptor for `CLONE_INTO_CGROUP`.
    pub entrance: Option<fs::File>,
}

impl Cgroups {
    /// Mounts the hierarchies below `directory`, and limits all stages to `cpu_millis`.
    pub fn mount(directory: &Path, cpu_millis: u64) -> Result<Self, Failure> {
        const STEP: &str = "mount the cgroups";
        let own = fs::read_to_string("/proc/self/cgroup").naming(STEP, "/proc/self/cgroup")?;
        let hierarchy = |controller: &str| {
            let named = own.lines().filter_map(|line| line.split(':').nth(1));
            let mut named = named.filter(|names| names.split(',').any(|name| name == controller));
            named.next()
        };
        let version = match hierarchy("memory") {
            Some(memory) => {
                let needed = |controller| {
                    hierarchy(controller).ok_or_else(|| {
                        Failure::new(STEP, controller, "the kernel has no such controller")
                    })
                };
                Version::One {
                    memory: Anchor::at(&mount_one(directory, memory)?)?,
                    pids: Anchor::at(&mount_one(directory, needed("pids")?)?)?,
                    cpuacct: Anchor::at(&stages_of(
                        &mount_one(directory, needed("cpu")?)?,
                        &mount_one(directory, needed("cpuacct")?)?,
                        cpu_millis,
                    )?)?,
                }
            }
            None => Version::Two {
                container: Anchor::at(&mount_two(directory)?)?,
                cpu_millis,
            },
        };
        Ok(Self {
            version,
            made: 0,
            current: None,
        })
    }

    /// Makes what the next stage needs. On version 1 by the launcher's thread, which moves into it.
    pub fn make_ahead(&mut self) -> Result<(), Failure> {
        self.replace(true)
    }

    /// The same, and where `may_keep` says so the memory cgroup of version 1 goes on.
    fn replace(&mut self, may_keep: bool) -> Result<(), Failure> {
        if may_keep && self.is_as_new() {
            return Ok(());
        }
        let before = self.current.take();
        if let (Version::One { .. }, Some(before)) = (&self.version, &before) {
            before.make_room()?;
        }
        let current = self.make(before.as_ref().filter(|_| may_keep))?;
        if let Some(before) = before {
            for old in [&before.pids.path, &before.memory.path] {
                let is_used = [&current.pids.path, &current.memory.path].contains(&old);
                if !is_used && old.exists() {
                    fs::remove_dir(old).naming("remove the cgroup of a stage", old.display())?;
                }
            }
        }
        self.current = Some(current);
        Ok(())
    }

    /// Whether the cgroup of the stage before will do for the next.
    pub fn is_as_new(&self) -> bool {
        let is_one = matches!(self.version, Version::One { .. });
        let current = self.current.as_ref().filter(|_| is_one);
        current.is_some_and(|current| {
            current.is_roomy() && current.memory_is_as_new() && current.pids_is_as_new()
        })
    }

    fn make(&mut self, before: Option<&Current>) -> Result<Current, Failure> {
        const STEP: &str = "make a cgroup";
        self.made += 1;
        let name = format!("stage-{}", self.made);
        let make = |parent: &Path| {
            let path = parent.join(&name);
            fs::create_dir(&path).naming(STEP, path.display())?;
            Ok::<_, Failure>(path)
        };
        match &self.version {
            Version::One {
                memory,
                pids,
                cpuacct,
            } => {
                let memory = match before.filter(|before| before.memory_is_as_new()) {
                    Some(before) => Rc::clone(&before.memory),
                    None => Rc::new(MemoryPart::one(join(make(&memory.path)?)?)?),
                };
                let pids = match before.filter(|before| before.pids_is_as_new()) {
                    Some(before) => Rc::clone(&before.pids),
                    None => Rc::new(PidsPart::at(join(make(&pids.path)?)?)?),
                };
                let parts = (memory.path.as_path(), pids.path.as_path());
                let cgroup = match before {
                    Some(before) => before.cgroup.with(
                        Some(parts.0).filter(|path| *path != before.memory.path),
                        Some(parts.1).filter(|path| *path != before.pids.path),
                    ),
                    None => Cgroup::of(Some(parts.0), Some(&cpuacct.path), Some(parts.1)),
                };
                Ok(Current {
                    cgroup: Rc::new(cgroup),
                    entrance: None,
                    memory,
                    pids,
                })
            }
            Version::Two {
                container,
                cpu_millis,
            } => {
                let path = make(&container.path)?;
                write(&path.join("cpu.max"), &quota(*cpu_millis))?;
                write(&path.join("memory.oom.group"), "1")?;
                // Absent where the kernel knows no swap.
                write_if_there(&path.join("memory.swap.max"), "0")?;
                Ok(Current {
                    cgroup: Rc::new(Cgroup::at(Some(&path))),
                    entrance: Some(fs::File::open(&path).naming(STEP, path.display())?),
                    memory: Rc::new(MemoryPart::two(path.clone())?),
                    pids: Rc::new(PidsPart::at(path)?),
                })
            }
        }
    }

    /// A cgroup with `limits` that no stage is in; none where the memory is too little to make one. By the launcher's thread.
    pub fn begin(&mut self, limits: &Limits) -> Result<Option<Ready>, Failure> {
        const STEP: &str = "limit a cgroup";
        if self.current.is_none() {
            self.make_ahead()?;
        }
        let mut limited = self.limit(limits);
        if limited.as_ref().is_err_and(is_busy) {
            // What is left in it is more than the stage may have, and not its own.
            self.replace(false)?;
            limited = self.limit(limits);
        }
        if limited.as_ref().is_err_and(is_busy) {
            return Ok(None);
        }
        limited.naming(STEP, format_args!("memory to {}", limits.memory_bytes))?;
        let others = self.others();
        let current = self
            .current
            .as_ref()
            .ok_or_else(|| Failure::new("begin a stage", "its cgroup", "there is none"))?;
        let entrance = current.entrance.as_ref().map(fs::File::try_clone);
        Ok(Some(Ready {
            cgroup: Rc::clone(&current.cgroup),
            others,
            entrance: entrance.transpose().naming(STEP, "its entrance")?,
        }))
    }

    fn others(&self) -> u64 {
        match self.version {
            Version::One { .. } => OTHERS_ON_ONE,
            Version::Two { .. } => OTHERS_ON_TWO,
        }
    }

    fn limit(&self, limits: &Limits) -> io::Result<()> {
        let processes = limits.processes.saturating_add(self.others());
        let Some(current) = &self.current else {
            return Ok(());
        };
        current.memory.forget_peak()?;
        current.pids.limit_to(processes)?;
        // Last: on version 1 what the launcher does after it is charged to the stage.
        current.memory.limit_to(limits.memory_bytes)
    }

    /// What is in the cgroup that should not be, after the stages of a submission.
    pub fn leftover(&self) -> Option<String> {
        let current = self.current.as_ref()?;
        let expected = u64::from(matches!(self.version, Version::One { .. }));
        let found = current.cgroup.processes()?;
        (found > expected).then(|| format!("{} processes are left", found - expected))
    }
}

impl Current {
    fn is_roomy(&self) -> bool {
        self.memory.limited_to.get().is_none_or(|it| it >= ROOMY)
    }

    fn memory_is_as_new(&self) -> bool {
        let bytes = self.cgroup.memory_bytes();
        bytes.is_some_and(|bytes| bytes <= NEXT_TO_NOTHING)
    }

    /// A peak cannot be reset, and is the next stage's own only where every stage reaches it.
    fn pids_is_as_new(&self) -> bool {
        let peak = self.cgroup.processes_peak();
        peak.is_none_or(|peak| peak <= OTHERS_ON_ONE + 1)
    }

    /// Where a stage had so little memory that nothing can be done in its cgroup, it has more from now on.
    fn make_room(&self) -> Result<(), Failure> {
        if !self.is_roomy() {
            self.memory
                .limit_to(ROOMY)
                .naming("limit a cgroup", "memory")?;
        }
        Ok(())
    }
}

/// The launcher's thread, which calls this, is in the cgroup at `path` from then on.
fn join(path: PathBuf) -> Result<PathBuf, Failure> {
    write(&path.join("tasks"), "0")?;
    Ok(path)
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// Mounts the hierarchy of version 1 that holds `controllers`; once, however many are asked for.
fn mount_one(directory: &Path, controllers: &str) -> Result<PathBuf, Failure> {
    let path = directory.join(controllers);
    if !path.exists() {
        mount_at(&path, c"cgroup", controllers)?;
    }
    Ok(path)
}

/// The cgroup that all stages share on version 1: limited in one hierarchy, counted in another (or the same one). The
/// launcher's thread, which calls this, is in it from then on.
fn stages_of(cpu: &Path, cpuacct: &Path, cpu_millis: u64) -> Result<PathBuf, Failure> {
    for hierarchy in [cpu, cpuacct] {
        let stages = hierarchy.join("stages");
        if !stages.exists() {
            fs::create_dir(&stages).naming("make a cgroup", stages.display())?;
            join(stages)?;
        }
    }
    let stages = cpu.join("stages");
    write(&stages.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
    let quota = cpu_millis.saturating_mul(PERIOD_US / 1000);
    write(&stages.join("cpu.cfs_quota_us"), &quota.to_string())?;
    Ok(cpuacct.join("stages"))
}

/// Mounts version 2 and moves the agent into a cgroup of its own, since one with processes cannot pass controllers on.
fn mount_two(directory: &Path) -> Result<PathBuf, Failure> {
    let path = directory.join("unified");
    mount_at(&path, c"cgroup2", "")?;
    let agent = path.join("agent");
    fs::create_dir(&agent).naming("make a cgroup", agent.display())?;
    write(&agent.join("cgroup.procs"), "0")?;
    write(&path.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
    Ok(path)
}

fn mount_at(path: &Path, kind: &std::ffi::CStr, options: &str) -> Result<(), Failure> {
    const STEP: &str = "mount the cgroups";
    const FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    fs::create_dir(path).naming(STEP, path.display())?;
    let string = |text: &[u8]| std::ffi::CString::new(text).map_err(io::Error::other);
    let target = string(path.as_os_str().as_encoded_bytes()).naming(STEP, path.display())?;
    let options = string(options.as_bytes()).naming(STEP, path.display())?;
    mount(kind, &target, FLAGS, &options).naming(STEP, path.display())
}

fn quota(cpu_millis: u64) -> String {
    format!(
        "{} {PERIOD_US}",
        cpu_millis.saturating_mul(PERIOD_US / 1000)
    )
}

fn write_if_there(path: &Path, value: &str) -> Result<(), Failure> {
    if path.exists() {
        return write(path, value);
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> Result<(), Failure> {
    put(path, value).naming(
        "limit a cgroup",
        format_args!("{value} to {}", path.display()),
    )
}

fn open(path: &Path) -> Result<fs::File, Failure> {
    let file = fs::OpenOptions::new().write(true).open(path);
    file.naming("open a cgroup", path.display())
}

fn put(path: &Path, value: &str) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|file| tell(&file, value))
}

/// The kernel takes each write whole.
fn tell(mut file: &fs::File, value: &str) -> io::Result<()> {
    file.write_all(value.as_bytes())
}
