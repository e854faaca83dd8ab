//! The wall of a container: the stages are another user's, and nothing is between them and the agent but that.

use std::{os::fd::OwnedFd, path::PathBuf, rc::Rc};

use envicutor_protocol::{Open, Origin, Prepare, Stage as Order};
use libc::sock_filter;

use crate::{
    cgroup::Cgroup,
    child::Handover,
    clean::clean,
    failure::Failure,
    identity::Identity,
    meter::{ContainerMeter, Meter},
    seccomp,
    spawn::{self, Strings, spawn},
    wall::{Launched, Wall},
    watched::{self, WatchedMeter},
    work::Work,
};

/// A container, for one submission.
pub struct Container {
    handover: &'static Handover,
    cgroup: Rc<Cgroup>,
    /// The kernel, where it has no cgroups.
    watched: Option<watched::Kernel>,
    work_dir: PathBuf,
    filter: Vec<sock_filter>,
}

impl Container {
    /// With the work directory at `work_dir`. If it is to be watched, the kernel has no cgroups.
    pub fn new(work_dir: PathBuf, is_watched: bool) -> Result<Self, Failure> {
        Ok(Self {
            handover: spawn::handover(None)?,
            cgroup: Rc::new(Cgroup::find()),
            watched: is_watched.then(watched::Kernel::find).transpose()?,
            work_dir,
            filter: seccomp::filter(),
        })
    }
}

impl Wall for Container {
    fn prepare(&mut self, _: &Prepare) -> Result<(), Failure> {
        Err(Failure::out_of_order("prepare", "it in a slot alone"))
    }

    fn open(&mut self, open: &Open) -> Result<Work, Failure> {
        let &Open::User { uid, gid } = open else {
            return Err(Failure::out_of_order("open", "a user, as in a container"));
        };
        let Some(identity) = Identity::new(uid, gid) else {
            let object = format!("uid {uid}, gid {gid}");
            let error = "expected a user and a group that are neither 0 nor 4294967295";
            return Err(Failure::new("open", object, error));
        };
        Ok(Work::new(self.work_dir.clone(), identity))
    }

    fn clean(&mut self, work: &Work) -> Result<(), Failure> {
        clean(work.identity)
    }

    fn launch(
        &mut self,
        order: &Order,
        work: &Work,
        stdio: &[OwnedFd; 3],
    ) -> Result<Launched, Failure> {
        let meter: Box<dyn Meter> = match self.watched {
            Some(kernel) => Box::new(WatchedMeter::start(kernel, &order.limits)),
            None => Box::new(ContainerMeter::start(&self.cgroup)),
        };
        let strings = Strings::of(order)?;
        let spawned = spawn(&strings, order, work, stdio, &self.filter, self.handover)?;
        Ok(Launched {
            spawned,
            meter,
            program: work.path.join(strings.tried(self.handover)),
            origin: Origin::Exec,
        })
    }

    fn make_ahead(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn settle(&mut self) {}

    fn close(&mut self, _: Work) -> Result<Option<String>, Failure> {
        Err(Failure::out_of_order("close", "it in a slot alone"))
    }
}
