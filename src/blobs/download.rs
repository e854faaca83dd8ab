//! The way out: bytes as they come, hashed on the way, so that the end of the stream says whether they were the named ones. A store
//! that falls silent in the middle is asked for the rest.

use std::{io::SeekFrom, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    time::{Instant, sleep, timeout},
};

use super::{error::BlobError, tenant::Blobs};
use crate::{
    bus::outage::Backoff,
    submission::{content::Blob, names::Digest},
};

/// The bytes of a blob, in order. An error is the last item.
pub type Chunks = BoxStream<'static, Result<Bytes, BlobError>>;

/// What the store gives, unchecked.
type Raw = BoxStream<'static, object_store::Result<Bytes>>;

/// What is read of a file at a time.
const PIECE: usize = 256 << 10;

/// Begins to read `blob`.
pub(super) async fn get(blobs: &Blobs, blob: &Blob) -> Result<Chunks, BlobError> {
    let raw = blobs.patiently(|| open(blobs, blob, 0)).await?;
    let reading = Reading {
        blobs: blobs.clone(),
        blob: blob.clone(),
        raw: Some(raw),
        hash: Sha256::new(),
        seen: 0,
    };
    Ok(stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reading))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed())
}

/// The bytes of `blob` from `offset`, from its newest upload.
async fn open(blobs: &Blobs, blob: &Blob, offset: u64) -> Result<Raw, BlobError> {
    let missing = || BlobError::Missing {
        digest: blob.digest.clone(),
    };
    let found = blobs.within("a look-up", blobs.shelf.find(&blob.digest));
    let found = found.await?.map_err(BlobError::of_store)?;
    let found = found.ok_or_else(missing)?;
    if found.size_bytes != blob.size_bytes {
        return Err(BlobError::Corrupt {
            digest: blob.digest.clone(),
            problem: format!(
                "the store has {} bytes of it, {} were named",
                found.size_bytes.0, blob.size_bytes.0
            ),
        });
    }
    let options = GetOptions {
        range: (offset > 0).then_some(GetRange::Offset(offset)),
        ..GetOptions::default()
    };
    let store = &blobs.shelf.store;
    let got = blobs.within("a download", store.get_opts(&found.meta.location, options));
    match got.await? {
        Ok(got) => Ok(raw(got)),
        Err(error) => Err(BlobError::of(error, &blob.digest)),
    }
}

/// The bytes of what was opened.
fn raw(got: GetResult) -> Raw {
    let range = got.range.clone();
    match got.payload {
        GetResultPayload::Stream(stream) => stream,
        GetResultPayload::File(file, _) => {
            let file = tokio::fs::File::from_std(file);
            stream::unfold(Some((file, range.start, range.end)), |at| async move {
                let (mut file, start, end) = at?;
                match piece(&mut file, start, end).await {
                    Ok(bytes) if bytes.is_empty() => None,
                    Ok(bytes) => {
                        let next = start + bytes.len() as u64;
                        Some((Ok(bytes), Some((file, next, end))))
                    }
                    Err(error) => Some((
                        Err(object_store::Error::Generic {
                            store: "file",
                            source: error.into(),
                        }),
                        None,
                    )),
                }
            })
            .boxed()
        }
    }
}

/// The next bytes of a file from `start`; none at `end`.
async fn piece(file: &mut tokio::fs::File, start: u64, end: u64) -> std::io::Result<Bytes> {
    let most = end.saturating_sub(start).min(PIECE as u64);
    let mut bytes = BytesMut::with_capacity(PIECE.min(usize::try_from(most).unwrap_or(PIECE)));
    file.set_max_buf_size(PIECE);
    file.seek(SeekFrom::Start(start)).await?;
    file.take(most).read_buf(&mut bytes).await?;
    Ok(bytes.freeze())
}

/// A blob on its way.
struct Reading {
    blobs: Blobs,
    blob: Blob,
    raw: Option<Raw>,
    hash: Sha256,
    seen: u64,
}

impl Reading {
    /// The next bytes; `None` at the end of what was all of it.
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let asked = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            let error = match self.read().await {
                Ok(Some(bytes)) if bytes.is_empty() => continue,
                Ok(Some(bytes)) => return self.take(bytes).map(Some),
                Ok(None) => return self.check().map(|()| None),
                Err(error) if error.is_outage() => error,
                Err(error) => return Err(error),
            };
            self.raw = None;
            let wait = backoff.next_wait();
            if asked.elapsed() + wait > self.blobs.bounds.outage {
                return Err(error);
            }
            tracing::debug!(%error, at = self.seen, "the blob store is asked for the rest");
            sleep(wait).await;
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.raw.is_none() {
            if self.seen == self.blob.size_bytes.0 {
                return Ok(None);
            }
            self.raw = Some(open(&self.blobs, &self.blob, self.seen).await?);
        }
        let raw = self.raw.as_mut().expect("just opened");
        let call = self.blobs.bounds.call;
        match timeout(call, raw.next()).await {
            Ok(Some(bytes)) => bytes
                .map(Some)
                .map_err(|error| BlobError::of(error, &self.blob.digest)),
            Ok(None) => Ok(None),
            Err(_) => Err(BlobError::timeout("a download", call)),
        }
    }

    fn take(&mut self, bytes: Bytes) -> Result<Bytes, BlobError> {
        self.seen += bytes.len() as u64;
        if self.seen > self.blob.size_bytes.0 {
            return Err(self.corrupt(format!(
                "it is longer than {} bytes",
                self.blob.size_bytes.0
            )));
        }
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn check(&self) -> Result<(), BlobError> {
        if self.seen < self.blob.size_bytes.0 {
            return Err(self.corrupt(format!(
                "it ends after {} of {} bytes",
                self.seen, self.blob.size_bytes.0
            )));
        }
        let digest = Digest::of_hash(self.hash.clone());
        if digest == self.blob.digest {
            Ok(())
        } else {
            Err(self.corrupt(format!("its content has the digest {digest}")))
        }
    }

    fn corrupt(&self, problem: String) -> BlobError {
        BlobError::Corrupt {
            digest: self.blob.digest.clone(),
            problem,
        }
    }
}
