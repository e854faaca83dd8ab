//! The thread that stages are started from: it sits in the stages' cgroup and in the mount namespace of the runtime, the rest
//! of the agent in its own. A process that is forked begins where its parent is, so nothing is moved when a stage starts
//! (to move a process into a cgroup can take 18 ms: `docs/performance.md`).

use std::{
    io, mem,
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use crate::sys;

/// Its stack, in bytes: the copy that becomes a stage's init runs on it too.
const STACK_BYTES: usize = 128 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends with the agent.
pub struct Launcher {
    jobs: Sender<Job>,
    done: Receiver<()>,
    thread: libc::pid_t,
}

/// What the launcher's thread and its caller share while the caller waits.
struct Shared<T>(T);

// SAFETY: `call` hands it over and does not touch it until the launcher is done with it, so that one thread uses it at a time.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    fn take(self) -> T {
        self.0
    }
}

impl Launcher {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (say, done) = channel();
        let (introduce, introduced) = channel();
        let serve = move || {
            if introduce.send(sys::own_thread()).is_err() {
                return;
            }
            for job in queue {
                job();
                if say.send(()).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(serve)?;
        let thread = introduced.recv().map_err(io::Error::other)?;
        Ok(Self { jobs, done, thread })
    }

    /// Where other threads find its root.
    pub fn root(&self) -> PathBuf {
        format!("/proc/self/task/{}/root", self.thread).into()
    }

    /// Has `work` done by the thread, and waits for it.
    pub fn call<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let mut answer = None;
        let shared = Shared((work, &mut answer));
        let job: Box<dyn FnOnce() + Send + '_> = Box::new(move || {
            let (work, answer) = shared.take();
            *answer = Some(work());
        });
        // SAFETY: the job lives no longer than this call: it was consumed before `done` says so, or the thread is gone with it.
        let job: Job = unsafe { mem::transmute(job) };
        let gone = || io::Error::other("the launcher's thread is gone");
        self.jobs.send(job).map_err(|_| gone())?;
        self.done.recv().map_err(|_| gone())?;
        answer.ok_or_else(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::Launcher;

    #[test]
    fn work_is_done_elsewhere_and_may_borrow() {
        let launcher = Launcher::start().expect("starts");
        let here = std::thread::current().id();
        let text = String::from("borrowed");
        let (there, length) = launcher
            .call(|| (std::thread::current().id(), text.len()))
            .expect("answers");
        assert_ne!(here, there);
        assert_eq!(length, 8);
    }
}
