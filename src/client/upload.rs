//! What a submission holds goes to where it is to be: small contents into the message, large ones to the object store, each once.
//!
//! What is chosen depends on the submission alone, so that the same submission always gives the same message and publishing it
//! again is recognized. The invariant: a submission that comes out of here names no blob that was not seen in the store, and no
//! file of this machine. Files are hashed and streamed from disk, never held whole.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::{self, Cursor},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{io::AsyncRead, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Client, ClientError,
    pack::{self, PackError, Packed},
};
use crate::{
    blobs::{BlobError, Blobs},
    bus::publish::MAX_SUBMISSION_BYTES,
    submission::{
        check::check_shape,
        content::{Blob, Content},
        message::Submission,
        names::{Digest, Tenant},
        units::ByteSize,
    },
};

/// Blobs up to this size are sent several at a time; of larger ones the store itself sends several parts at a time.
pub(super) const SMALL: ByteSize = ByteSize(1 << 20);

/// What was claimed in the store is kept for a quarter of `blobs.grace_us` at least. When sending took more than this part of it,
/// what was sent first is claimed again before the publish.
const CLAIM_PARTS: u32 = 8;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// Files of this machine are read and packed.
    Reading {
        /// So many bytes of all of them.
        bytes: u64,
    },
    /// Contents go to the store. What is there already counts as sent.
    Uploading {
        /// So many bytes.
        sent: u64,
        /// Of so many.
        all: u64,
    },
}

/// Is told how far it is, from any thread, and often: it should be quick.
pub type OnSending = Arc<dyn Fn(Sending) + Send + Sync>;

/// Where the bytes of a blob come from.
#[derive(Debug)]
enum Origin {
    Bytes(Bytes),
    File(PathBuf),
    Packed(Packed),
}

/// A content that is not in the store yet.
#[derive(Debug)]
struct Piece {
    /// The how-manieth of the submission's contents it is.
    index: usize,
    size: u64,
    origin: Origin,
}

impl Client {
    /// `submission` with everything where it is to be: files and directories of this machine read, what is too large for the
    /// message in the store of `tenant`. [`submit`](Self::submit) does it by itself; this one tells how far it is.
    ///
    /// ```no_run
    /// # async fn example(client: envicutor::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use envicutor::{client::Sending, submission::{message::Submission, names::{Lane, Tenant}}};
    ///
    /// let tenant = Tenant::default_tenant();
    /// let submission = Submission::new("python".parse()?)
    ///     .project("./analysis")
    ///     .file_from("data/big.csv", "/data/2026.csv")
    ///     .collect("out/*.png");
    /// let told = |how_far| if let Sending::Uploading { sent, all } = how_far {
    ///     println!("{sent} of {all} bytes");
    /// };
    /// let submission = client.upload(&tenant, &submission, std::sync::Arc::new(told)).await?;
    /// let result = client.submit_and_wait(&tenant, Lane::Batch, None, &submission).await?;
    /// client.fetch(&result, "./results".as_ref(), false).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn upload<'a>(
        &self,
        tenant: &Tenant,
        submission: &'a Submission,
        on: OnSending,
    ) -> Result<Cow<'a, Submission>, ClientError> {
        if self.is_ready(submission) {
            return Ok(Cow::Borrowed(submission));
        }
        let mut submission = submission.clone();
        let mut pieces = self.read(&mut submission, &on).await?;
        let sent = self.choose(&mut submission, &mut pieces, &on).await?;
        // What is wrong with it is told before anything is sent.
        self.check(&submission)?;
        self.send(tenant, &sent, &on).await?;
        Ok(Cow::Owned(submission))
    }

    /// Whether all of it is where it is to be.
    fn is_ready(&self, submission: &Submission) -> bool {
        let mut inline = 0;
        for content in submission.contents() {
            match content {
                Content::Local(_) => return false,
                Content::Inline(data) => inline += data.len() as u64,
                Content::Blob(_) => {}
            }
        }
        inline <= self.config.inline_bytes.0 && self.fits(submission)
    }

    /// Whether its message is within the bound. What has no encoding is another's to tell.
    fn fits(&self, submission: &Submission) -> bool {
        self.encode(submission)
            .map_or(true, |(body, _)| body.len() <= MAX_SUBMISSION_BYTES)
    }

    fn check(&self, submission: &Submission) -> Result<(), ClientError> {
        let (body, encoding) = self.encode(submission)?;
        check_shape(&body, encoding)
            .map(drop)
            .map_err(|rejected| ClientError::Rejected(Box::new(rejected)))
    }

    /// Takes out every content that is not in the store, packs directories, and finds out how large each is.
    async fn read(
        &self,
        submission: &mut Submission,
        on: &OnSending,
    ) -> Result<Vec<Piece>, ClientError> {
        let has_archive = submission.archive.is_some();
        let mut taken = Vec::new();
        for (index, content) in submission.contents_mut().enumerate() {
            if content.blob().is_none() {
                taken.push((index, std::mem::take(content)));
            }
        }
        let mut pieces = Vec::new();
        for (index, content) in taken {
            let (size, origin) = match content {
                // The archive is the first of all contents.
                Content::Local(path) => self.local(path, has_archive && index == 0, on).await?,
                Content::Inline(data) => (data.len() as u64, Origin::Bytes(data.into())),
                Content::Blob(_) => continue,
            };
            pieces.push(Piece {
                index,
                size,
                origin,
            });
        }
        Ok(pieces)
    }

    async fn local(
        &self,
        path: PathBuf,
        may_be_directory: bool,
        on: &OnSending,
    ) -> Result<(u64, Origin), ClientError> {
        let metadata = tokio::fs::metadata(&path).await;
        let metadata = metadata.map_err(|source| unreadable(&path, source))?;
        if metadata.is_dir() && may_be_directory {
            let bounds = self.config.clone();
            let packed = reading(on, move |told, stop| pack::pack(&path, &bounds, told, stop));
            let packed = packed.await?;
            return Ok((packed.blob.size_bytes.0, Origin::Packed(packed)));
        }
        if !metadata.is_file() {
            return Err(ClientError::NoFile { path });
        }
        Ok((metadata.len(), Origin::File(path)))
    }

    /// Puts small contents into the message, the names of the others in their place, and returns these.
    async fn choose(
        &self,
        submission: &mut Submission,
        pieces: &mut Vec<Piece>,
        on: &OnSending,
    ) -> Result<Vec<(Blob, Origin)>, ClientError> {
        let mut most = self.config.inline_bytes.0.min(MAX_SUBMISSION_BYTES as u64);
        let mut known: BTreeMap<usize, Blob> = BTreeMap::new();
        loop {
            let sizes: Vec<u64> = pieces.iter().map(|piece| piece.size).collect();
            let large = largest(&sizes, most);
            for (at, piece) in pieces.iter_mut().enumerate() {
                if large.contains(&at) && !known.contains_key(&at) {
                    known.insert(at, piece.blob(on).await?);
                } else if !large.contains(&at) {
                    piece.load().await?;
                }
            }
            let contents = pieces.iter().enumerate().map(|(at, piece)| {
                let content = match (large.contains(&at), known.get(&at), &piece.origin) {
                    (true, Some(blob), _) => Content::Blob(blob.clone()),
                    (_, _, Origin::Bytes(data)) => Content::Inline(data.to_vec()),
                    // Loaded above.
                    (_, _, Origin::File(path)) => Content::Local(path.clone()),
                    (_, _, Origin::Packed(packed)) => Content::Local(packed.file.to_path_buf()),
                };
                (piece.index, content)
            });
            let contents: BTreeMap<usize, Content> = contents.collect();
            put_back(submission, contents);
            if most == 0 || self.fits(submission) {
                let pieces = std::mem::take(pieces).into_iter().enumerate();
                let sent = pieces.filter(|(at, _)| large.contains(at));
                let sent = sent.filter_map(|(at, piece)| Some((known.remove(&at)?, piece.origin)));
                return Ok(sent.collect());
            }
            most /= 2;
        }
    }

    /// Sends what is not there yet, and sees that all is there at the end.
    async fn send(
        &self,
        tenant: &Tenant,
        sent: &[(Blob, Origin)],
        on: &OnSending,
    ) -> Result<(), ClientError> {
        let blobs = self.store.of(tenant);
        let mut seen = BTreeSet::new();
        let once = sent.iter().filter(|(blob, _)| seen.insert(&blob.digest));
        let (small, large): (Vec<_>, Vec<_>) = once.partition(|(blob, _)| blob.size_bytes <= SMALL);
        let all = small.iter().chain(&large);
        let meter = Arc::new(Meter {
            sent: AtomicU64::new(0),
            all: all.map(|(blob, _)| blob.size_bytes.0).sum(),
            on: Arc::clone(on),
        });
        loop {
            let began = Instant::now();
            meter.sent.store(0, Ordering::Relaxed);
            let mut sending = Vec::new();
            for (blob, origin) in &small {
                sending.push(put(&blobs, blob, origin, &meter));
            }
            let sending = stream::iter(sending).buffer_unordered(self.config.transfers);
            sending.try_collect::<()>().await?;
            for (blob, origin) in &large {
                put(&blobs, blob, origin, &meter).await?;
            }
            if began.elapsed() < self.claim_time / CLAIM_PARTS {
                return Ok(());
            }
        }
    }
}

impl Piece {
    /// Its name in the store.
    async fn blob(&self, on: &OnSending) -> Result<Blob, ClientError> {
        match &self.origin {
            Origin::Bytes(data) => Ok(Blob {
                digest: Digest::of(data),
                size_bytes: ByteSize(data.len() as u64),
            }),
            Origin::Packed(packed) => Ok(packed.blob.clone()),
            Origin::File(path) => {
                let path = path.clone();
                reading(on, move |told, stop| pack::hash(&path, told, stop)).await
            }
        }
    }

    /// Holds a small file's content.
    async fn load(&mut self) -> Result<(), ClientError> {
        let path: &Path = match &self.origin {
            Origin::Bytes(_) => return Ok(()),
            Origin::File(path) => path,
            Origin::Packed(packed) => &packed.file,
        };
        let data = tokio::fs::read(path).await;
        let data = data.map_err(|source| unreadable(path, source))?;
        if data.len() as u64 != self.size {
            let path = path.to_owned();
            return Err(ClientError::Changed { path });
        }
        self.origin = Origin::Bytes(data.into());
        Ok(())
    }
}

fn unreadable(path: &Path, source: io::Error) -> ClientError {
    ClientError::Pack(PackError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Puts each content in its place.
fn put_back(submission: &mut Submission, mut contents: BTreeMap<usize, Content>) {
    for (index, content) in submission.contents_mut().enumerate() {
        if let Some(new) = contents.remove(&index) {
            *content = new;
        }
    }
}

/// Which of `sizes` have to go so that the others are at most `most` together: as few as possible, the largest ones.
fn largest(sizes: &[u64], most: u64) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).filter(|at| sizes[*at] > 0).collect();
    order.sort_by_key(|at| std::cmp::Reverse(sizes[*at]));
    let mut left: u128 = sizes.iter().map(|size| u128::from(*size)).sum();
    let mut gone = BTreeSet::new();
    for at in order {
        if left <= u128::from(most) {
            break;
        }
        left -= u128::from(sizes[at]);
        gone.insert(at);
    }
    gone
}

/// Does what blocks on a thread of its own, which ends early when nobody waits any more.
async fn reading<T: Send + 'static>(
    on: &OnSending,
    work: impl FnOnce(&dyn Fn(u64), &CancellationToken) -> Result<T, PackError> + Send + 'static,
) -> Result<T, ClientError> {
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let on = Arc::clone(on);
    let work =
        tokio::task::spawn_blocking(move || work(&|bytes| on(Sending::Reading { bytes }), &stop));
    match work.await {
        Ok(done) => Ok(done?),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(PackError::Stopped.into()),
        },
    }
}

/// How much of all is sent.
struct Meter {
    sent: AtomicU64,
    all: u64,
    on: OnSending,
}

impl Meter {
    fn add(&self, bytes: u64) {
        let sent = self.sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all = self.all;
        (self.on)(Sending::Uploading {
            sent: sent.min(all),
            all,
        });
    }
}

/// Sends one blob, unless it is there.
async fn put(
    blobs: &Blobs,
    blob: &Blob,
    origin: &Origin,
    meter: &Arc<Meter>,
) -> Result<(), ClientError> {
    let stored = AtomicU64::new(0);
    let meter = Arc::clone(meter);
    let progress = move |bytes: u64| {
        // An upload that begins again has less than before.
        let before = stored.fetch_max(bytes, Ordering::Relaxed);
        meter.add(bytes.saturating_sub(before));
    };
    let put = blobs.put_again(blob, || open(origin), &progress).await;
    match (put, origin) {
        (Ok(_), _) => Ok(()),
        (Err(BlobError::Corrupt { .. }), Origin::File(path)) => {
            let path = path.clone();
            Err(ClientError::Changed { path })
        }
        (Err(BlobError::Source { source }), Origin::File(path)) => Err(unreadable(path, source)),
        (Err(error), _) => Err(error.into()),
    }
}

/// The bytes of a content, from their beginning.
async fn open(origin: &Origin) -> io::Result<Pin<Box<dyn AsyncRead + Send>>> {
    Ok(match origin {
        Origin::Bytes(data) => Box::pin(Cursor::new(data.clone())),
        Origin::File(path) => Box::pin(tokio::fs::File::open(path).await?),
        Origin::Packed(packed) => Box::pin(tokio::fs::File::open(&packed.file).await?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_go_and_as_few_as_possible() {
        let gone = |sizes: &[u64], most| largest(sizes, most).into_iter().collect::<Vec<_>>();
        assert_eq!(gone(&[], 0), [0; 0]);
        assert_eq!(gone(&[10, 20, 30], 60), [0; 0]);
        assert_eq!(gone(&[10, 20, 30], 59), [2]);
        assert_eq!(gone(&[10, 20, 30], 29), [1, 2]);
        assert_eq!(gone(&[0, 1, 0], 0), [1]);
        // Of equals the first go, always.
        assert_eq!(gone(&[5, 5, 5], 5), [0, 1]);
        assert_eq!(gone(&[u64::MAX, u64::MAX], 1), [0, 1]);
    }

    #[test]
    fn contents_are_put_back_in_their_places() {
        let mut submission = Submission::new("python".parse().expect("valid"))
            .project("dir")
            .file("a", "1")
            .file("b", "2");
        put_back(
            &mut submission,
            BTreeMap::from([(0, "archive".into()), (2, "new".into())]),
        );
        let archive = submission.archive.as_ref().map(|archive| &archive.content);
        assert_eq!(archive, Some(&"archive".into()));
        assert_eq!(submission.files[0].content, "1".into());
        assert_eq!(submission.files[1].content, "new".into());
    }
}
