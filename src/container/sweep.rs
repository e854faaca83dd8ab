//! Removes what dead workers of this host left. Labels on a container name its host, its worker and the worker's lock file;
//! the kernel drops a lock with the process that holds it, so a lock that can be taken is a dead worker's.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::models::ContainerSummary;
use futures_util::{StreamExt, stream};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    ContainerError,
    engine::{Engine, Removal},
    error::Naming,
    state_dir::{LOCK, StateDir, remove_worker_dir},
    uids::Uids,
};

/// Marks every container of ours.
const LABEL: &str = "envicutor";
/// The host that a container's worker runs on.
const HOST: &str = "envicutor.host";
/// The worker's id.
pub(crate) const WORKER: &str = "envicutor.worker";
/// The worker's lock file.
const LOCK_FILE: &str = "envicutor.lock";
/// The container's host uid.
const UID: &str = "envicutor.uid";

/// Removals at a time.
const AT_A_TIME: usize = 4;

/// Tries for each container, and the wait between them.
const TRIES: (u32, Duration) = (20, Duration::from_millis(250));

/// A directory without a lock file that is younger may be one that a worker just makes.
const YOUNG: Duration = Duration::from_mins(1);

/// The labels of a worker's containers.
#[derive(Debug, Clone)]
pub(super) struct Labels(BTreeMap<&'static str, String>);

impl Labels {
    pub(super) fn new(host: &str, worker: &str, lock_file: &Path) -> Self {
        Self(BTreeMap::from([
            (LABEL, "1".to_owned()),
            (HOST, host.to_owned()),
            (WORKER, worker.to_owned()),
            (LOCK_FILE, lock_file.to_string_lossy().into_owned()),
        ]))
    }

    /// The labels of the container with this uid.
    pub(super) fn of(&self, uid: u32) -> HashMap<String, String> {
        let mut labels = self.of_helper();
        labels.insert(UID.to_owned(), uid.to_string());
        labels
    }

    /// The labels of a helper, which has no uid of its own.
    pub(super) fn of_helper(&self) -> HashMap<String, String> {
        let shared = self.0.iter();
        shared
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect()
    }

    /// Whether `container` is this worker's, or a dead one's of this host.
    pub(super) fn are_of_own_or_dead(&self, container: &ContainerSummary) -> bool {
        let label = |name| container.labels.as_ref().and_then(|it| it.get(name));
        let own = |name| self.0.get(name);
        // The lock of another host's worker says nothing here.
        label(HOST) == own(HOST)
            && label(LOCK_FILE).is_some_and(|lock| {
                Some(lock) == own(LOCK_FILE) || Owners::new(Path::new("")).lock(Path::new(lock))
            })
    }
}

/// Removes the containers of this host's dead workers, and of this worker's former life, and dead workers' directories beside
/// its own. A container that cannot be removed keeps its uid out of `uids`.
pub(super) async fn sweep(
    engine: &Engine,
    host: &str,
    state_dir: &StateDir,
    uids: &Uids,
) -> Result<(), ContainerError> {
    let filter = vec![format!("{LABEL}=1"), format!("{HOST}={host}")];
    let mut owners = Owners::new(state_dir.lock_file());
    let mut left = Vec::new();
    for container in engine.list(filter).await? {
        if owners.is_dead(&container) {
            left.push(container);
        } else if uid(&container).is_some_and(|uid| uids.contain(uid)) {
            warn!(
                container = container.id,
                "another worker of this host uses the same uids: the kernel counts processes and pipes for each uid. Give \
                 each worker a range of its own with container.uid_first"
            );
        }
    }
    stream::iter(&left)
        .for_each_concurrent(AT_A_TIME, |container| remove(engine, container, uids))
        .await;
    state_dir.clear_sockets()?;
    remove_directories(state_dir, &mut owners)
}

/// The workers that were met, by their lock files.
struct Owners<'a> {
    own: &'a Path,
    /// Held until the sweep is over, so that no other worker's sweep does the same, or takes the directory over meanwhile.
    dead: HashMap<PathBuf, Option<File>>,
}

impl<'a> Owners<'a> {
    fn new(own: &'a Path) -> Self {
        Self {
            own,
            dead: HashMap::new(),
        }
    }

    fn is_dead(&mut self, container: &ContainerSummary) -> bool {
        let labels = container.labels.as_ref();
        match labels.and_then(|labels| labels.get(LOCK_FILE)) {
            // The lock is ours: whatever the Engine has of this worker is of a former life.
            Some(lock) if Path::new(lock) == self.own => true,
            Some(lock) => self.lock(Path::new(lock)),
            None => false,
        }
    }

    /// Whether the lock file at `path` is a dead worker's.
    fn lock(&mut self, path: &Path) -> bool {
        if self.dead.contains_key(path) {
            return true;
        }
        let held = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                warn!(%error, lock = %path.display(), "a worker's lock file cannot be opened: it is taken for alive");
                return false;
            }
            Ok(file) => match file.try_lock() {
                Ok(()) => Some(file),
                Err(TryLockError::WouldBlock) => return false,
                Err(TryLockError::Error(error)) => {
                    warn!(%error, lock = %path.display(), "a worker's lock cannot be tried: it is taken for alive");
                    return false;
                }
            },
        };
        self.dead.insert(path.to_owned(), held);
        true
    }
}

async fn remove(engine: &Engine, container: &ContainerSummary, uids: &Uids) {
    let name = container.id.as_deref().unwrap_or_default();
    for _ in 0..TRIES.0 {
        match engine.remove(name).await {
            Ok(Removal::Removed | Removal::Absent) => {
                info!(container = name, "removed what a dead worker left");
                return;
            }
            Ok(Removal::Underway) => {}
            Err(error) => {
                warn!(%error, container = name, "a dead worker's container is not removed yet");
            }
        }
        sleep(TRIES.1).await;
    }
    let uid = uid(container);
    if let Some(uid) = uid {
        uids.reserve(uid);
    }
    warn!(
        container = name,
        uid, "a dead worker's container stays; its uid is not used. Remove it by `docker rm -f`"
    );
}

/// The host uid of a container.
fn uid(container: &ContainerSummary) -> Option<u32> {
    container.labels.as_ref()?.get(UID)?.parse().ok()
}

/// Removes the directories of dead workers beside `own`.
fn remove_directories(own: &StateDir, owners: &mut Owners<'_>) -> Result<(), ContainerError> {
    let Some(workers) = own.path().parent() else {
        return Ok(());
    };
    for entry in fs::read_dir(workers).naming("read the directory", workers)? {
        let path = entry.naming("read the directory", workers)?.path();
        if path == own.path() || !path.is_dir() {
            continue;
        }
        // An empty one is nobody's: of a worker that died before it took its lock, or of one that is about to, and makes it anew.
        if fs::remove_dir(&path).is_ok() {
            continue;
        }
        let lock = path.join(LOCK);
        let dead = if lock.exists() {
            owners.lock(&lock)
        } else {
            holds_a_worker(&path) && !is_young(&path)
        };
        if dead && let Err(error) = remove_worker_dir(&path) {
            warn!(%error, "a dead worker's directory stays behind");
        }
    }
    Ok(())
}

/// Whether a directory without a lock file is a worker's at all: never remove what somebody else keeps there.
fn holds_a_worker(path: &Path) -> bool {
    path.join("agent").exists() && path.join("c").is_dir()
}

fn is_young(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    // One from the future says that the clock was set back.
    modified.is_ok_and(|at| at.elapsed().map_or(true, |age| age < YOUNG))
}
