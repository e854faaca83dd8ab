//! What is streamed into a sandbox: bytes that the worker has, or a file that it reads in parts.
//!
//! The invariant: however large it is, no more than a part of it is in the worker's memory because of this.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use tokio::task::spawn_blocking;

/// How much of a file is read at a time, in bytes.
const READ_BYTES: usize = 256 << 10;

/// What is streamed into a sandbox. A clone begins at the beginning.
#[derive(Debug, Clone)]
pub enum Feed<'a> {
    /// Bytes in memory.
    Slice(&'a [u8]),
    /// The first so many bytes of a file. It is read by position: other readers of it are not disturbed. One that is shorter
    /// is an error of the read, never a shorter input.
    File(Arc<File>, u64),
    /// The same of a file that is opened when its turn comes, so that many can be named at a time.
    Path(&'a Path, u64),
}

/// A file of the work directory.
#[derive(Debug, Clone)]
pub struct LaidOut<'a> {
    /// Relative, by the contract's rules.
    pub path: &'a str,
    /// Mode 0755 instead of 0644.
    pub executable: bool,
    /// Its content.
    pub data: Feed<'a>,
}

impl Feed<'_> {
    /// Nothing.
    pub const EMPTY: Self = Self::Slice(&[]);

    /// How much it is, in bytes.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Slice(bytes) => bytes.len() as u64,
            Self::File(_, size) | Self::Path(_, size) => *size,
        }
    }
}

/// The way through a feed, part by part.
pub(super) struct Parts<'a> {
    feed: Feed<'a>,
    /// Of a file: read, and not yet taken.
    buffer: Vec<u8>,
    /// How much of `buffer` is taken already.
    taken: usize,
    /// How much of the whole was read or, of a slice, taken.
    at: u64,
}

impl<'a> Parts<'a> {
    pub(super) fn of(feed: Feed<'a>) -> Self {
        Self {
            feed,
            buffer: Vec::new(),
            taken: 0,
            at: 0,
        }
    }

    /// Whether everything was taken.
    pub(super) fn is_over(&self) -> bool {
        self.taken == self.buffer.len() && self.at == self.feed.size_bytes()
    }

    /// The next part, of `most` bytes or what is left.
    pub(super) async fn next(&mut self, most: usize) -> io::Result<&[u8]> {
        if let Feed::Slice(bytes) = self.feed {
            let rest = bytes.get(self.at_in_memory()..).unwrap_or_default();
            let part = &rest[..rest.len().min(most)];
            self.at += part.len() as u64;
            return Ok(part);
        }
        if self.taken == self.buffer.len() {
            self.open().await?;
            self.read().await?;
        }
        let start = self.taken;
        self.taken = self.buffer.len().min(start.saturating_add(most));
        Ok(&self.buffer[start..self.taken])
    }

    fn at_in_memory(&self) -> usize {
        usize::try_from(self.at).unwrap_or(usize::MAX)
    }

    async fn open(&mut self) -> io::Result<()> {
        if let Feed::Path(path, size) = self.feed {
            let path = path.to_owned();
            let opened = spawn_blocking(move || File::open(path)).await;
            self.feed = Feed::File(Arc::new(opened.map_err(io::Error::other)??), size);
        }
        Ok(())
    }

    async fn read(&mut self) -> io::Result<()> {
        let Feed::File(file, size) = &self.feed else {
            return Ok(());
        };
        let (file, at) = (Arc::clone(file), self.at);
        let left = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(left.min(READ_BYTES), 0);
        let read = move || file.read_exact_at(&mut buffer, at).map(|()| buffer);
        self.buffer = spawn_blocking(read).await.map_err(io::Error::other)??;
        self.taken = 0;
        self.at += self.buffer.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn all(feed: Feed<'_>, most: usize) -> io::Result<Vec<u8>> {
        let mut parts = Parts::of(feed);
        let mut bytes = Vec::new();
        while !parts.is_over() {
            let part = parts.next(most).await?;
            assert!(!part.is_empty() && part.len() <= most);
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn bytes_and_files_come_whole_and_in_parts() {
        let bytes: Vec<u8> = (0..=255).cycle().take(2 * READ_BYTES + 7).collect();
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).expect("written");
        file.write_all(b"not this").expect("written");
        let path = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(path.path(), &bytes).expect("written");
        let named = Feed::Path(path.path(), bytes.len() as u64);
        let feed = Feed::File(Arc::new(file), bytes.len() as u64);
        for most in [READ_BYTES / 4, 1000] {
            assert_eq!(all(Feed::Slice(&bytes), most).await.expect("read"), bytes);
            assert_eq!(all(feed.clone(), most).await.expect("read"), bytes);
            assert_eq!(all(named.clone(), most).await.expect("read"), bytes);
        }
        assert!(all(Feed::EMPTY, 1).await.expect("read").is_empty());
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_than_it_should_be_is_an_error() {
        let file = tempfile::tempfile().expect("a file");
        assert!(all(Feed::File(Arc::new(file), 1), 1).await.is_err());
    }
}
