//! What a stage finds at `/`: the root of its runtime, read-only, with devices, the work directory, and places for what each
//! stage mounts for itself. All of it belongs to the launcher's thread, so that a stage's mount namespace is made by copying
//! no more than a handful of mounts.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use envicutor_protocol::{AGENT_PATH, Bounds, RUNTIMES_DIR, WORK_DIR};

use super::mounts::{bind, change_root, enter_copy, mount, restrict, unmount};
use crate::{
    directory::open_at,
    failure::{Failure, Naming},
};

/// The agent's own directory, in memory.
const SCRATCH: &str = "/tmp";

/// Where a root is put together before it becomes the root.
const SITE: &str = "/tmp/root";

/// A directory with nothing in it.
const NOTHING: &str = "/tmp/nothing";

/// What becomes `/dev`.
const OWN_DEVICES: &str = "/tmp/dev";

/// The devices in it: the container's own, which no other slot has.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// A root with nothing in it but the agent, for the trial.
const TRIAL: &str = "/tmp/trial";

/// What of `/proc` tells of other programs on the machine, of its devices, or how it was started. Each costs a mount for every stage, so
/// that what the kernel itself hides from ordinary users (addresses in `kallsyms`, `iomem`) is not among them; those that only
/// the machine's root may read need no mask, because the wall has no such user.
const SECRETS: [&str; 13] = [
    "acpi",
    "asound",
    "cmdline",
    "interrupts",
    "kcore",
    "key-users",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "softirqs",
    "timer_list",
    "timer_stats",
];

/// What roots are made from.
pub struct Roots {
    /// The agent's mount namespace, where everything can be reached.
    namespace: OwnedFd,
    /// The root that the launcher's thread has now.
    current: Option<PathBuf>,
}

impl Roots {
    /// Lays out the agent's own directory. In the agent's mount namespace.
    pub fn new() -> Result<Self, Failure> {
        const STEP: &str = "make the agent's directory";
        const FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
        let scratch = c_string(SCRATCH.as_ref())?;
        mount(
            c"tmpfs",
            &scratch,
            FLAGS,
            c"mode=0700,size=16m,nr_inodes=1k",
        )
        .naming("mount a file system in memory", SCRATCH)?;
        for directory in [SITE, NOTHING] {
            fs::create_dir(directory).naming(STEP, directory)?;
        }
        lay_out_devices().naming(STEP, OWN_DEVICES)?;
        let namespace = fs::File::open("/proc/self/ns/mnt").naming(STEP, "/proc/self/ns/mnt")?;
        Ok(Self {
            namespace: namespace.into(),
            current: None,
        })
    }

    /// Whether the launcher's thread lives in the root of the runtime `name` already.
    pub fn is_at(&self, name: &str) -> bool {
        let current = self.current.as_deref();
        current.is_some_and(|it| it == Path::new(RUNTIMES_DIR).join(name))
    }

    /// The name of the runtime whose root that is.
    pub fn name(&self) -> Option<String> {
        let path = self.current.as_deref()?.strip_prefix(RUNTIMES_DIR).ok()?;
        Some(path.to_str()?.to_owned())
    }

    /// Has the launcher's thread, which calls this, live in the root of the runtime `name`, in which no work directory is
    /// mounted.
    pub fn enter(&mut self, name: &str) -> Result<(), Failure> {
        let is_plain = |c: char| c.is_ascii_hexdigit();
        if name.is_empty() || !name.chars().all(is_plain) {
            let expected = "expected hexadecimal digits";
            return Err(Failure::new("find the root", name, expected));
        }
        self.enter_path(&Path::new(RUNTIMES_DIR).join(name))
    }

    /// The same for a root that holds nothing but the agent.
    pub fn enter_trial(&mut self) -> Result<(), Failure> {
        const STEP: &str = "make a root for the trial";
        let trial = Path::new(TRIAL);
        for directory in ["", "proc", "dev", "tmp", "work", "envicutor"] {
            let path = trial.join(directory);
            fs::create_dir_all(&path).naming(STEP, path.display())?;
        }
        let agent = trial.join(AGENT_PATH.trim_start_matches('/'));
        fs::copy(AGENT_PATH, &agent).naming(STEP, agent.display())?;
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o555))
            .naming(STEP, agent.display())?;
        self.enter_path(trial)
    }

    fn enter_path(&mut self, path: &Path) -> Result<(), Failure> {
        self.current = None;
        let source = path
            .to_str()
            .ok_or_else(|| Failure::new("name a path", path.display(), "it is not UTF-8"))?;
        enter_copy(&self.namespace)
            .and_then(|()| put_together(source))
            .naming("make the root", path.display())?;
        self.current = Some(path.to_owned());
        Ok(())
    }

    /// Has the agent's thread forget the trial.
    pub fn end_trial() -> Result<(), Failure> {
        fs::remove_dir_all(TRIAL).naming("remove the trial's root", TRIAL)
    }
}

/// Makes `source` the root of this thread, with what every stage finds in it.
///
/// It is an overlay with nothing above, because the files of the runtime are other slots' too: through the very same file one
/// program could see what another opens (inotify), and tell it something (locks). An overlay's files are its own.
fn put_together(source: &str) -> io::Result<()> {
    let site = |below: &str| CString::new(format!("{SITE}{below}")).map_err(io::Error::other);
    let (root, devices, processes) = (site("")?, site("/dev")?, site("/proc")?);
    let layers = CString::new(format!("lowerdir={NOTHING}:{source},userxattr"))?;
    mount(
        c"overlay",
        &root,
        libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV,
        &layers,
    )?;
    let own_devices = CString::new(OWN_DEVICES)?;
    bind(&own_devices, &devices)?;
    restrict(
        &devices,
        libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NOEXEC,
    )?;
    for name in DEVICES {
        let device = CString::new(format!("/dev/{name}"))?;
        bind(&device, &site(&format!("/dev/{name}"))?)?;
    }
    // The kernel lets a stage mount its own only where one can be seen already. It is covered by that.
    bind(c"/proc", &processes)?;
    change_root(&root)
}

/// Lays out what becomes `/dev` of every stage, where the container's own devices go.
fn lay_out_devices() -> io::Result<()> {
    let directory = Path::new(OWN_DEVICES);
    fs::create_dir(directory)?;
    fs::create_dir(directory.join("shm"))?;
    for name in DEVICES {
        fs::File::create(directory.join(name))?;
    }
    symlink("/proc/self/fd", directory.join("fd"))?;
    for (name, number) in [("stdin", 0), ("stdout", 1), ("stderr", 2)] {
        symlink(format!("/proc/self/fd/{number}"), directory.join(name))?;
    }
    Ok(())
}

/// Mounts a work directory of these bounds in this thread's root: a descriptor of it.
pub fn mount_work(bounds: Bounds) -> Result<OwnedFd, Failure> {
    const FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
    let work = c_string(WORK_DIR.as_ref())?;
    mount(c"tmpfs", &work, FLAGS, &options(bounds, "0700")?)
        .and_then(|()| open_at(libc::AT_FDCWD, &work, libc::O_RDONLY | libc::O_DIRECTORY, 0))
        .naming("mount the work directory", WORK_DIR)
}

/// Takes the work directory away; what is in it is gone when nobody has it open.
pub fn unmount_work() -> Result<(), Failure> {
    let work = c_string(WORK_DIR.as_ref())?;
    unmount(&work).naming("drop the work directory", WORK_DIR)
}

/// Where the agent's thread, in `/proc`, finds its descriptors.
pub const DESCRIPTORS: &str = "self/fd";

/// How the agent's thread, in `/proc`, gets into a directory that only the launcher's can name.
pub fn path_of(directory: &OwnedFd) -> PathBuf {
    format!("{DESCRIPTORS}/{}/.", directory.as_raw_fd()).into()
}

/// The options of a file system in memory, whose own directory is one of its files.
pub fn options(bounds: Bounds, mode: &str) -> Result<CString, Failure> {
    let (bytes, inodes) = (bounds.bytes.max(1), bounds.inodes.saturating_add(1));
    let text = format!("size={bytes},nr_inodes={inodes},mode={mode}");
    c_string(text.as_ref())
}

/// What hides one of [`SECRETS`].
pub enum Mask {
    /// A file that is empty.
    File(CString),
    /// A directory that is empty.
    Directory(CString),
}

/// Those of [`SECRETS`] that are here, and that others than the machine's root may read or write.
pub fn masks() -> Vec<Mask> {
    const OTHERS: u32 = 0o006;
    let paths = SECRETS.iter().map(|name| Path::new("/proc").join(name));
    let masks = paths.filter_map(|path| {
        let metadata = fs::symlink_metadata(&path).ok()?;
        let is_open = metadata.permissions().mode() & OTHERS != 0;
        let path = c_string(&path).ok().filter(|_| is_open)?;
        Some(if metadata.is_dir() {
            Mask::Directory(path)
        } else {
            Mask::File(path)
        })
    });
    masks.collect()
}

fn c_string(path: &Path) -> Result<CString, Failure> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|error| Failure::new("name a path", path.display(), error))
}
