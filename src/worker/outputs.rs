//! What a submission brings forth, on its way into its result: what is short is shown, what is long goes whole to the object store and
//! is shown by its beginning and its end.
//!
//! The invariant: what a result refers to is in the store before the result is settled.

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::trouble::Trouble;
use crate::{
    blobs::Blobs,
    config,
    container::{self, ContainerError, Spool},
    submission::{
        budget,
        collect::{CollectError, Collected},
        content::Blob,
        encoding::{Encoding, EncodingError},
        names::Digest,
        output::Output,
        result::{Run, SubmissionResult},
        units::ByteSize,
    },
};

/// How much is hashed at a time.
const READ_BYTES: usize = 64 << 10;

/// Where a submission's outputs go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outlet<'a> {
    blobs: &'a Blobs,
    /// The most that is shown of a stream.
    inline: usize,
    /// The most that is shown of its end.
    tail: usize,
    /// Uploads at a time.
    uploads: usize,
}

impl<'a> Outlet<'a> {
    pub(crate) fn new(blobs: &'a Blobs, config: &config::Worker) -> Self {
        let size = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        Self {
            blobs,
            inline: size(config.inline_output_bytes),
            tail: size(config.output_tail_bytes),
            uploads: config.uploads,
        }
    }

    /// What is shown of what a stage wrote; `more` says that it wrote past its limit.
    pub(crate) async fn show(&self, spool: &Spool, more: bool) -> Result<Output, Trouble> {
        let size = ByteSize(spool.len());
        let head = spool.head(self.inline).await.map_err(unread)?;
        let is_whole = head.len() as u64 == size.0;
        let output = Output::new(head, size, more);
        if is_whole {
            return Ok(output);
        }
        let blob = Blob {
            digest: digest(spool.reader()).await.map_err(unread)?,
            size_bytes: size,
        };
        let open = || std::future::ready(Ok(spool.reader()));
        let stored = self.blobs.put_again(&blob, open, &|_| ()).await;
        stored.map_err(|error| Trouble::store("outputs", &error))?;
        let tail = spool.tail(self.tail).await.map_err(unread)?;
        Ok(output.stored(blob, tail))
    }

    /// Cuts what is kept of all runs to what fits a result; what is cut goes to the store before.
    pub(crate) async fn trim(&self, runs: &mut [Run]) -> Result<(), Trouble> {
        let cap = budget::cap_of(runs);
        self.store_over(runs.iter_mut().collect(), cap).await?;
        budget::trim(runs);
        Ok(())
    }

    /// Has what a result will not show all of in the store.
    pub(crate) async fn fit(
        &self,
        result: &mut SubmissionResult,
        encoding: Encoding,
    ) -> Result<(), Trouble> {
        let unencoded = |error: EncodingError| Trouble::bug(&error.to_string());
        // What refers to the store takes room too.
        while let Some(cap) = budget::cap(result, encoding).map_err(unencoded)? {
            let runs = result.compile.iter_mut().chain(&mut result.runs);
            if !self.store_over(runs.collect(), cap).await? {
                break;
            }
        }
        Ok(())
    }

    /// Stores what is longer than `cap` and shown whole. Whether there was any.
    async fn store_over(&self, runs: Vec<&mut Run>, cap: usize) -> Result<bool, Trouble> {
        let outputs = runs
            .into_iter()
            .flat_map(|run| [&mut run.stdout, &mut run.stderr]);
        let is_to_be = |it: &&mut Output| {
            let is_whole = it.blob.is_none() && it.data.len() as u64 == it.size_bytes.0;
            is_whole && it.data.len() > cap
        };
        // Boxed, because of futures with borrows in a stream the compiler cannot tell that they may move between threads.
        let storing = outputs.filter(is_to_be);
        let storing: Vec<_> = storing
            .map(|output| self.store_whole(output).boxed())
            .collect();
        let stored: Vec<()> = stream::iter(storing)
            .buffer_unordered(self.uploads)
            .try_collect()
            .await?;
        Ok(!stored.is_empty())
    }

    /// Stores what is shown whole.
    async fn store_whole(&self, output: &mut Output) -> Result<(), Trouble> {
        let data = std::mem::take(&mut output.data);
        let tail = data[data.len().saturating_sub(self.tail)..].to_vec();
        let stored = self.blobs.put_bytes(data.clone().into()).await;
        let blob = stored.map_err(|error| Trouble::store("outputs", &error))?;
        let truncated = output.truncated;
        *output = Output::new(data, output.size_bytes, false).stored(blob, tail);
        output.truncated = truncated;
        Ok(())
    }

    /// Stores the files that were collected.
    pub(crate) async fn collect(
        &self,
        collected: &container::Collected,
    ) -> Result<(Vec<Collected>, Vec<CollectError>), Trouble> {
        let errors: Vec<_> = collected
            .skipped
            .iter()
            .map(|it| CollectError {
                path: it.path.clone(),
                message: it.reason.clone(),
            })
            .collect();
        let files = collected.files.iter();
        let storing: Vec<_> = files
            .map(|file| self.store_file(collected, file).boxed())
            .collect();
        let named = stream::iter(storing)
            .buffered(self.uploads)
            .try_collect()
            .await?;
        Ok((named, errors))
    }

    async fn store_file(
        &self,
        collected: &container::Collected,
        file: &container::CollectedFile,
    ) -> Result<Collected, Trouble> {
        let blob = Blob {
            digest: file.digest.clone(),
            size_bytes: file.size_bytes,
        };
        let open = || std::future::ready(Ok(collected.reader(file)));
        let stored = self.blobs.put_again(&blob, open, &|_| ()).await;
        stored.map_err(|error| Trouble::store("collect", &error))?;
        Ok(Collected {
            path: file.path.clone(),
            size_bytes: file.size_bytes,
            executable: file.executable,
            blob,
        })
    }
}

/// The worker's own disk does not give back what was spooled.
fn unread(source: std::io::Error) -> Trouble {
    Trouble::container("outputs", &ContainerError::Spool { source })
}

async fn digest(mut reader: impl AsyncRead + Unpin) -> std::io::Result<Digest> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; READ_BYTES]);
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(Digest::of_hash(hash)),
            count => hash.update(&buffer[..count]),
        }
    }
}
