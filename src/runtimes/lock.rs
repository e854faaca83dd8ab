//! One preparation of an image at a time on a machine: a lock file for each, in the working directory, held by whichever
//! process prepares. The kernel frees it when its holder is gone, so who holds the lock knows that everything labelled or
//! named with it was left by a dead one. Processes with different working directories don't see each other: both make the
//! image, and the first one that is there is used.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{error::RuntimeError, progress::Log};

const POLL: Duration = Duration::from_millis(200);

/// A held lock; dropping it frees it.
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock `name` of `work_dir`, waiting for others up to `timeout`.
    pub(super) async fn take(
        work_dir: &Path,
        name: &str,
        timeout: Duration,
        log: &mut Log<'_>,
    ) -> Result<Self, RuntimeError> {
        let (file, path) = open(work_dir, name)?;
        let deadline = tokio::time::Instant::now() + timeout;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file, path }),
                Err(TryLockError::Error(source)) => {
                    return Err(RuntimeError::WorkDir { path, source });
                }
                Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(RuntimeError::Timeout {
                        what: format!("{name}, which another one prepares"),
                        after: timeout,
                        log: log.tail(),
                    });
                }
            }
            if !told {
                log.step(format!("{name}: waiting for the one that prepares it"));
                told = true;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The lock's file: what its holder makes is labelled with it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The lock for a child process: it stays held until that one is gone too, even when this process is killed.
    pub(super) fn shared(&self) -> Result<File, RuntimeError> {
        self.file
            .try_clone()
            .map_err(|source| RuntimeError::WorkDir {
                path: self.path.clone(),
                source,
            })
    }
}

fn open(work_dir: &Path, name: &str) -> Result<(File, PathBuf), RuntimeError> {
    let locks = work_dir.join("locks");
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| RuntimeError::WorkDir { path, source }
    };
    std::fs::create_dir_all(&locks).map_err(failed(&locks))?;
    // Labels hold the path: it has to be the same however the directory was named.
    let path = locks
        .canonicalize()
        .map_err(failed(&locks))?
        .join(format!("{name}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(&path)
        .map_err(failed(&path))?;
    Ok((file, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_until_the_first_is_done() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = Log::new(&|_| ());
        let timeout = Duration::from_millis(300);
        let first = Lock::take(dir.path(), "x@1", timeout, &mut log)
            .await
            .expect("free");
        let second = Lock::take(dir.path(), "x@1", timeout, &mut log).await;
        assert!(matches!(second, Err(RuntimeError::Timeout { .. })));
        drop(first);
        Lock::take(dir.path(), "x@1", timeout, &mut log)
            .await
            .expect("free again");
    }
}
