//! The way in: bytes are read, hashed and sent in parts of `blobs.part_bytes`, a few at a time, so that memory does not grow with
//! the blob. It becomes visible at the end, when digest and size were seen to be the named ones; else the upload is given up and
//! what was sent of it is removed.

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, ObjectStore as _, PutMode, PutMultipartOptions, PutPayload};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    task::JoinSet,
};

use super::{
    error::BlobError,
    tenant::{Blobs, Progress, Put},
};
use crate::submission::{content::Blob, names::Digest};

/// What is read at a time.
const PIECE: usize = 256 << 10;

/// Uploads `source`, of which nothing was there that can be claimed. Where another one was faster, what it stored stands.
pub(super) async fn put(
    blobs: &Blobs,
    blob: &Blob,
    source: impl AsyncRead + Send + Unpin,
    progress: &Progress<'_>,
) -> Result<Put, BlobError> {
    let mode = blobs.patiently(|| mode(blobs, blob)).await?;
    let mut source = Reading::new(blob, source, blobs.bounds.part);
    let first = source.part().await?;
    let stored = if source.is_at_end {
        source.check()?;
        put_whole(blobs, blob, first, &mode).await
    } else {
        put_parts(blobs, source, first, mode, progress).await
    };
    let put = match stored {
        Ok(()) => Put::Uploaded,
        Err(Failed::Store(
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. },
        )) if blobs.claim(blob).await? => Put::AlreadyThere,
        Err(Failed::Store(error)) => return Err(BlobError::of_store(error)),
        Err(Failed::Blob(error)) => return Err(error),
    };
    progress(blob.size_bytes.0);
    Ok(put)
}

/// What ended an upload.
enum Failed {
    /// The store refused its end.
    Store(object_store::Error),
    /// Anything else.
    Blob(BlobError),
}

impl From<BlobError> for Failed {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

async fn mode(blobs: &Blobs, blob: &Blob) -> Result<PutMode, BlobError> {
    let mode = blobs.within("a look-up", blobs.shelf.mode(&blob.digest));
    mode.await?.map_err(BlobError::of_store)
}

/// What fits into one part goes in one call.
async fn put_whole(blobs: &Blobs, blob: &Blob, data: Bytes, mode: &PutMode) -> Result<(), Failed> {
    let name = blobs.shelf.name(&blob.digest);
    let refused = blobs
        .patiently(|| async {
            let payload = PutPayload::from(data.clone());
            let put = blobs
                .shelf
                .store
                .put_opts(&name, payload, mode.clone().into());
            match blobs.within("an upload", put).await? {
                Ok(_) => Ok(None),
                Err(
                    error @ (object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. }),
                ) => Ok(Some(error)),
                Err(error) => Err(BlobError::of_store(error)),
            }
        })
        .await?;
    refused.map_or(Ok(()), |error| Err(Failed::Store(error)))
}

async fn put_parts(
    blobs: &Blobs,
    source: Reading<'_, impl AsyncRead + Send + Unpin>,
    first: Bytes,
    mode: PutMode,
    progress: &Progress<'_>,
) -> Result<(), Failed> {
    let name = blobs.shelf.name(&source.blob.digest);
    let mut options = PutMultipartOptions::default();
    options.extensions.insert(mode);
    let begun = blobs.shelf.store.put_multipart_opts(&name, options);
    let begun = blobs.within("an upload", begun).await?;
    let mut upload = begun.map_err(Failed::Store)?;
    let sent = send(blobs, upload.as_mut(), source, first, progress).await;
    let ended = match sent {
        Ok(()) => {
            let completed = blobs.within("the end of an upload", upload.complete());
            completed.await?.map(|_| ()).map_err(Failed::Store)
        }
        Err(error) => Err(Failed::Blob(error)),
    };
    if ended.is_err() {
        give_up(blobs, upload.as_mut()).await;
    }
    ended
}

/// Removes what was sent. What cannot be removed now is the collector's.
async fn give_up(blobs: &Blobs, upload: &mut dyn MultipartUpload) {
    let aborted = blobs.within("the end of an upload", upload.abort()).await;
    if let Err(error) = aborted.and_then(|done| done.map_err(BlobError::of_store)) {
        tracing::debug!(%error, "what was sent of an upload is left behind");
    }
}

/// Sends every part, `blobs.uploads` at a time.
async fn send(
    blobs: &Blobs,
    upload: &mut dyn MultipartUpload,
    mut source: Reading<'_, impl AsyncRead + Send + Unpin>,
    first: Bytes,
    progress: &Progress<'_>,
) -> Result<(), BlobError> {
    let mut parts = JoinSet::new();
    let mut next = Some(first);
    let mut stored = 0;
    while next.is_some() || !parts.is_empty() {
        if let Some(part) = next.take_if(|_| parts.len() < blobs.bounds.uploads.max(1)) {
            let (length, call) = (part.len() as u64, blobs.bounds.call);
            let sending = upload.put_part(PutPayload::from(part));
            parts.spawn(async move {
                match tokio::time::timeout(call, sending).await {
                    Ok(sent) => sent.map(|()| length).map_err(BlobError::of_store),
                    Err(_) => Err(BlobError::timeout("a part of an upload", call)),
                }
            });
            if !source.is_at_end {
                next = Some(source.part().await?);
            }
            continue;
        }
        let sent = parts.join_next().await.expect("a part is on its way");
        let sent = sent.map_err(|error| BlobError::Unavailable {
            source: error.into(),
        })?;
        stored += sent?;
        progress(stored);
    }
    source.check()
}

/// A source, with what was seen of it.
struct Reading<'a, R> {
    blob: &'a Blob,
    source: R,
    part: usize,
    hash: Sha256,
    seen: u64,
    is_at_end: bool,
}

impl<'a, R: AsyncRead + Send + Unpin> Reading<'a, R> {
    fn new(blob: &'a Blob, source: R, part: usize) -> Self {
        Self {
            blob,
            source,
            part: part.max(1),
            hash: Sha256::new(),
            seen: 0,
            is_at_end: false,
        }
    }

    /// The next part: all of `part` bytes but the last.
    async fn part(&mut self) -> Result<Bytes, BlobError> {
        let left = self.blob.size_bytes.0.saturating_sub(self.seen);
        let expected = usize::try_from(left).unwrap_or(usize::MAX).min(self.part);
        let mut part = BytesMut::with_capacity(expected);
        while part.len() < expected {
            let most = PIECE.min(expected - part.len()) as u64;
            let had = part.len();
            let read = (&mut self.source).take(most).read_buf(&mut part).await;
            if read.map_err(|source| BlobError::Source { source })? == 0 {
                return Err(self.corrupt(format!(
                    "it ends after {} of {} bytes",
                    self.seen, self.blob.size_bytes.0
                )));
            }
            self.hash.update(&part[had..]);
            self.seen += (part.len() - had) as u64;
        }
        if self.seen == self.blob.size_bytes.0 {
            self.see_the_end().await?;
        }
        Ok(part.freeze())
    }

    /// Nothing may follow.
    async fn see_the_end(&mut self) -> Result<(), BlobError> {
        let more = self.source.read(&mut [0]).await;
        if more.map_err(|source| BlobError::Source { source })? > 0 {
            return Err(self.corrupt(format!("it is longer than {} bytes", self.seen)));
        }
        self.is_at_end = true;
        Ok(())
    }

    /// Whether it was what it is named.
    fn check(self) -> Result<(), BlobError> {
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
