//! What comes out of a sandbox and may be large: in memory up to a bound, then in a file without a name in the worker's directory.
//!
//! The invariant: however much is written, no more than the bound is in the worker's memory because of this; and nothing is left
//! on the disk when the spool is gone, however the worker ends.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use futures_util::stream::{self, Stream};
use tokio::{io::AsyncRead, task::spawn_blocking};
use tokio_util::{bytes::Bytes, io::StreamReader};

use super::Feed;
use crate::submission::compare::Compare;

/// How much of a file is read at a time, in bytes.
const READ_BYTES: u64 = 256 << 10;

/// Where spools lie.
#[derive(Debug, Clone)]
pub struct Spools {
    directory: Arc<Path>,
    memory_bytes: usize,
}

impl Spools {
    /// Spools that have up to `memory_bytes` in memory each, and what is more in `directory`.
    pub fn new(directory: &Path, memory_bytes: u64) -> Self {
        Self {
            directory: directory.into(),
            memory_bytes: usize::try_from(memory_bytes).unwrap_or(usize::MAX),
        }
    }

    /// An empty one.
    pub fn spool(&self) -> Spool {
        Spool {
            place: self.clone(),
            file: None,
            in_file: 0,
            buffer: Vec::new(),
        }
    }
}

/// Bytes that were written one after the other, to be read from the start as often as wanted.
#[derive(Debug)]
pub struct Spool {
    place: Spools,
    /// What came first, if it was too much for memory.
    file: Option<Arc<File>>,
    /// How much is in the file.
    in_file: u64,
    /// What follows it.
    buffer: Vec<u8>,
}

impl Spool {
    /// How much was written, in bytes.
    pub fn len(&self) -> u64 {
        self.in_file + self.buffer.len() as u64
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything, where all of it is in memory.
    pub fn in_memory(&self) -> Option<&[u8]> {
        self.file.is_none().then_some(&*self.buffer)
    }

    /// Writes more at its end.
    pub async fn push(&mut self, data: &[u8]) -> io::Result<()> {
        if self.buffer.len().saturating_add(data.len()) > self.place.memory_bytes {
            self.spill().await?;
        }
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    async fn spill(&mut self) -> io::Result<()> {
        let (file, at, place) = (self.file.take(), self.in_file, self.place.clone());
        let buffer = std::mem::take(&mut self.buffer);
        let write = move || {
            let file = match file {
                Some(file) => file,
                None => Arc::new(tempfile::tempfile_in(&place.directory)?),
            };
            file.write_all_at(&buffer, at)?;
            Ok::<_, io::Error>((file, buffer))
        };
        let (file, mut buffer) = spawn_blocking(write).await.map_err(io::Error::other)??;
        self.in_file += buffer.len() as u64;
        self.file = Some(file);
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    /// The first `most` bytes, or all of it.
    pub async fn head(&self, most: usize) -> io::Result<Vec<u8>> {
        self.range(0, most as u64).await
    }

    /// The last `most` bytes, or all of it.
    pub async fn tail(&self, most: usize) -> io::Result<Vec<u8>> {
        self.range(self.len().saturating_sub(most as u64), most as u64)
            .await
    }

    async fn range(&self, offset: u64, most: u64) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(most).min(self.len());
        let mut bytes = Vec::new();
        if let Some(file) = &self.file
            && offset < self.in_file
        {
            let length = end.min(self.in_file) - offset;
            bytes = read(Arc::clone(file), offset, length).await?;
        }
        let in_memory = |at: u64| usize::try_from(at.saturating_sub(self.in_file));
        let (from, to) = (in_memory(offset), in_memory(end));
        let range = from.map_err(io::Error::other)?..to.map_err(io::Error::other)?;
        bytes.extend_from_slice(&self.buffer[range]);
        Ok(bytes)
    }

    /// All of it, to be uploaded.
    pub fn reader(&self) -> impl AsyncRead + Send + Unpin + use<> {
        self.part(0, self.len())
    }

    /// `length` bytes of it from `offset` on, to be uploaded.
    pub fn part(&self, offset: u64, length: u64) -> impl AsyncRead + Send + Unpin + use<> {
        let end = offset.saturating_add(length).min(self.len());
        StreamReader::new(Box::pin(self.chunks(offset.min(end), end)))
    }

    fn chunks(&self, start: u64, end: u64) -> impl Stream<Item = io::Result<Bytes>> + use<> {
        let file = self.file.clone();
        let in_file = self.in_file;
        let rest = if end > in_file {
            let from = usize::try_from(start.saturating_sub(in_file)).unwrap_or(usize::MAX);
            let to = usize::try_from(end - in_file).unwrap_or(usize::MAX);
            Bytes::copy_from_slice(self.buffer.get(from..to).unwrap_or_default())
        } else {
            Bytes::new()
        };
        let file_end = end.min(in_file);
        stream::try_unfold((file, start, rest), move |(file, at, rest)| async move {
            match file {
                Some(file) if at < file_end => {
                    let length = READ_BYTES.min(file_end - at);
                    let chunk = read(Arc::clone(&file), at, length).await?;
                    Ok(Some((Bytes::from(chunk), (Some(file), at + length, rest))))
                }
                _ if !rest.is_empty() => Ok(Some((rest, (None, at, Bytes::new())))),
                _ => Ok(None),
            }
        })
    }

    /// All of it, for a thread that may block.
    fn blocking(&self) -> impl BufRead + Send + use<> {
        let in_file: Box<dyn BufRead + Send> = match &self.file {
            Some(file) => Box::new(whole(Arc::clone(file), self.in_file)),
            None => Box::new(io::empty()),
        };
        in_file.chain(io::Cursor::new(self.buffer.clone()))
    }

    /// Whether it counts as `expected`, compared so.
    pub async fn holds(&self, compare: Compare, expected: Feed<'_>) -> io::Result<bool> {
        if let (Some(actual), Feed::Slice(expected)) = (self.in_memory(), &expected) {
            return Ok(compare.holds(expected, actual));
        }
        let actual = self.blocking();
        let expected: Box<dyn BufRead + Send> = match expected {
            Feed::Slice(bytes) => Box::new(io::Cursor::new(bytes.to_vec())),
            Feed::File(file, size) => Box::new(whole(file, size)),
            Feed::Path(path, size) => {
                let path = path.to_owned();
                let opened = spawn_blocking(move || File::open(path)).await;
                let file = Arc::new(opened.map_err(io::Error::other)??);
                Box::new(whole(file, size))
            }
        };
        let hold = move || compare.holds_streamed(expected, actual);
        spawn_blocking(hold).await.map_err(io::Error::other)?
    }
}

/// A file that is read by position, so that others can read it meanwhile.
struct Positioned {
    file: Arc<File>,
    at: u64,
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The first `size` bytes of `file`, for a thread that may block.
fn whole(file: Arc<File>, size: u64) -> impl BufRead + Send {
    const BUFFER_BYTES: usize = 64 << 10;
    BufReader::with_capacity(BUFFER_BYTES, Positioned { file, at: 0 }).take(size)
}

async fn read(file: Arc<File>, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let read = move || {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map(|()| bytes)
    };
    spawn_blocking(read).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    const BOUND: usize = 1000;

    fn place(directory: &Path) -> Spools {
        Spools::new(directory, BOUND as u64)
    }

    async fn filled(directory: &Path, bytes: &[u8], part: usize) -> Spool {
        let mut spool = place(directory).spool();
        for data in bytes.chunks(part) {
            spool.push(data).await.expect("written");
            assert!(spool.buffer.len() <= BOUND.max(part), "bounded in memory");
        }
        spool
    }

    #[tokio::test]
    async fn what_was_written_is_read_wherever_it_lies() {
        let directory = tempfile::tempdir().expect("a directory");
        for size in [0, 1, BOUND, BOUND + 1, 3 * BOUND + 5] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let spool = filled(directory.path(), &bytes, 70).await;
            assert_eq!(spool.len(), size as u64);
            assert_eq!(spool.is_empty(), size == 0);
            assert_eq!(spool.in_memory().is_some(), size <= BOUND, "{size}");
            let mut read = Vec::new();
            for _ in 0..2 {
                read.clear();
                let whole = spool.reader().read_to_end(&mut read).await;
                assert_eq!((whole.expect("read"), &read), (size, &bytes));
            }
            for most in [0, 1, 7, BOUND, size, size + 9] {
                let shown = most.min(size);
                assert_eq!(spool.head(most).await.expect("read"), bytes[..shown]);
                assert_eq!(spool.tail(most).await.expect("read"), bytes[size - shown..]);
            }
            for (offset, length) in [(0, size), (size / 2, 5), (size, 5), (size / 3, size)] {
                read.clear();
                let mut part = spool.part(offset as u64, length as u64);
                part.read_to_end(&mut read).await.expect("read");
                assert_eq!(read, bytes[offset..size.min(offset + length)]);
            }
            let feed = Feed::Slice(&bytes);
            assert!(spool.holds(Compare::Exact, feed).await.expect("compared"));
            let other = [&bytes, &b"x"[..]].concat();
            let feed = Feed::Slice(&other);
            assert!(!spool.holds(Compare::Exact, feed).await.expect("compared"));
        }
    }

    #[tokio::test]
    async fn nothing_of_it_has_a_name_on_the_disk() {
        let directory = tempfile::tempdir().expect("a directory");
        let spool = filled(directory.path(), &[7; 5 * BOUND], BOUND).await;
        let mut entries = std::fs::read_dir(directory.path()).expect("a directory");
        assert!(spool.in_memory().is_none() && entries.next().is_none());
    }
}
