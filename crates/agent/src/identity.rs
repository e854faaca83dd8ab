//! Who the stages run as, and how the agent makes files and pipes that belong to them.
//!
//! The agent of a slot and its stages are one user of the host, and there is nothing to change.
//!
//! The agent of a container is root without CHOWN and DAC_OVERRIDE: it can neither give a file away nor enter the work directory
//! (mode 0700, the stages' own) as itself. It changes its effective ids for the moment instead, which decide on files. The real
//! and the saved ones stay root's: with those nobody can signal or trace the agent who could not before. (The ids for files
//! alone, `setfsuid`, would do as well, but gVisor has not got them.)

use std::io;

use libc::{gid_t, uid_t};

use crate::sys;

/// The user and group of the stages. Neither is root of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    uid: uid_t,
    gid: gid_t,
    is_own: bool,
}

impl Identity {
    /// The agent's own: that of a slot.
    pub fn own() -> Self {
        Self {
            uid: sys::user_id(),
            gid: sys::group_id(),
            is_own: true,
        }
    }

    /// Refuses root and the ids that mean "no change" (`-1`).
    pub fn new(uid: uid_t, gid: gid_t) -> Option<Self> {
        let usable = |id: u32| id != 0 && id != u32::MAX;
        (usable(uid) && usable(gid)).then_some(Self {
            uid,
            gid,
            is_own: false,
        })
    }

    /// The user id.
    pub fn uid(self) -> uid_t {
        self.uid
    }

    /// The group id.
    pub fn gid(self) -> gid_t {
        self.gid
    }

    /// Does `work` as this user, as far as files are concerned, and is the agent again after it.
    pub fn act<T>(self, work: impl FnOnce() -> T) -> io::Result<T> {
        if self.is_own {
            return Ok(work());
        }
        switch(self.uid, self.gid)?;
        let result = work();
        switch(0, 0)?;
        Ok(result)
    }
}

/// Sets the effective ids. The way back needs no capability: root is still the real and the saved id.
fn switch(uid: uid_t, gid: gid_t) -> io::Result<()> {
    const KEEP: u32 = u32::MAX;
    // SAFETY: touches no memory.
    sys::check(unsafe { libc::setresgid(KEEP, gid, KEEP) })?;
    // SAFETY: touches no memory.
    sys::check(unsafe { libc::setresuid(KEEP, uid, KEEP) })?;
    // The kernel resets this with every change of ids, to a value that the host may have configured.
    sys::forbid_dumps()?;
    // SAFETY: the calls cannot fail.
    if unsafe { (libc::geteuid(), libc::getegid()) } == (uid, gid) {
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
