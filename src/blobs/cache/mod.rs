//! A worker's cache of blobs on its disk: bounded by bytes, the least recently used goes first, shared by all slots.
//!
//! | | |
//! | --- | --- |
//! | [`index`] | what is there, what is pinned, what goes next |
//! | [`place`] | the directory: names, downloads, what is left after a crash |
//!
//! Who uses blobs takes [`Room`] for all that are held at a time, in one step, and fetches them within it. So what is pinned never
//! exceeds the cache, something can always go for a download, and no two wait for what the other one holds.
//!
//! The invariant: what is served has the digest that it is named by. A download lies elsewhere until its end has been seen to be
//! right, and what a former process left (after a power cut that may be anything) is read whole before its first use.

mod index;
mod place;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::{
    io::AsyncWriteExt as _,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::BlobError;
use crate::submission::{content::Blob, names::Tenant, units::ByteSize};
use index::{BLOCK, Entry, Gone, Index, Key, footprint};
use place::{Begun, Naming as _, Place};

/// Room is counted in blocks of the disk: a semaphore hands out 2^32 at a time, 16 TiB.
const UNIT: u64 = BLOCK;

/// A full disk has this part of the cache go at least.
const SHRINK: u64 = 8;

/// The bytes of a blob as they come from a store, in order. They end with an error where they are not the blob's.
pub type Incoming<'a> = BoxStream<'a, Result<Bytes, BlobError>>;

/// Where blobs that are not in the cache come from.
pub trait Origin: Send + Sync {
    /// Whose blobs they are.
    fn tenant(&self) -> &Tenant;

    /// Begins to read a blob.
    fn read<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<Incoming<'a>, BlobError>>;
}

/// A blob could not be had from the cache.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheError {
    /// The store did not give it. Shared by all that waited for the same download.
    #[error(transparent)]
    Store(Arc<BlobError>),
    /// What came is not as long as the blob is said to be.
    #[error("{} is said to have {} bytes, and {came} came", blob.digest, blob.size_bytes.0)]
    Length {
        /// Which.
        blob: Blob,
        /// How many came, as far as they were taken.
        came: u64,
    },
    /// This machine's disk.
    #[error("the cache of blobs cannot {step} {}: {source}", path.display())]
    Disk {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// More is needed at a time than the cache may ever hold.
    #[error(
        "it needs {need} of blobs at a time, and this worker's cache holds {most} (worker.cache_bytes)"
    )]
    TooLarge {
        /// What is needed, in whole blocks of the disk.
        need: ByteSize,
        /// What there is.
        most: ByteSize,
    },
}

impl CacheError {
    fn is_full_disk(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Disk { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// The cache of one worker.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    most: ByteSize,
    room: Arc<Semaphore>,
    index: Mutex<Index>,
    gates: Mutex<HashMap<Key, Arc<Gate>>>,
}

/// Where those who want the same blob wait for each other.
#[derive(Debug, Default)]
struct Gate {
    turn: tokio::sync::Mutex<()>,
    failed: Mutex<Failed>,
}

/// How often a download failed, and how it did the last time.
#[derive(Debug, Default)]
struct Failed {
    times: u64,
    last: Option<CacheError>,
}

/// Room for all blobs that somebody holds at a time.
#[derive(Debug, Clone)]
pub struct Room {
    cache: Cache,
    held: Arc<OwnedSemaphorePermit>,
}

/// A blob that lies in the cache at least as long as this does.
#[derive(Debug)]
pub struct Cached {
    cache: Cache,
    key: Key,
    entry: Entry,
    path: PathBuf,
    _room: Arc<OwnedSemaphorePermit>,
}

impl Cache {
    /// Takes a place of its own in `directory` (workers of one machine may share that), with what a former worker left there.
    pub async fn open(directory: &Path, most: ByteSize) -> Result<Self, CacheError> {
        let directory = directory.to_owned();
        blocking(move || Self::open_now(&directory, most)).await
    }

    fn open_now(directory: &Path, most: ByteSize) -> Result<Self, CacheError> {
        let place = Place::claim(directory)?;
        let found = place.find()?;
        let numbers = found.iter().map(|it| it.entry.number);
        let mut index = Index::new(most.0, numbers.max().map_or(0, |it| it + 1));
        let mut gone = Vec::new();
        for it in found {
            let number = it.entry.number;
            if !index.add_found(it.key.clone(), it.entry) {
                gone.push(Gone {
                    key: it.key,
                    number,
                });
            }
        }
        gone.extend(index.reserve(0));
        place.remove(&gone);
        Ok(Self(Arc::new(Inner {
            place,
            most,
            room: Arc::new(Semaphore::new(units(most.0) as usize)),
            index: Mutex::new(index),
            gates: Mutex::default(),
        })))
    }

    /// Waits until so much can be held at a time, which is what [`need`] says of blobs.
    #[allow(
        clippy::missing_panics_doc,
        reason = "it cannot: the semaphore is never closed"
    )]
    pub async fn room(&self, need: ByteSize) -> Result<Room, CacheError> {
        let most = self.0.most;
        if need.0.div_ceil(UNIT) > u64::from(units(most.0)) {
            return Err(CacheError::TooLarge { need, most });
        }
        let room = Arc::clone(&self.0.room);
        let held = room
            .acquire_many_owned(units(need.0))
            .await
            .expect("the semaphore of a cache is never closed");
        Ok(Room {
            cache: self.clone(),
            held: Arc::new(held),
        })
    }

    /// How much can be held at a time.
    pub fn most(&self) -> ByteSize {
        self.0.most
    }

    /// Whether files can be written here at all.
    pub async fn probe(&self) -> Result<(), CacheError> {
        let cache = self.clone();
        blocking(move || {
            let number = cache.index().next_number();
            let (mut file, begun) = cache.0.place.begin(number)?;
            std::io::Write::write_all(&mut file, &[1; 4_096]).naming("write", begun.path())
        })
        .await
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn remove(&self, gone: Vec<Gone>) -> Result<(), CacheError> {
        if gone.is_empty() {
            return Ok(());
        }
        let cache = self.clone();
        // A large file takes the disk a while.
        blocking(move || {
            cache.0.place.remove(&gone);
            Ok(())
        })
        .await
    }
}

impl Room {
    /// The blob, from the disk or else from `origin`. Who wants one that is being fetched waits for that, and hears how it failed;
    /// where whoever fetched it gave up, goes on in its place.
    pub async fn fetch(&self, origin: &dyn Origin, blob: &Blob) -> Result<Cached, CacheError> {
        let key = Key {
            tenant: origin.tenant().clone(),
            digest: blob.digest.clone(),
        };
        if let Some(cached) = self.pin(&key, blob).filter(|it| it.entry.verified) {
            return Ok(cached);
        }
        let gate = AtGate::of(&self.cache, &key);
        let failures = gate.failed().times;
        let _turn = gate.gate.turn.lock().await;
        if let Some(error) = gate.failed().since(failures) {
            return Err(error);
        }
        let fetched = self.fetch_in_turn(origin, &key, blob).await;
        if let Err(error) = &fetched {
            let mut failed = gate.failed();
            failed.times += 1;
            failed.last = Some(error.clone());
        }
        fetched
    }

    async fn fetch_in_turn(
        &self,
        origin: &dyn Origin,
        key: &Key,
        blob: &Blob,
    ) -> Result<Cached, CacheError> {
        if let Some(cached) = self.pin(key, blob) {
            if cached.entry.verified || self.verify(&cached).await {
                return Ok(cached);
            }
            let number = cached.entry.number;
            tracing::warn!(digest = %blob.digest, "a file of the cache is not what it was: it is fetched again");
            self.cache.index().remove(key, number);
            let key = key.clone();
            self.cache.remove(vec![Gone { key, number }]).await?;
        }
        let cut = self.cache.index().remove_cut(key, blob.size_bytes.0);
        if let Some(number) = cut {
            let key = key.clone();
            self.cache.remove(vec![Gone { key, number }]).await?;
        }
        loop {
            let error = match self.download(origin, key, blob).await {
                Err(error) if error.is_full_disk() => error,
                ended => return ended,
            };
            // The disk may be smaller than the cache was allowed to be, or be filled by others.
            let least = footprint(blob.size_bytes.0).max(self.cache.0.most.0 / SHRINK);
            let gone = self.cache.index().shrink(least);
            if gone.is_empty() {
                return Err(error);
            }
            tracing::warn!(%error, files = gone.len(), "the disk is full: the cache becomes smaller");
            self.cache.remove(gone).await?;
        }
    }

    /// What is there, pinned; its file is known to exist.
    fn pin(&self, key: &Key, blob: &Blob) -> Option<Cached> {
        let entry = self.cache.index().pin(key, blob.size_bytes.0)?;
        let cached = self.cached(key.clone(), entry);
        let found = std::fs::File::open(cached.path());
        // What is used now is to be the last to go after a start, too. Where that cannot be noted, it is not.
        let noted = found.map(|file| file.set_modified(SystemTime::now()));
        if noted.is_err() {
            // Somebody removed it.
            self.cache.index().remove(key, entry.number);
        }
        noted.is_ok().then_some(cached)
    }

    fn cached(&self, key: Key, entry: Entry) -> Cached {
        Cached {
            cache: self.cache.clone(),
            path: self.cache.0.place.path(&key, entry.number),
            key,
            entry,
            _room: Arc::clone(&self.held),
        }
    }

    async fn verify(&self, cached: &Cached) -> bool {
        let (path, digest) = (cached.path.clone(), cached.key.digest.clone());
        let read = tokio::task::spawn_blocking(move || place::is_right(&path, &digest));
        let is_right = matches!(read.await, Ok(Ok(true)));
        if is_right {
            let mut index = self.cache.index();
            index.verified(&cached.key, cached.entry.number);
        }
        is_right
    }

    async fn download(
        &self,
        origin: &dyn Origin,
        key: &Key,
        blob: &Blob,
    ) -> Result<Cached, CacheError> {
        let size = blob.size_bytes.0;
        let mut reserved = Reserved {
            cache: &self.cache,
            bytes: footprint(size),
        };
        let (number, gone) = {
            let mut index = self.cache.index();
            (index.next_number(), index.reserve(reserved.bytes))
        };
        self.cache.remove(gone).await?;
        let (file, begun) = self.cache.0.place.begin(number)?;
        receive(origin, blob, file, &begun).await?;
        self.cache.0.place.keep(begun, key, number)?;
        // No await from here on: what lies in its place is in the index.
        let entry = Entry {
            number,
            size,
            verified: true,
        };
        if self.cache.index().add_pinned(key.clone(), entry) {
            reserved.bytes = 0;
            return Ok(self.cached(key.clone(), entry));
        }
        // Of another size, which cannot be: both were seen to have this digest.
        let key = key.clone();
        self.cache.0.place.remove(&[Gone { key, number }]);
        Err(CacheError::Length {
            blob: blob.clone(),
            came: size,
        })
    }
}

/// Writes the blob to `file` as it comes. No more than its size is ever written.
async fn receive(
    origin: &dyn Origin,
    blob: &Blob,
    file: std::fs::File,
    begun: &Begun,
) -> Result<(), CacheError> {
    let store = |error| CacheError::Store(Arc::new(error));
    let mut incoming = origin.read(blob).await.map_err(store)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut came = 0_u64;
    while let Some(bytes) = incoming.next().await {
        let bytes = bytes.map_err(store)?;
        came = came.saturating_add(bytes.len() as u64);
        if came > blob.size_bytes.0 {
            break;
        }
        let written = file.write_all(&bytes).await;
        written.naming("write", begun.path())?;
    }
    file.flush().await.naming("write", begun.path())?;
    if came != blob.size_bytes.0 {
        let blob = blob.clone();
        return Err(CacheError::Length { blob, came });
    }
    Ok(())
}

impl Cached {
    /// Its size in bytes.
    pub fn size(&self) -> ByteSize {
        ByteSize(self.entry.size)
    }

    /// Where it lies. Of many blobs that are held not one takes a descriptor.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        self.cache.index().unpin(&self.key, self.entry.number);
    }
}

/// What a download will take of the cache, until it is an entry.
struct Reserved<'a> {
    cache: &'a Cache,
    bytes: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.cache.index().release(self.bytes);
    }
}

/// Somebody at a gate. The gate goes with the last one.
struct AtGate<'a> {
    cache: &'a Cache,
    key: &'a Key,
    gate: Arc<Gate>,
}

impl<'a> AtGate<'a> {
    fn of(cache: &'a Cache, key: &'a Key) -> Self {
        let gate = Arc::clone(gates(cache).entry(key.clone()).or_default());
        Self { cache, key, gate }
    }

    fn failed(&self) -> MutexGuard<'_, Failed> {
        let failed = self.gate.failed.lock();
        failed.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AtGate<'_> {
    fn drop(&mut self) {
        let mut gates = gates(self.cache);
        // Of the map and of this: under the lock nobody else comes.
        if Arc::strong_count(&self.gate) <= 2 {
            gates.remove(self.key);
        }
    }
}

impl Failed {
    /// How it failed since it had failed so many times.
    fn since(&self, times: u64) -> Option<CacheError> {
        self.last.clone().filter(|_| self.times > times)
    }
}

fn gates(cache: &Cache) -> MutexGuard<'_, HashMap<Key, Arc<Gate>>> {
    cache.0.gates.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `blobs` take of a cache together, each counted once.
pub fn need<'a>(blobs: impl IntoIterator<Item = &'a Blob>) -> ByteSize {
    let mut seen = HashSet::new();
    let once = blobs.into_iter().filter(|blob| seen.insert(&blob.digest));
    let bytes = once.map(|blob| footprint(blob.size_bytes.0));
    ByteSize(bytes.fold(0, u64::saturating_add))
}

/// The most that so many blobs may take of a cache which have no more than `bytes` together.
pub fn most_need(blobs: usize, bytes: ByteSize) -> ByteSize {
    let blocks = (blobs as u64).saturating_mul(BLOCK);
    ByteSize(bytes.0.saturating_add(blocks))
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / UNIT).unwrap_or(u32::MAX)
}

/// Runs what works on files on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, CacheError> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("work on the files of a cache does not panic")
}

#[cfg(test)]
mod tests;
