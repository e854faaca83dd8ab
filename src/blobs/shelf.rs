//! Where the uploads of a tenant lie, by name: `sha256/<hex>` the blobs, `cache/<hex>` the named entries.
//!
//! In NATS a name is written and removed by compare-and-set on its sequence, so a blob has one name, and a claim writes its
//! description anew. Another store has no compare-and-set for deletions and gets a new name for each upload, `sha256/<hex>/<id>`, which is never written again:
//! what the collector saw under a name is what it deletes, however long that takes. A blob that is claimed again is copied to a new
//! name, within the store. The id says when: a directory's copy is a link, as old as what it is a link to.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, UpdateVersion, path::Path,
};

use super::nats::{self, NatsObjects};
use crate::submission::{names::Digest, units::ByteSize};

/// What lies under a name of the store, as it was when it was looked at.
#[derive(Debug, Clone)]
pub struct Upload {
    /// What it is an upload of; `None` of a named entry.
    pub digest: Option<Digest>,
    /// Its size.
    pub size_bytes: ByteSize,
    /// When it was stored, or claimed the last time.
    pub stored_at: SystemTime,
    pub(super) meta: ObjectMeta,
}

impl Upload {
    fn of(meta: ObjectMeta, digest: Option<Digest>) -> Self {
        Self {
            digest,
            size_bytes: ByteSize(meta.size),
            stored_at: named_at(&meta).unwrap_or_else(|| meta.last_modified.into()),
            meta,
        }
    }

    /// How long ago it was stored or claimed; nothing where that is in the future.
    pub fn age(&self) -> Duration {
        self.stored_at.elapsed().unwrap_or_default()
    }
}

/// When a name of an upload was made; `None` of a name of another kind.
fn named_at(meta: &ObjectMeta) -> Option<SystemTime> {
    let id = uuid::Uuid::try_parse(meta.location.filename()?).ok()?;
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

/// One tenant's part of a store.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    pub(super) store: Arc<dyn ObjectStore>,
    root: Path,
    /// The same store, where it is a bucket of NATS.
    nats: Option<NatsObjects>,
}

impl Shelf {
    pub(super) fn nats(objects: NatsObjects) -> Self {
        Self {
            store: Arc::new(objects.clone()),
            root: Path::default(),
            nats: Some(objects),
        }
    }

    /// The bucket, where it is one of NATS.
    pub(super) fn bucket(&self) -> Option<&NatsObjects> {
        self.nats.as_ref()
    }

    pub(super) fn other(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        Self {
            store,
            root,
            nats: None,
        }
    }

    fn blobs(&self) -> Path {
        self.root.clone().join("sha256")
    }

    fn uploads(&self, digest: &Digest) -> Path {
        self.blobs().join(digest.hex())
    }

    /// The name of an entry.
    pub(super) fn entry(&self, key: &str) -> Path {
        self.root.clone().join("cache").join(key)
    }

    /// A name for a new upload of a blob.
    pub(super) fn name(&self, digest: &Digest) -> Path {
        if self.nats.is_some() {
            return self.uploads(digest);
        }
        self.uploads(digest)
            .join(uuid::Uuid::now_v7().simple().to_string())
    }

    /// How an upload is to be written of which nothing was there that can be claimed. A name in NATS is written once, so that nobody
    /// who reads has the bytes taken away; but what is there and is no such blob is replaced.
    pub(super) async fn mode(&self, digest: &Digest) -> object_store::Result<PutMode> {
        if self.nats.is_none() {
            return Ok(PutMode::Overwrite);
        }
        let found = self.find(digest).await?;
        Ok(found.map_or(PutMode::Create, |found| {
            PutMode::Update(UpdateVersion {
                e_tag: found.meta.e_tag,
                version: None,
            })
        }))
    }

    /// The newest upload of a blob.
    pub(super) async fn find(&self, digest: &Digest) -> object_store::Result<Option<Upload>> {
        if let Some(objects) = &self.nats {
            let entry = objects.entry(&self.uploads(digest)).await?;
            let meta = entry.as_ref().and_then(nats::meta);
            return Ok(meta.map(|meta| Upload::of(meta, Some(digest.clone()))));
        }
        let uploads = self.store.list(Some(&self.uploads(digest)));
        let newest = uploads.try_fold(None, |newest: Option<ObjectMeta>, meta| async move {
            Ok(match newest {
                // Names sort by the time at which they were made.
                Some(newest) if newest.location >= meta.location => Some(newest),
                _ => Some(meta),
            })
        });
        Ok(newest
            .await?
            .map(|meta| Upload::of(meta, Some(digest.clone()))))
    }

    /// Makes `upload` as young as if it were new; false where it is there no more.
    pub(super) async fn renew(&self, upload: &Upload) -> object_store::Result<bool> {
        if let Some(objects) = &self.nats {
            return objects.renew(&upload.meta).await;
        }
        let Some(digest) = &upload.digest else {
            return Ok(false);
        };
        match self
            .store
            .copy(&upload.meta.location, &self.name(digest))
            .await
        {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Every upload of a blob, in no order.
    pub(super) fn list(&self) -> BoxStream<'static, object_store::Result<Upload>> {
        let blobs = self.blobs();
        self.store
            .list(Some(&blobs.clone()))
            .try_filter_map(move |meta| {
                let digest = digest_of(&blobs, &meta.location);
                async move { Ok(digest.map(|digest| Upload::of(meta, Some(digest)))) }
            })
            .boxed()
    }

    /// Every named entry.
    pub(super) fn entries(&self) -> BoxStream<'static, object_store::Result<Upload>> {
        let entries = self.root.clone().join("cache");
        self.store
            .list(Some(&entries))
            .map_ok(|meta| Upload::of(meta, None))
            .boxed()
    }

    /// Removes `upload`, unless it was renewed since it was looked at.
    pub(super) async fn remove(&self, upload: &Upload) -> object_store::Result<bool> {
        if let Some(objects) = &self.nats {
            return objects.remove_seen(&upload.meta).await;
        }
        match self.store.delete(&upload.meta.location).await {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn digest_of(blobs: &Path, location: &Path) -> Option<Digest> {
    let hex = location.prefix_match(blobs)?.next()?;
    format!("sha256:{}", hex.as_ref()).parse().ok()
}
