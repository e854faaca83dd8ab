//! Who the stages run as, and how the agent makes files and pipes that belong to them.
//!
//! The agent is root without CHOWN and DAC_OVERRIDE: it can neither give a file away nor enter the work directory (mode
//! 0700, the stages' own) as itself. It changes its file system ids for the moment instead. Those decide on files alone:
//! with them changed nobody can signal or trace the agent who could not before.

use std::io;

use libc::{gid_t, uid_t};

use crate::sys;

/// The user and group of the stages. Neither is root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    uid: uid_t,
    gid: gid_t,
}

impl Identity {
    /// Refuses root and the ids that mean "no change" (`-1`).
    pub fn new(uid: uid_t, gid: gid_t) -> Option<Self> {
        let usable = |id: u32| id != 0 && id != u32::MAX;
        (usable(uid) && usable(gid)).then_some(Self { uid, gid })
    }

    /// The user id, never 0.
    pub fn uid(self) -> uid_t {
        self.uid
    }

    /// The group id, never 0.
    pub fn gid(self) -> gid_t {
        self.gid
    }

    /// Does `work` as this user, as far as files are concerned, and is the agent again after it.
    pub fn act<T>(self, work: impl FnOnce() -> T) -> io::Result<T> {
        switch(self.uid, self.gid)?;
        let result = work();
        switch(0, 0)?;
        Ok(result)
    }
}

/// Sets the file system ids, and sees to it that they are set: the call itself reports nothing.
fn switch(uid: uid_t, gid: gid_t) -> io::Result<()> {
    const ASK: u32 = u32::MAX;
    // SAFETY: the calls change ids of this thread, and touch no memory; -1 changes nothing and returns what is.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(ASK), libc::setfsgid(ASK))
    };
    // The kernel resets this with every change of ids, to a value that the host may have configured.
    sys::forbid_dumps()?;
    if (now.0.cast_unsigned(), now.1.cast_unsigned()) == (uid, gid) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn root_and_no_change_are_no_identity() {
        for (uid, gid) in [(0, 1), (1, 0), (u32::MAX, 1), (1, u32::MAX)] {
            assert_eq!(Identity::new(uid, gid), None);
        }
        assert!(Identity::new(1, 1).is_some());
    }
}
