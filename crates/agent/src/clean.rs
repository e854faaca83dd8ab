//! Removes what a stage has left behind for the next one to find: files, and System V shared memory, queues and semaphores.
//! (POSIX message queues have no room, see [`crate::limits`]; everything else dies with the processes.)

use std::{
    ffi::CStr,
    fs,
    io::{self, Read},
};

use libc::c_int;

use crate::{
    child::become_user,
    directory::{Directory, Listing},
    failure::{Failure, Naming},
    helper,
    identity::Identity,
};

/// Where a stage can write, besides its work directory.
const SCRATCH: [(&CStr, &str); 2] = [(c"/tmp", "/tmp"), (c"/dev/shm", "/dev/shm")];

/// A call that removes something by its id.
type Remove = fn(c_int) -> c_int;

/// Where the kernel lists what there is of System V, and what removes it.
const SYSTEM_V: [(&str, Remove); 3] = [
    ("/proc/sysvipc/shm", remove_segment),
    ("/proc/sysvipc/msg", remove_queue),
    ("/proc/sysvipc/sem", remove_semaphores),
];

/// Empties the directories that every stage finds empty, and removes what is left of System V.
pub fn clean(identity: Identity) -> Result<(), Failure> {
    for (path, name) in SCRATCH {
        match identity.act(|| empty(path, identity)).and_then(|it| it) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.naming("empty directory", name)?,
        }
    }
    let left = SYSTEM_V.iter().any(|(list, _)| has_entries(list));
    if left {
        helper::run(&mut || {
            become_user(identity)?;
            remove_system_v();
            Ok(())
        })
        .naming("remove shared memory", "System V")?;
    }
    Ok(())
}

/// Removes everything in the directory at `path`; what is not the user's and directly in it stays, no stage has made it.
pub fn empty(path: &CStr, identity: Identity) -> io::Result<()> {
    let (mut directory, _) = Directory::open(path)?;
    let mut depth = 0_usize;
    // What was entered is empty when it is left, and goes when its parent is read anew: there is no way back to remember.
    loop {
        match remove_entries(&directory, identity, depth)? {
            Some(child) => {
                directory = child;
                depth += 1;
            }
            None if depth == 0 => return Ok(()),
            None => {
                directory = directory.parent()?;
                depth -= 1;
            }
        }
    }
}

/// Removes the entries of `directory` up to the first directory that is not empty, which is opened.
fn remove_entries(
    directory: &Directory,
    identity: Identity,
    depth: usize,
) -> io::Result<Option<Directory>> {
    let mut listing = Listing::new();
    while let Some(entry) = listing.next(directory)? {
        let Err(error) = directory.remove(entry.name, entry.is_directory) else {
            continue;
        };
        if error.kind() == io::ErrorKind::DirectoryNotEmpty {
            return directory.enter(entry.name).map(|(child, _)| Some(child));
        }
        let theirs = depth == 0 && directory.status_of(entry.name)?.st_uid != identity.uid();
        if !theirs {
            return Err(error);
        }
    }
    Ok(None)
}

/// Whether one of the kernel's lists has a line below its titles. It may be long: the agent itself reads no more than that.
fn has_entries(list: &str) -> bool {
    let mut start = [0; 1024];
    let read = fs::File::open(list).and_then(|mut it| it.read(&mut start));
    let lines = start[..read.unwrap_or(0)].split(|byte| *byte == b'\n');
    lines.skip(1).any(|line| !line.is_empty())
}

/// The ids in one of the kernel's lists: the second column, below a line of titles. Empty where the kernel has none.
fn ids(list: &str) -> Vec<c_int> {
    let text = fs::read_to_string(list).unwrap_or_default();
    let lines = text.lines().skip(1);
    lines
        .filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse().ok())
        .collect()
}

/// Removes all that this process may: what is not the user's refuses, and stays.
fn remove_system_v() {
    for (list, remove) in SYSTEM_V {
        for id in ids(list) {
            remove(id);
        }
    }
}

fn remove_segment(id: c_int) -> c_int {
    // SAFETY: IPC_RMID takes no buffer.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }
}

fn remove_queue(id: c_int) -> c_int {
    // SAFETY: IPC_RMID takes no buffer.
    unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) }
}

fn remove_semaphores(id: c_int) -> c_int {
    // SAFETY: IPC_RMID takes no further argument.
    unsafe { libc::semctl(id, 0, libc::IPC_RMID) }
}
