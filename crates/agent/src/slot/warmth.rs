//! When a slot takes a template, and how: after the end of a submission was told and while the work directory is empty, of the
//! command that its last stages had. It keeps one, and tries it before any submission meets it: a start from it must end as
//! the very start that it was taken of.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::Ordering,
    time::Duration,
};

use envicutor_protocol::{Origin, Stage as Order};
use libc::pid_t;

use super::{
    Begun, Ready, on,
    template::{Key, Template, Tracee},
};
use crate::{
    child::Ending,
    failure::{Failure, Naming},
    identity::Identity,
    spawn::{Spawned, Strings, wait_for_exec, what_came},
    streams::Pipes,
    sys::{self, check},
    wall::Launched,
};

const STEP: &str = "take a template";

/// How many stages of the same kind must follow each other before there is a template of them.
const SEEN: u32 = 2;

/// How long a program may take that was begun to take or to try a template.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a slot knows of templates.
#[derive(Default)]
pub struct Warmth {
    template: Option<Box<Template>>,
    /// What the last stages were that had none, and how many.
    seen: Option<(Key, u32)>,
    /// What there can be no template of.
    hopeless: Option<Key>,
    /// Why, until it is told.
    trouble: Option<String>,
}

impl Warmth {
    /// How many descriptors the agent keeps for it.
    pub fn descriptors(&self) -> usize {
        self.template.as_ref().map_or(0, |it| it.descriptors())
    }

    /// Why there is no template, where that is not told yet.
    pub fn trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    fn give_up(&mut self, key: Key, why: String) {
        self.hopeless = Some(key);
        self.trouble = Some(why);
    }

    fn has(&self, key: &Key) -> bool {
        self.template.as_ref().is_some_and(|it| it.key == *key)
    }

    fn see(&mut self, key: Key) {
        let before = self.seen.take();
        let count = before.filter(|(seen, _)| *seen == key).map_or(0, |it| it.1);
        self.seen = Some((key, count.saturating_add(1)));
    }

    /// What there should be a template of.
    fn wanted(&self) -> Option<Key> {
        let (key, count) = self.seen.as_ref()?;
        let is_wanted = *count >= SEEN && key.is_possible() && self.hopeless.as_ref() != Some(key);
        is_wanted.then(|| key.clone())
    }
}

impl Ready {
    /// Launches `order` from the template, where there is one of it. Whatever goes wrong, there is none any more.
    pub(super) fn launch_warm(
        &mut self,
        order: &Order,
        stdio: &[OwnedFd; 3],
    ) -> Result<Option<Launched>, Failure> {
        let Some(root) = self.roots.name().filter(|_| order.may_be_warm) else {
            return Ok(None);
        };
        let key = Key::of(&root, order);
        let Some(work) = &self.work else {
            return Ok(None);
        };
        let work = super::root::path_of(&work.directory);
        if !self.warmth.has(&key) {
            self.warmth.see(key);
            return Ok(None);
        }
        let Some(template) = self.warmth.template.take_if(|it| it.fits(&work)) else {
            return Ok(None);
        };
        let strings = Strings::of(order)?;
        let ending = Ending::Restore(&template.island);
        let Some(begun) = self.begin(order, &strings, stdio, ending)? else {
            self.warmth.template = Some(template);
            return Ok(Some(Launched::out_of_memory()));
        };
        let init = begun.init;
        let launched = self.launched(order, &strings, begun)?;
        if matches!(launched.spawned, Spawned::Executed(_)) {
            self.warmth.template = Some(template);
            return Ok(Some(Launched {
                origin: Origin::Template,
                ..launched
            }));
        }
        let why = "a program could not begin from it";
        self.warmth.give_up(key, why.to_owned());
        self.end_of(init)?;
        on(&self.launcher, || self.cgroups.make_ahead())?;
        Ok(None)
    }

    /// Takes a template if one is wanted.
    pub(super) fn warm_up(&mut self) {
        let Some(key) = self.warmth.wanted() else {
            return;
        };
        self.warmth.template = None;
        match self.take(key.clone()) {
            Ok(template) => self.warmth.template = Some(Box::new(template)),
            // What this runtime does is no failure of the slot's.
            Err(failure) => self.warmth.give_up(key, failure.to_string()),
        }
        self.warmth.seen = None;
    }

    fn take(&mut self, key: Key) -> Result<Template, Failure> {
        let order = key.order();
        let name = order.argv.first().map_or("", String::as_str);
        let strings = Strings::of(&order)?;
        let (holder, go) = sys::pipe().naming("make a pipe", name)?;
        let pipes = Pipes::make(Identity::own()).naming("make a pipe", name)?;
        let ending = Ending::ExecuteWhenHeld(holder.as_raw_fd());
        let begun = self.begin(&order, &strings, &pipes.stdio, ending)?;
        let Begun { init, done, .. } = begun.ok_or_else(|| too_little(name))?;
        let taken = self.take_of(init, key, &go);
        if taken.is_err() {
            // SAFETY: it is a child of the agent that was not reaped.
            unsafe { libc::kill(init, libc::SIGKILL) };
        }
        drop((go, holder, done, pipes.input));
        let expected = self.end_of(init)?;
        on(&self.launcher, || self.cgroups.make_ahead())?;
        let template = taken?;
        let found = self.try_template(&template, &order, &strings)?;
        if found == expected {
            return Ok(template);
        }
        let error = format!("it ended with {found:?}, expected {expected:?}");
        Err(Failure::new("try a template", name, error))
    }

    /// Holds the program of the stage `init`, and takes a template of it.
    fn take_of(&self, init: pid_t, key: Key, go: &OwnedFd) -> Result<Template, Failure> {
        let program = only_child(init)?;
        let go_on = || {
            // SAFETY: one byte that is there.
            let written = unsafe { libc::write(go.as_raw_fd(), [1_u8].as_ptr().cast(), 1) };
            check(i32::try_from(written).unwrap_or(-1)).map(drop)
        };
        let tracee = Tracee::seize(program, go_on).naming(STEP, "the program")?;
        let template = Template::take(key, &tracee, &self.launcher.root())?;
        tracee.let_go().naming(STEP, "the program")?;
        Ok(template)
    }

    /// Begins from `template` with nothing in the work directory: how the program ended.
    fn try_template(
        &mut self,
        template: &Template,
        order: &Order,
        strings: &Strings,
    ) -> Result<Option<i32>, Failure> {
        let name = order.argv.first().map_or("", String::as_str);
        let pipes = Pipes::make(Identity::own()).naming("make a pipe", name)?;
        let ending = Ending::Restore(&template.island);
        let begun = self.begin(order, strings, &pipes.stdio, ending)?;
        let Begun { init, done, .. } = begun.ok_or_else(|| too_little(name))?;
        drop(pipes.input);
        let came = wait_for_exec(&done, name)
            .and_then(|()| what_came(self.handover, init, name, &super::init::step_name));
        let status = self.end_of(init)?;
        on(&self.launcher, || self.cgroups.make_ahead())?;
        match came? {
            Spawned::Executed(_) => Ok(status),
            Spawned::Refused(errno) => Err(Failure::new(
                "try a template",
                name,
                std::io::Error::from_raw_os_error(errno),
            )),
        }
    }

    /// Waits for the end of a stage that is no submission's, by its `init`: the wait status of its program, where it came to
    /// that.
    fn end_of(&self, init: pid_t) -> Result<Option<i32>, Failure> {
        let end = sys::now() + PATIENCE;
        loop {
            let mut status = 0;
            // SAFETY: `status` is ours.
            let found = check(unsafe { libc::waitpid(init, &raw mut status, libc::WNOHANG) })
                .naming("reap", "the init of a stage")?;
            if found == init {
                let words = &self.handover.last_words;
                let written = words.written.load(Ordering::Acquire);
                let status = words.status.load(Ordering::Acquire);
                return Ok(written.then_some(status));
            }
            if sys::now() > end {
                sys::kill_everyone();
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// The program of the stage `init`, as soon as it is there.
fn only_child(init: pid_t) -> Result<pid_t, Failure> {
    let path = format!("/proc/{init}/task/{init}/children");
    let end = sys::now() + PATIENCE;
    while sys::now() < end {
        let children = fs::read_to_string(&path).naming(STEP, &path)?;
        if let Some(child) = children.split_ascii_whitespace().next() {
            return child
                .parse()
                .map_err(|error| Failure::new(STEP, &path, error));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Err(Failure::new(STEP, path, "the stage has no program"))
}

fn too_little(name: &str) -> Failure {
    Failure::new(STEP, name, "its limit of memory is too low")
}
