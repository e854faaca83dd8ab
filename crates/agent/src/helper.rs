//! Work in a process of its own, for what may need much memory or another identity.
//!
//! The agent must live to say that memory ran out: so the kernel is offered the helper instead. No stage runs meanwhile.

use std::{io, ptr};

use crate::{child::offer_to_oom_killer, sys::check};

/// Does `work` in a process of its own and waits for it. What it changes in memory is lost, what it does to files stays.
pub fn run(work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: the agent has one thread, so that the copy may do what the agent may.
    match check(unsafe { libc::fork() })? {
        0 => {
            let errno = match offer_to_oom_killer().and_then(|()| work()) {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            // SAFETY: ends this process without running anything of the agent's.
            unsafe { libc::_exit(errno) }
        }
        pid => wait(pid),
    }
}

/// Waits for the helper: its exit code is an `errno`.
fn wait(pid: libc::pid_t) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: `status` is ours; the usage is not asked for.
    while let Err(error) = check(unsafe { libc::wait4(pid, &raw mut status, 0, ptr::null_mut()) }) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // Nothing but a want of memory ends it by a signal.
    let errno = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        libc::ENOMEM
    };
    if errno == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(errno))
    }
}
