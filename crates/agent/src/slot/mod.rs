//! The wall of a slot: for each stage a fresh inner wall, for each submission a work directory, for the slot what can be made
//! once. The agent is a user without any capability; what it needs it has in a user namespace of its own.
//!
//! In the order of a slot's life:
//! - [`Slot::prepare`](Wall::prepare): namespaces, cgroups, the network; then a trial of everything that follows;
//! - [`root`], [`mounts`], [`network`]: what a stage finds;
//! - [`launcher`]: the thread that has all of it, and that stages are started from;
//! - [`cgroups`], [`meter`]: what limits and measures a stage;
//! - [`template`], [`warmth`]: programs that begin from where an earlier start was, and when one is taken;
//! - [`init`]: the first process of a stage, which builds the rest of the wall;
//! - [`trial`]: the program that shows at the start that the wall holds.

mod cgroups;
mod init;
mod launcher;
mod meter;
mod mounts;
mod network;
mod root;
pub mod template;
pub mod trial;
mod warmth;

use std::{
    ffi::CString,
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use envicutor_protocol::{Bounds, Open, Origin, Prepare, Stage as Order, WORK_DIR};
use libc::sock_filter;

use crate::{
    child::{Ending, Handover, Prepared},
    failure::{Failure, Naming},
    identity::Identity,
    limits::rlimits,
    seccomp,
    spawn::{self, Strings, wait_for_exec, what_came},
    sys,
    wall::{Launched, Wall},
    work::Work,
};
use cgroups::Cgroups;
use init::{Enclosure, INNER_ID, Stack};
use launcher::Launcher;
use meter::SlotMeter;
use root::{Mask, Roots};
use template::island;
use warmth::Warmth;

/// Where the cgroups are mounted, in the agent's own directory.
const CGROUPS: &str = "/tmp/cgroups";

/// A slot's container, for one tenant's submissions.
#[derive(Default)]
pub struct Slot {
    /// Absent until it was prepared.
    ready: Option<Box<Ready>>,
}

/// What all stages share.
struct Ready {
    handover: &'static Handover,
    launcher: Launcher,
    cgroups: Cgroups,
    roots: Roots,
    filter: Vec<sock_filter>,
    stack: Stack,
    masks: Vec<Mask>,
    scratch: CString,
    /// The submission's work directory; between two submissions the next one's, where that wants the same.
    work: Option<WorkDir>,
    /// How many descriptors the agent has between submissions, without those of a template.
    descriptors: usize,
    warmth: Warmth,
}

/// A stage that has begun.
struct Begun {
    /// Its init.
    init: libc::pid_t,
    meter: SlotMeter,
    /// Closed when the program runs, or will not.
    done: OwnedFd,
}

/// A mounted work directory.
struct WorkDir {
    bounds: Bounds,
    directory: OwnedFd,
}

impl WorkDir {
    /// Mounts one in the root of the launcher's thread, which calls this.
    fn mount(bounds: Bounds) -> Result<Self, Failure> {
        let directory = root::mount_work(bounds)?;
        Ok(Self { bounds, directory })
    }
}

impl Wall for Slot {
    fn prepare(&mut self, order: &Prepare) -> Result<(), Failure> {
        if self.ready.is_some() {
            return Err(Failure::out_of_order("prepare", "it once"));
        }
        let mut ready = Box::new(Ready::make(order)?);
        ready.try_out()?;
        self.ready = Some(ready);
        Ok(())
    }

    fn open(&mut self, open: &Open) -> Result<Work, Failure> {
        let ready = self.ready("open")?;
        let Open::Root { name, work } = open else {
            return Err(Failure::out_of_order("open", "a root, as in a slot"));
        };
        ready.open(name, *work)
    }

    /// Everything that a stage could write to but the work directory is gone with the stage.
    fn clean(&mut self, _: &Work) -> Result<(), Failure> {
        Ok(())
    }

    fn launch(
        &mut self,
        order: &Order,
        _: &Work,
        stdio: &[OwnedFd; 3],
    ) -> Result<Launched, Failure> {
        self.ready("stage")?.launch(order, stdio)
    }

    fn make_ahead(&mut self) -> Result<(), Failure> {
        let Ready {
            launcher, cgroups, ..
        } = self.ready("stage")?;
        if cgroups.is_as_new() {
            return Ok(());
        }
        on(launcher, || cgroups.make_ahead())
    }

    fn settle(&mut self) {
        if let Some(ready) = &mut self.ready {
            ready.warm_up();
        }
    }

    fn close(&mut self, work: Work) -> Result<Option<String>, Failure> {
        // What was kept goes with it.
        drop(work);
        self.ready("close")?.close()
    }
}

impl Slot {
    fn ready(&mut self, command: &str) -> Result<&mut Ready, Failure> {
        self.ready
            .as_deref_mut()
            .ok_or_else(|| Failure::out_of_order(command, "`prepare` first"))
    }
}

impl Ready {
    fn make(order: &Prepare) -> Result<Self, Failure> {
        enter_namespaces()?;
        let roots = Roots::new()?;
        fs::create_dir(CGROUPS).naming("make the agent's directory", CGROUPS)?;
        // A thread has the namespaces and cgroups of its maker; what it is to have alone it makes itself.
        let launcher = Launcher::start().naming("start a thread", "the launcher")?;
        let cgroups = on(&launcher, || {
            Cgroups::mount(Path::new(CGROUPS), order.cpu_millis)
        })?;
        on(&launcher, || {
            network::make().naming("make a network namespace", "loopback")
        })?;
        Ok(Self {
            handover: spawn::handover(usize::try_from(island::HANDOVER).ok())?,
            launcher,
            cgroups,
            roots,
            filter: seccomp::filter(),
            stack: Stack::take().naming("map memory", "a stack")?,
            masks: root::masks(),
            scratch: root::options(order.scratch, "1777")?,
            work: None,
            descriptors: 0,
            warmth: Warmth::default(),
        })
    }

    fn open(&mut self, name: &str, bounds: Bounds) -> Result<Work, Failure> {
        let Self {
            launcher, roots, ..
        } = self;
        let ahead = self.work.take();
        let fits = |it: &WorkDir| it.bounds == bounds && roots.is_at(name);
        let work = match ahead.filter(fits) {
            Some(ahead) => ahead,
            None => on(launcher, || {
                roots.enter(name)?;
                WorkDir::mount(bounds)
            })?,
        };
        Ok(self.work_in(work))
    }

    fn work_in(&mut self, work: WorkDir) -> Work {
        let path = root::path_of(&self.work.insert(work).directory);
        Work::new(path, Identity::own())
    }

    fn launch(&mut self, order: &Order, stdio: &[OwnedFd; 3]) -> Result<Launched, Failure> {
        if let Some(launched) = self.launch_warm(order, stdio)? {
            return Ok(launched);
        }
        let strings = Strings::of(order)?;
        let Some(begun) = self.begin(order, &strings, stdio, Ending::Execute)? else {
            return Ok(Launched::out_of_memory());
        };
        let mut launched = self.launched(order, &strings, begun)?;
        if let Some(why) = self.warmth.trouble() {
            launched.origin = Origin::NoTemplate(why);
        }
        Ok(launched)
    }

    /// What came of a stage that has begun.
    fn launched(
        &self,
        order: &Order,
        strings: &Strings,
        begun: Begun,
    ) -> Result<Launched, Failure> {
        let name = order.argv.first().map_or("", String::as_str);
        wait_for_exec(&begun.done, name)?;
        let root = self.launcher.root();
        Ok(Launched {
            spawned: what_came(self.handover, begun.init, name, &init::step_name)?,
            meter: Box::new(begun.meter),
            program: root.join(
                Path::new(WORK_DIR)
                    .join(strings.tried(self.handover))
                    .strip_prefix("/")
                    .unwrap_or(Path::new("")),
            ),
            origin: Origin::Exec,
        })
    }

    /// Begins a stage whose program is to become one by `ending`; none where the memory is too little.
    fn begin(
        &mut self,
        order: &Order,
        strings: &Strings,
        stdio: &[OwnedFd; 3],
        ending: Ending,
    ) -> Result<Option<Begun>, Failure> {
        let name = order.argv.first().map_or("", String::as_str);
        let work_dir = CString::new(Path::new(WORK_DIR).as_os_str().as_bytes())
            .map_err(|error| Failure::new("name the work directory", name, error))?;
        let identity = Identity::new(INNER_ID, INNER_ID)
            .ok_or_else(|| Failure::new("name the user", name, "it is root"))?;
        let rlimits = rlimits(&order.limits);
        let (candidates, argv, envp) = strings.pointers();
        let (done, running) = sys::pipe().naming("make a pipe", name)?;
        let (handover, cgroups) = (self.handover, &mut self.cgroups);
        handover.begin();
        let launch = || {
            let Some(ready) = cgroups.begin(&order.limits)? else {
                return Ok(None);
            };
            let meter = SlotMeter::start(&ready, handover, order.limits.memory_bytes);
            let enclosure = Enclosure {
                program: Prepared {
                    identity,
                    rlimits: &rlimits,
                    work_dir: &work_dir,
                    stdio: stdio.each_ref().map(AsRawFd::as_raw_fd),
                    candidates: &candidates,
                    argv: &argv,
                    envp: &envp,
                    filter: &self.filter,
                    ending,
                    cgroup: Some(&ready.cgroup),
                },
                masks: &self.masks,
                scratch: &self.scratch,
                stack: &self.stack,
                cgroup: &ready.cgroup,
                running: running.as_raw_fd(),
                handover,
            };
            match init::start(&enclosure, ready.entrance.as_ref()) {
                // It is in the stage's cgroup already, and so limited.
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok(None),
                started => {
                    let init = started.naming("make the namespaces of a stage", name)?;
                    Ok(Some((init, meter)))
                }
            }
        };
        let started = on(&self.launcher, launch)?;
        drop(running);
        Ok(started.map(|(init, meter)| Begun { init, meter, done }))
    }

    fn close(&mut self) -> Result<Option<String>, Failure> {
        let bounds = self.work.take().map(|work| work.bounds);
        self.work = on(&self.launcher, || {
            root::unmount_work()?;
            if !network::is_unused().naming("look at the network", "of the slot")? {
                network::make().naming("make a network namespace", "loopback")?;
            }
            bounds.map(WorkDir::mount).transpose()
        })?;
        let found = descriptors()?;
        let expected = self.descriptors + self.warmth.descriptors();
        if found != expected {
            return Ok(Some(format!(
                "the agent has {found} descriptors, expected {expected}"
            )));
        }
        Ok(self.cgroups.leftover())
    }

    /// Runs a stage to its end, as any other will be: whatever the host forbids shows here, by its step.
    fn try_out(&mut self) -> Result<(), Failure> {
        let Self {
            launcher, roots, ..
        } = self;
        let directory = on(launcher, || {
            roots.enter_trial()?;
            WorkDir::mount(trial::WORK)
        })?;
        self.work_in(directory);
        let null = || {
            let file = fs::File::options().read(true).write(true).open("/dev/null");
            file.map(OwnedFd::from).naming("open", "/dev/null")
        };
        let stdio = [null()?, null()?, null()?];
        let launched = self.launch(&trial::order(), &stdio)?;
        trial::await_end(launched)?;
        drop(stdio);
        let makes_ahead = on(&self.launcher, || self.cgroups.make_ahead());
        makes_ahead?;
        if let Some(anomaly) = self.close_trial()? {
            return Err(Failure::new("try the wall", "what is left", anomaly));
        }
        Ok(())
    }

    fn close_trial(&mut self) -> Result<Option<String>, Failure> {
        // With a work directory, as between any two submissions.
        self.descriptors = descriptors()?;
        self.work = None;
        on(&self.launcher, root::unmount_work)?;
        Roots::end_trial()?;
        Ok(self.cgroups.leftover())
    }
}

/// Has `work` done by the launcher's thread.
fn on<T>(launcher: &Launcher, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    launcher
        .call(work)
        .naming("start a stage", "the launcher's thread")?
}

/// A user namespace in which the agent is root, and what it can make of its own in that.
fn enter_namespaces() -> Result<(), Failure> {
    let (uid, gid) = (sys::user_id(), sys::group_id());
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    mounts::unshare(flags).naming("make namespaces", "user, mount and cgroup")?;
    sys::allow_dumps().naming("map the user", "the agent")?;
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(file, text).naming("map the user", file)?;
    }
    sys::forbid_dumps().naming("forbid dumps", "the agent")?;
    mounts::make_private().naming("keep mounts apart", "/")
}

fn descriptors() -> Result<usize, Failure> {
    const LIST: &str = root::DESCRIPTORS;
    // Linux 6.2 and later has the number for the asking.
    let size = fs::metadata(LIST).naming("count descriptors", LIST)?.len();
    if let Some(count) = usize::try_from(size).ok().filter(|count| *count > 0) {
        return Ok(count);
    }
    Ok(fs::read_dir(LIST)
        .naming("count descriptors", LIST)?
        .count())
}
