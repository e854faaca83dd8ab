//! A worker's own directory on this machine:
//!
//! | path | what |
//! | --- | --- |
//! | `lock` | locked while the worker lives; its containers carry the path in a label |
//! | `agent` | the agent, mounted into every container |
//! | `c/<container>/worker.sock` | the socket that a container's agent connects to |

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use envicutor_protocol::SOCKET_NAME;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{ContainerError, error::Naming};

/// The agent as the build made it.
static AGENT: &[u8] = include_bytes!(env!("ENVICUTOR_AGENT"));

/// Writes the agent to `path`, for a container that is none of a worker's.
pub(crate) fn write_agent(path: &Path) -> std::io::Result<()> {
    fs::write(path, AGENT)?;
    fs::set_permissions(path, Permissions::from_mode(0o555))
}

/// The bytes of a unix socket's path in the kernel, its final NUL excepted.
const SOCKET_PATH_BYTES: usize = 107;

/// The characters of a container's short name.
pub(super) const SHORT_NAME_CHARS: usize = 12;

/// How long another worker's sweep may hold the directory of a dead worker, and how often that is looked at.
const SWEEP: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// The lock file's name.
pub(super) const LOCK: &str = "lock";

/// The claim of a live worker to its directory. The kernel releases it with the process, however that ends.
#[derive(Debug)]
pub struct WorkerLock {
    file: File,
    path: PathBuf,
}

impl WorkerLock {
    /// Takes the lock of the worker whose directory is `state_dir`, which is made if it is absent.
    pub fn take(state_dir: &Path) -> Result<Self, ContainerError> {
        loop {
            let path = state_dir.join(LOCK);
            let opened = make_dir(state_dir, 0o700).and_then(|()| {
                let mut options = File::options();
                let options = options.create(true).truncate(false).write(true);
                options.open(&path).naming("open the lock file", &path)
            });
            let file = match opened {
                // A sweep removed the directory, which was still empty.
                Err(ContainerError::File { source, .. })
                    if source.kind() == ErrorKind::NotFound =>
                {
                    continue;
                }
                opened => opened?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let path = state_dir.to_owned();
                    return Err(ContainerError::DirectoryHeld { path });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(source).naming("lock", &path);
                }
            }
            // A sweep may have removed the directory between opening and locking: then this file is nobody's.
            if is_at(&file, &path) {
                return Ok(Self { file, path });
            }
        }
    }

    /// The lock file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether `file` is still what lies at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(found)) => (held.dev(), held.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

/// The directory of a live worker, with everything in it that containers need.
#[derive(Debug)]
pub(super) struct StateDir {
    root: PathBuf,
    lock: WorkerLock,
}

impl StateDir {
    /// [`Self::claim`], but waits for up to [`SWEEP`] while another process holds the directory: a worker's sweep holds those of
    /// the dead, until it has removed what they left.
    pub(super) async fn claim_after_sweeps(root: &Path) -> Result<Self, ContainerError> {
        let began = Instant::now();
        loop {
            match Self::claim(root) {
                Err(ContainerError::DirectoryHeld { .. }) if began.elapsed() < SWEEP => {
                    sleep(POLL).await;
                }
                claimed => return claimed,
            }
        }
    }

    /// Takes over `root`: locks it, and writes the agent. What a former worker of this name left in it is still there.
    pub(super) fn claim(root: &Path) -> Result<Self, ContainerError> {
        let root = std::path::absolute(root).naming("resolve", root)?;
        let socket = root
            .join("c")
            .join("x".repeat(SHORT_NAME_CHARS))
            .join(SOCKET_NAME);
        let excess = socket.as_os_str().len().saturating_sub(SOCKET_PATH_BYTES);
        if excess > 0 {
            return Err(ContainerError::PathTooLong { path: root, excess });
        }
        let lock = WorkerLock::take(&root)?;
        let state_dir = Self { root, lock };
        state_dir.install_agent()?;
        Ok(state_dir)
    }

    /// Written beside its place and then moved: whoever starts a container sees a whole agent.
    fn install_agent(&self) -> Result<(), ContainerError> {
        let (path, new) = (self.agent(), self.root.join("agent.new"));
        remove_if_there(&new)?;
        let mut file = File::create_new(&new).naming("create", &new)?;
        file.write_all(AGENT).naming("write", &new)?;
        file.set_permissions(Permissions::from_mode(0o555))
            .naming("set the mode of", &new)?;
        // Not open for writing any more when it is executed.
        drop(file);
        fs::rename(&new, &path).naming("move the agent to", &path)
    }

    /// An empty place for the sockets of containers, without what a former worker of this name left.
    pub(super) fn clear_sockets(&self) -> Result<(), ContainerError> {
        let sockets = self.root.join("c");
        remove_tree(&sockets)?;
        make_dir(&sockets, 0o700)
    }

    pub(super) fn path(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock_file(&self) -> &Path {
        self.lock.path()
    }

    pub(super) fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// The socket directory of the container `short_name`.
    pub(super) fn socket_dir(&self, short_name: &str) -> PathBuf {
        self.root.join("c").join(short_name)
    }
}

impl Drop for StateDir {
    /// Whoever claimed it removes it: a start that failed, or was given up, leaves nothing either.
    fn drop(&mut self) {
        // What is there after all may be the next worker's.
        if is_at(&self.lock.file, &self.lock.path)
            && let Err(error) = remove_worker_dir(&self.root)
        {
            warn!(%error, dir = %self.root.display(), "the worker's directory stays");
        }
    }
}

/// Removes the directory of a worker that is dead, or that is this one and ends. The lock goes last: whoever dies in between leaves
/// a directory that is seen to be a dead worker's.
pub fn remove_worker_dir(dir: &Path) -> Result<(), ContainerError> {
    for entry in fs::read_dir(dir).naming("read the directory", dir)? {
        let path = entry.naming("read the directory", dir)?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        } else if path.file_name().is_none_or(|name| name != LOCK) {
            remove_if_there(&path)?;
        }
    }
    remove_tree(dir)
}

/// Makes the directory with exactly this mode, if it is absent.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), ContainerError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .naming("make the directory", path)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).naming("set the mode of", path)
}

/// Removes a directory and what is in it, if it is there.
pub(super) fn remove_tree(path: &Path) -> Result<(), ContainerError> {
    ignore_absent(fs::remove_dir_all(path)).naming("remove", path)
}

/// Removes a file, if it is there.
pub(super) fn remove_if_there(path: &Path) -> Result<(), ContainerError> {
    ignore_absent(fs::remove_file(path)).naming("remove", path)
}

fn ignore_absent(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_directory_has_one_live_worker() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = WorkerLock::take(dir.path()).expect("free");
        assert!(matches!(
            WorkerLock::take(dir.path()),
            Err(ContainerError::DirectoryHeld { .. })
        ));
        drop(first);
        WorkerLock::take(dir.path()).expect("free again");
    }

    #[test]
    fn a_directory_that_somebody_removes_meanwhile_is_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let state_dir = dir.path().join("worker");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // It is there and empty only now and then.
                    let _ = fs::remove_dir(&state_dir);
                }
            });
            let taken = (0..500).map(|_| {
                WorkerLock::take(&state_dir)?;
                remove_if_there(&state_dir.join(LOCK))
            });
            let taken: Result<(), ContainerError> = taken.collect();
            is_over.store(true, Ordering::Relaxed);
            taken.expect("free each time");
        });
    }

    #[test]
    fn a_workers_directory_is_removed_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("worker");
        let state_dir = StateDir::claim(&path).expect("claimed");
        state_dir.clear_sockets().expect("made");
        drop(state_dir);
        assert!(!path.exists());
    }

    #[test]
    fn what_another_worker_has_claimed_meanwhile_is_not_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("worker");
        let first = StateDir::claim(&path).expect("claimed");
        remove_worker_dir(&path).expect("removed");
        let second = StateDir::claim(&path).expect("free again");
        drop(first);
        assert!(second.agent().exists());
    }

    #[test]
    fn the_agent_is_executable_by_all_and_can_be_installed_again() {
        let dir = tempfile::tempdir().expect("a directory");
        for _ in 0..2 {
            let state_dir = StateDir::claim(dir.path()).expect("claimed");
            let agent = fs::metadata(state_dir.agent()).expect("there");
            assert_eq!(agent.mode() & 0o777, 0o555);
            assert_eq!(agent.len(), AGENT.len() as u64);
        }
    }

    #[test]
    fn a_path_that_is_too_long_for_sockets_is_refused_at_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("a".repeat(100));
        let error = StateDir::claim(&long).expect_err("refused").to_string();
        assert!(error.contains("shorter data_dir"), "{error}");
    }
}
