//! The collector: removes what nothing refers to any more and what nobody claimed for `blobs.grace_us`.
//!
//! | | |
//! | --- | --- |
//! | [`Collector::take_turn`] | one collection at a time over the fleet, and one each `blobs.gc_us` |
//! | `references` | reads what may refer to a blob: queue, dead letters, results, history, catalogue, compile cache |
//!
//! One tenant after the other: first what is old enough is listed, then everything that may refer to it is read, and what was found
//! to be referred to is taken from the list. So memory is bounded by the list, and where nothing is old nothing is read. What is left
//! is removed by compare-and-set on what was seen: a claim since then wins.
//!
//! The invariant: what was claimed less than `blobs.grace_us` ago, or is referred to, is never removed. A claim holds for half of
//! that; whoever claims publishes within it, so that the reference stands before the blob is old.

mod references;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use futures_util::TryStreamExt as _;
use serde::Serialize;

use super::{Blobs, Store, Upload, error::BlobError};
use crate::{
    bus::{
        Bus,
        api::ApiError,
        leases::{Leases, Taken},
    },
    config::Config,
    submission::{
        names::{Digest, Tenant},
        units::ByteSize,
    },
};

/// The old uploads that are looked at together.
const MOST: usize = 50_000;

/// The lease of the collector, and how long it holds that is not renewed: a holder that dies is in nobody's way for longer.
const LEASE: &str = "blobs";
const LEASE_HOLDS: Duration = Duration::from_mins(10);

/// How long chunks are left alone that nothing describes. An upload that still goes on has younger ones.
const UNFINISHED: Duration = Duration::from_hours(1);

/// What came of a turn to collect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It was ours; what was found and done, for each tenant.
    Ours(Vec<Collected>),
    /// Another program collects.
    Held {
        /// Which.
        holder: String,
    },
    /// It was done less than `blobs.gc_us` ago.
    Done,
}

/// A collection stopped.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// What may refer to blobs cannot be read.
    #[error("what refers to blobs cannot be read: {0}")]
    Api(#[from] ApiError),
    /// The store cannot be read, or nothing be removed from it.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

/// What a collection found and did with a tenant's blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Whose they are.
    pub tenant: Tenant,
    /// The uploads that there were.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: ByteSize,
    /// Those of them that were removed, or would be.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: ByteSize,
    /// Those that were claimed while it was looked at what refers to them.
    pub claimed: u64,
    /// Entries of the compile cache that nobody used, removed or to be.
    pub entries: u64,
    /// Uploads that were never finished, removed or to be.
    pub unfinished: u64,
}

impl Collected {
    fn of(tenant: &Tenant) -> Self {
        Self {
            tenant: tenant.clone(),
            blobs: 0,
            bytes: ByteSize(0),
            removed: 0,
            removed_bytes: ByteSize(0),
            claimed: 0,
            entries: 0,
            unfinished: 0,
        }
    }
}

/// A collector of a fleet.
#[derive(Debug, Clone)]
pub struct Collector {
    bus: Bus,
    store: Store,
    grace: Duration,
    cache_age: Duration,
    is_dry: bool,
}

impl Collector {
    /// Over `bus`, which may read every stream: a worker's or an operator's.
    pub fn new(bus: &Bus, store: &Store, config: &Config) -> Self {
        Self {
            bus: bus.clone(),
            store: store.clone(),
            grace: config.blobs.grace_us.duration(),
            cache_age: config.blobs.cache_age_us.duration(),
            is_dry: false,
        }
    }

    /// The same, removing nothing.
    #[must_use]
    pub fn dry(mut self) -> Self {
        self.is_dry = true;
        self
    }

    /// Collects what is the `tenants'`, one after the other, unless another program does, or did within `every`. `holder` says who we
    /// are.
    pub async fn take_turn(
        &self,
        tenants: &[Tenant],
        holder: &str,
        every: Duration,
    ) -> Result<Turn, CollectError> {
        let leases = Leases::new(&self.bus);
        let mut lease = match leases.take(LEASE, holder, LEASE_HOLDS, every).await? {
            Taken::Ours(lease) => lease,
            Taken::Held { holder } => return Ok(Turn::Held { holder }),
            Taken::Done => return Ok(Turn::Done),
        };
        let mut all = Vec::new();
        for tenant in tenants {
            match self.collect(tenant).await {
                Ok(collected) => all.push(collected),
                Err(error) => {
                    // The next one tries again at once; where that cannot be said, when the lease is over.
                    let _ = lease.give_back(false).await;
                    return Err(error);
                }
            }
            if !lease.renew().await? {
                return Ok(Turn::Ours(all));
            }
        }
        lease.give_back(!self.is_dry).await?;
        Ok(Turn::Ours(all))
    }

    /// Collects what is a tenant's.
    pub async fn collect(&self, tenant: &Tenant) -> Result<Collected, CollectError> {
        let blobs = self.store.of(tenant);
        let mut collected = Collected::of(tenant);
        self.forget_entries(&blobs, &mut collected).await?;
        let part = self.look(&blobs, Part::ALL, &mut collected).await?;
        let parts = part.count.div_ceil(MOST);
        if parts == 1 {
            self.remove(&blobs, part, &mut collected).await?;
        } else {
            for number in 0..parts {
                let mut counted = Collected::of(tenant);
                let part = self
                    .look(&blobs, Part { number, parts }, &mut counted)
                    .await?;
                self.remove(&blobs, part, &mut collected).await?;
            }
        }
        collected.unfinished = self.clear_unfinished(&blobs).await?;
        Ok(collected)
    }

    /// Lists what is old of a part of the blobs.
    async fn look(
        &self,
        blobs: &Blobs,
        part: Part,
        collected: &mut Collected,
    ) -> Result<Old, CollectError> {
        let now = SystemTime::now();
        let mut old = Old::default();
        let mut uploads = blobs.uploads();
        while let Some(upload) = uploads.try_next().await? {
            collected.blobs += 1;
            collected.bytes.0 += upload.size_bytes.0;
            let Some(digest) = upload.digest.clone().filter(|digest| part.has(digest)) else {
                continue;
            };
            let age = now.duration_since(upload.stored_at).unwrap_or_default();
            if age > self.grace {
                old.add(digest, upload);
            } else {
                old.has_younger(digest);
            }
        }
        Ok(old)
    }

    /// Removes what nothing refers to of what is old.
    async fn remove(
        &self,
        blobs: &Blobs,
        mut old: Old,
        collected: &mut Collected,
    ) -> Result<(), CollectError> {
        if old.count == 0 {
            return Ok(());
        }
        references::each(&self.bus, blobs, |digest| old.keep(digest)).await?;
        for upload in old.into_removable() {
            if !self.is_dry && !blobs.remove(&upload).await? {
                collected.claimed += 1;
                continue;
            }
            collected.removed += 1;
            collected.removed_bytes.0 += upload.size_bytes.0;
        }
        Ok(())
    }

    /// Removes the entries of the compile cache that nobody used.
    async fn forget_entries(
        &self,
        blobs: &Blobs,
        collected: &mut Collected,
    ) -> Result<(), CollectError> {
        let mut entries = blobs.entries();
        while let Some(entry) = entries.try_next().await? {
            if entry.age() > self.cache_age && (self.is_dry || blobs.remove(&entry).await?) {
                collected.entries += 1;
            }
        }
        Ok(())
    }

    /// Removes what was sent of uploads that were never finished, where the store keeps that beside the blobs; how many.
    async fn clear_unfinished(&self, blobs: &Blobs) -> Result<u64, CollectError> {
        let Some(objects) = blobs.shelf.bucket() else {
            return Ok(0);
        };
        let bucket = objects.bucket();
        let mut loose: HashSet<String> = bucket.nuids().await?;
        // After the list: what is finished meanwhile is described by now.
        let mut entries = bucket.entries().await?;
        while let Some(entry) = entries.next().await? {
            loose.remove(&entry.info.nuid);
        }
        let mut cleared = 0;
        for nuid in loose {
            let last = bucket.last_chunk(&nuid).await?;
            let Some((_, stored_at)) = last else { continue };
            let age = SystemTime::from(stored_at).elapsed().unwrap_or_default();
            if age > self.grace.min(UNFINISHED) {
                if !self.is_dry {
                    bucket.purge(&nuid).await?;
                }
                cleared += 1;
            }
        }
        Ok(cleared)
    }
}

/// A part of all digests, by their first digits: what is too much for memory is looked at in parts.
#[derive(Debug, Clone, Copy)]
struct Part {
    number: usize,
    parts: usize,
}

impl Part {
    const ALL: Self = Self {
        number: 0,
        parts: 1,
    };

    fn has(self, digest: &Digest) -> bool {
        let first = usize::from_str_radix(&digest.hex()[..6], 16);
        first.is_ok_and(|first| first % self.parts == self.number)
    }
}

/// The uploads that are old enough to go.
#[derive(Debug, Default)]
struct Old {
    /// As many as are held in memory.
    uploads: HashMap<Digest, Vec<Upload>>,
    /// How many there are.
    count: usize,
    /// Blobs that have an upload that is not old.
    younger: HashSet<Digest>,
    /// Blobs that something refers to.
    kept: HashSet<Digest>,
}

impl Old {
    fn add(&mut self, digest: Digest, upload: Upload) {
        self.count += 1;
        // Parts are even but for chance.
        if self.count <= 2 * MOST {
            self.uploads.entry(digest).or_default().push(upload);
        }
    }

    fn has_younger(&mut self, digest: Digest) {
        if self.younger.len() < MOST {
            self.younger.insert(digest);
        }
    }

    /// Something refers to `digest`.
    fn keep(&mut self, digest: Digest) {
        if self.uploads.contains_key(&digest) {
            self.kept.insert(digest);
        }
    }

    /// All uploads of what nothing refers to, and of what something refers to all but the newest.
    fn into_removable(self) -> impl Iterator<Item = Upload> {
        let Self {
            uploads,
            younger,
            kept,
            ..
        } = self;
        uploads.into_iter().flat_map(move |(digest, mut uploads)| {
            if kept.contains(&digest) && !younger.contains(&digest) {
                uploads.sort_by(|a, b| a.meta.location.cmp(&b.meta.location));
                uploads.pop();
            }
            uploads
        })
    }
}
