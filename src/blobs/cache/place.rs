//! The directory of a cache: one of those numbered in `worker.cache_dir`, held by one worker at a time.
//!
//! | path | what |
//! | --- | --- |
//! | `<n>/.lock` | locked while its worker lives |
//! | `<n>/.new/<number>` | what is being downloaded; nothing of it outlives its download, nor a start |
//! | `<n>/<tenant>/<hex>-<number>` | a whole blob, as far as this machine kept it whole: what is found at a start is verified before its first use |

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};

use super::{
    CacheError,
    index::{Entry, Gone, Key},
};
use crate::submission::names::{Digest, Tenant};

/// More workers than this do not share a directory.
const MOST_PLACES: u32 = 1_024;

/// How much is hashed at a time.
const READ_BYTES: usize = 256 << 10;

/// Where what is being downloaded lies: no tenant has such a name.
const NEW: &str = ".new";

/// A cache's directory, held until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    _lock: File,
}

/// A file that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    pub(super) entry: Entry,
    used: SystemTime,
}

impl Place {
    /// Takes the first directory in `dir` that no live worker has.
    pub(super) fn claim(dir: &Path) -> Result<Self, CacheError> {
        make_dir(dir)?;
        for number in 0..MOST_PLACES {
            let root = dir.join(number.to_string());
            make_dir(&root)?;
            let path = root.join(".lock");
            let mut options = File::options();
            let options = options.create(true).truncate(false).write(true).mode(0o600);
            let lock = options.open(&path).naming("open", &path)?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { root, _lock: lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(source).naming("lock", &path),
            }
        }
        let many = io::Error::other(format!("{MOST_PLACES} workers share it already"));
        Err(many).naming("take a place in", dir)
    }

    /// What a former worker left whole, the least recently used first; the rest is removed.
    pub(super) fn find(&self) -> Result<Vec<Found>, CacheError> {
        let new = self.root.join(NEW);
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).naming("remove", &new);
            }
            _ => make_dir(&new)?,
        }
        let mut found = Vec::new();
        for directory in fs::read_dir(&self.root).naming("read", &self.root)? {
            let directory = directory.naming("read", &self.root)?;
            let name = directory.file_name();
            let Some(tenant) = name.to_str().and_then(|it| it.parse::<Tenant>().ok()) else {
                continue;
            };
            let path = directory.path();
            for file in fs::read_dir(&path).naming("read", &path)? {
                let path = file.naming("read", &path)?.path();
                match recognize(&tenant, &path) {
                    Some(file) => found.push(file),
                    None => fs::remove_file(&path).naming("remove", &path)?,
                }
            }
        }
        found.sort_by_key(|it| it.used);
        Ok(found)
    }

    /// Where the blob `key` lies, or is to lie, under this number.
    pub(super) fn path(&self, key: &Key, number: u64) -> PathBuf {
        let name = format!("{}-{number}", key.digest.hex());
        self.root.join(key.tenant.as_str()).join(name)
    }

    /// A new file to download to.
    pub(super) fn begin(&self, number: u64) -> Result<(File, Begun), CacheError> {
        let path = self.root.join(NEW).join(number.to_string());
        let file = File::options()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .naming("create", &path)?;
        Ok((file, Begun { path: Some(path) }))
    }

    /// Moves what was downloaded, and found right, to its place.
    pub(super) fn keep(
        &self,
        mut begun: Begun,
        key: &Key,
        number: u64,
    ) -> Result<PathBuf, CacheError> {
        let to = self.path(key, number);
        make_dir(&self.root.join(key.tenant.as_str()))?;
        if let Some(from) = begun.path.take() {
            let moved = fs::rename(&from, &to);
            if moved.is_err() {
                begun.path = Some(from);
            }
            moved.naming("move a download to", &to)?;
        }
        Ok(to)
    }

    /// Removes files. One that cannot be removed is found by the next start.
    pub(super) fn remove(&self, gone: &[Gone]) {
        for Gone { key, number } in gone {
            let path = self.path(key, *number);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(%error, path = %path.display(), "a file of the cache stays");
            }
        }
    }
}

/// What is being downloaded. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Begun {
    path: Option<PathBuf>,
}

impl Begun {
    /// Where it lies, for errors.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "a download that ended early stays until the next start");
        }
    }
}

/// The blob that a file of this name is, if it is one.
fn recognize(tenant: &Tenant, path: &Path) -> Option<Found> {
    let (hex, number) = path.file_name()?.to_str()?.split_once('-')?;
    let digest: Digest = format!("sha256:{hex}").parse().ok()?;
    let metadata = fs::symlink_metadata(path).ok()?;
    let tenant = tenant.clone();
    metadata.is_file().then(|| {
        Some(Found {
            key: Key { tenant, digest },
            entry: Entry {
                number: number.parse().ok()?,
                size: metadata.len(),
                verified: false,
            },
            used: metadata.modified().ok()?,
        })
    })?
}

/// Whether the file is the blob of this digest. Reads all of it.
pub(super) fn is_right(path: &Path, digest: &Digest) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let (mut sha256, mut buffer) = (Sha256::new(), vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => sha256.update(&buffer[..count]),
        }
    }
    Ok(Digest::of_hash(sha256) == *digest)
}

fn make_dir(path: &Path) -> Result<(), CacheError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.naming("create the directory", path)
}

/// Names the step and the path of a failed file operation.
pub(super) trait Naming<T> {
    fn naming(self, step: &'static str, path: &Path) -> Result<T, CacheError>;
}

impl<T> Naming<T> for io::Result<T> {
    fn naming(self, step: &'static str, path: &Path) -> Result<T, CacheError> {
        self.map_err(|source| CacheError::Disk {
            step,
            path: path.to_owned(),
            source: Arc::new(source),
        })
    }
}
