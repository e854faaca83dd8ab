//! One tenant's blobs: claimed, put, and read by their content; and the small entries of the compile cache, by name.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use object_store::{ObjectStoreExt as _, PutPayload, path::Path};
use tokio::{io::AsyncRead, time::timeout};

use super::{
    download::{self, Chunks},
    error::BlobError,
    shelf::{Shelf, Upload},
    store::Bounds,
    upload,
};
use crate::{
    bus::outage::Backoff,
    submission::{
        content::Blob,
        names::{Digest, Tenant},
        units::ByteSize,
    },
};

/// Told how many bytes of an upload are stored so far.
pub type Progress<'a> = dyn Fn(u64) + Send + Sync + 'a;

/// What lies in a store, one after the other.
pub type Uploads = BoxStream<'static, Result<Upload, BlobError>>;

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was stored.
    Uploaded,
    /// It was there already; nothing was sent.
    AlreadyThere,
}

/// The blobs of one tenant. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    tenant: Tenant,
    pub(super) shelf: Shelf,
    pub(super) bounds: Bounds,
}

impl Blobs {
    pub(super) fn new(tenant: &Tenant, shelf: Shelf, bounds: Bounds) -> Self {
        Self {
            tenant: tenant.clone(),
            shelf,
            bounds,
        }
    }

    /// Whose they are.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Whether it is there whole, by its size. What is there is kept for half of `blobs.grace_us` at least: whoever refers to it
    /// publishes within that time.
    pub async fn claim(&self, blob: &Blob) -> Result<bool, BlobError> {
        self.patiently(|| async {
            let found = self
                .within("a look-up", self.shelf.find(&blob.digest))
                .await;
            let found = found?.map_err(BlobError::of_store)?;
            let Some(found) = found.filter(|found| found.size_bytes == blob.size_bytes) else {
                return Ok(false);
            };
            if found.age() < self.bounds.grace / 2 {
                return Ok(true);
            }
            let renewed = self.within("a claim", self.shelf.renew(&found)).await;
            renewed?.map_err(BlobError::of_store)
        })
        .await
    }

    /// Uploads what `source` gives, unless the blob is there already. Digest and size are checked on the way: other bytes are
    /// `Corrupt`, and nothing is visible. `source` is read once, so that an outage in the middle ends the upload; see
    /// [`put_again`](Self::put_again).
    pub async fn put(
        &self,
        blob: &Blob,
        source: impl AsyncRead + Send + Unpin,
        progress: &Progress<'_>,
    ) -> Result<Put, BlobError> {
        if self.claim(blob).await? {
            progress(blob.size_bytes.0);
            return Ok(Put::AlreadyThere);
        }
        upload::put(self, blob, source, progress).await
    }

    /// [`put`](Self::put), tried again from the start while the store is away, for `blobs.outage_timeout_us` without a success.
    /// `open` gives the same bytes each time.
    pub async fn put_again<R, F>(
        &self,
        blob: &Blob,
        mut open: impl FnMut() -> F + Send,
        progress: &Progress<'_>,
    ) -> Result<Put, BlobError>
    where
        R: AsyncRead + Send + Unpin,
        F: Future<Output = std::io::Result<R>> + Send,
    {
        self.patiently(|| {
            let source = open();
            async move {
                let source = source.await;
                let source = source.map_err(|source| BlobError::Source { source })?;
                self.put(blob, source, progress).await
            }
        })
        .await
    }

    /// Uploads a few bytes; their digest is computed here.
    pub async fn put_bytes(&self, data: Bytes) -> Result<Blob, BlobError> {
        let blob = Blob {
            digest: Digest::of(&data),
            size_bytes: ByteSize(data.len() as u64),
        };
        let open = || std::future::ready(Ok(std::io::Cursor::new(data.clone())));
        self.put_again(&blob, open, &|_| ()).await?;
        Ok(blob)
    }

    /// Its bytes in order, in bounded chunks. The stream ends with an error where digest or size is not the named one: whoever reads
    /// uses nothing before the end is seen. An outage in the middle is sat out.
    pub async fn get(&self, blob: &Blob) -> Result<Chunks, BlobError> {
        download::get(self, blob).await
    }

    /// The entry `key` (letters, digits, `-`), of at most `most` bytes. What is read is kept for `blobs.cache_age_us`.
    pub async fn get_named(&self, key: &str, most: usize) -> Result<Option<Bytes>, BlobError> {
        let found = self.read_named(&self.shelf.entry(key), most).await?;
        let Some((data, stored_at)) = found else {
            return Ok(None);
        };
        if stored_at.elapsed().unwrap_or_default() > self.bounds.cache_age / 2 {
            self.put_named(key, data.clone()).await?;
        }
        Ok(Some(data))
    }

    async fn read_named(
        &self,
        name: &Path,
        most: usize,
    ) -> Result<Option<(Bytes, SystemTime)>, BlobError> {
        self.patiently(|| async {
            let found = self.within("an entry", self.shelf.store.get(name)).await?;
            match found {
                Ok(found) if found.meta.size > most as u64 => Err(BlobError::TooLarge {
                    size_bytes: ByteSize(found.meta.size),
                    most: ByteSize(most as u64),
                }),
                Ok(found) => {
                    let stored_at = SystemTime::from(found.meta.last_modified);
                    let data = self.within("an entry", found.bytes()).await?;
                    Ok(Some((data.map_err(BlobError::of_store)?, stored_at)))
                }
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(BlobError::of_store(error)),
            }
        })
        .await
    }

    /// Writes the entry `key`, whatever it held.
    pub async fn put_named(&self, key: &str, data: Bytes) -> Result<(), BlobError> {
        let name = self.shelf.entry(key);
        self.patiently(|| async {
            let put = self.shelf.store.put(&name, PutPayload::from(data.clone()));
            let put = self.within("an entry", put).await?;
            put.map(|_| ()).map_err(BlobError::of_store)
        })
        .await
    }

    /// Every upload of a blob, in no order. An error is the last item.
    pub fn uploads(&self) -> Uploads {
        self.listed(self.shelf.list())
    }

    /// Every named entry, in no order. An error is the last item.
    pub fn entries(&self) -> Uploads {
        self.listed(self.shelf.entries())
    }

    /// What an entry holds that was looked at; `None` where it is gone, or larger than `most`.
    pub(super) async fn read_entry(
        &self,
        entry: &Upload,
        most: usize,
    ) -> Result<Option<Bytes>, BlobError> {
        match self.read_named(&entry.meta.location, most).await {
            Ok(found) => Ok(found.map(|(data, _)| data)),
            Err(BlobError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn listed(&self, list: BoxStream<'static, object_store::Result<Upload>>) -> Uploads {
        let call = self.bounds.call;
        stream::unfold(Some(list), move |list| async move {
            let mut list = list?;
            match timeout(call, list.next()).await {
                Ok(Some(Ok(upload))) => Some((Ok(upload), Some(list))),
                Ok(Some(Err(error))) => Some((Err(BlobError::of_store(error)), None)),
                Ok(None) => None,
                Err(_) => Some((Err(BlobError::timeout("a list", call)), None)),
            }
        })
        .boxed()
    }

    /// What is there of a blob.
    pub async fn head(&self, digest: &Digest) -> Result<Option<Upload>, BlobError> {
        self.patiently(|| async {
            let found = self.within("a look-up", self.shelf.find(digest)).await;
            found?.map_err(BlobError::of_store)
        })
        .await
    }

    /// Removes `upload`, unless it was claimed since it was looked at.
    pub async fn remove(&self, upload: &Upload) -> Result<bool, BlobError> {
        self.patiently(|| async {
            let removed = self.within("a removal", self.shelf.remove(upload)).await;
            removed?.map_err(BlobError::of_store)
        })
        .await
    }

    /// Waits for one call to the store, as long as one may take.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        call: impl Future<Output = T>,
    ) -> Result<T, BlobError> {
        let answer = tokio::time::timeout(self.bounds.call, call).await;
        answer.map_err(|_| BlobError::timeout(what, self.bounds.call))
    }

    /// Asks until the store answers, for `blobs.outage_timeout_us` at most.
    pub(super) async fn patiently<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, BlobError>
    where
        F: Future<Output = Result<T, BlobError>>,
    {
        let asked = tokio::time::Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let error = match ask().await {
                Err(error) if error.is_outage() => error,
                answer => return answer,
            };
            let wait = backoff.next_wait();
            if asked.elapsed() + wait > self.bounds.outage {
                return Err(error);
            }
            tracing::debug!(%error, "the blob store is asked again");
            tokio::time::sleep(wait).await;
        }
    }
}
