//! The processes of the agent's pid namespace, by `/proc`, where the agent stands.

use std::{fs, path::PathBuf};

use libc::pid_t;

use crate::failure::{Failure, Naming};

/// Makes `/proc` the current directory of the agent's thread, and of every thread that has none of its own. What stands below is
/// found from there then, and not by way of `/`: that is the root user's, so that a kernel that keeps no access control lists
/// of its file system (FUSE: the Engine's fuse-overlayfs) asks for them on each way through it.
pub fn enter() -> Result<(), Failure> {
    std::env::set_current_dir("/proc").naming("enter the processes' file system", "/proc")
}

/// All but the agent.
pub fn live() -> impl Iterator<Item = pid_t> {
    fs::read_dir(".")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != 1)
}

/// The directories of all threads of [`live`].
pub fn live_threads() -> impl Iterator<Item = PathBuf> {
    live().flat_map(|process| {
        let threads = fs::read_dir(format!("{process}/task"));
        threads
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
    })
}
