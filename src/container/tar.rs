//! Small archives that are written, and a large one that passes by and is counted: so that one which broke off is not taken
//! for whole.

use std::io::Read;

/// A block of an archive, in bytes.
const BLOCK: usize = 512;

/// An archive of a few entries, all of root's.
pub(super) struct Small(tar::Builder<Vec<u8>>);

impl Small {
    pub(super) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(super) fn directory(&mut self, path: &str) {
        let header = header(tar::EntryType::Directory, 0o755);
        self.append(header, path, b"");
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        let mut header = header(tar::EntryType::Regular, 0o644);
        header.set_size(content.len() as u64);
        self.append(header, path, content);
    }

    pub(super) fn end(self) -> Vec<u8> {
        self.0.into_inner().expect("memory takes what is written")
    }

    fn append(&mut self, mut header: tar::Header, path: &str, content: &[u8]) {
        let appended = self.0.append_data(&mut header, path, content);
        appended.expect("memory takes what is written");
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The names of the files in an archive, without their directories.
pub(super) fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.header().entry_type().is_file())
        .filter_map(|entry| Some(entry.path().ok()?.file_name()?.to_str()?.to_owned()))
        .collect()
}

/// The content of the file in an archive that holds one.
pub(super) fn only_file(archive: &[u8]) -> Option<Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    let mut content = Vec::new();
    entry.read_to_end(&mut content).ok()?;
    Some(content)
}

/// What was seen of an archive that passes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    /// Files, directories, links and what else there is.
    pub(super) entries: u64,
    /// Bytes of files.
    pub(super) bytes: u64,
    /// What is still to come of the current entry's content, with its padding.
    skip: u64,
    block: [u8; BLOCK],
    /// How much of `block` has come.
    filled: usize,
    /// Blocks of zeros in a row: two are the end.
    zeros: u32,
}

impl Default for Count {
    fn default() -> Self {
        Self {
            entries: 0,
            bytes: 0,
            skip: 0,
            block: [0; BLOCK],
            filled: 0,
            zeros: 0,
        }
    }
}

impl Count {
    /// Takes the next part of the archive.
    pub(super) fn take(&mut self, mut part: &[u8]) {
        while !part.is_empty() && self.zeros < 2 {
            let skipped = usize::try_from(self.skip)
                .unwrap_or(usize::MAX)
                .min(part.len());
            self.skip -= skipped as u64;
            part = &part[skipped..];
            let taken = part.len().min(BLOCK - self.filled);
            self.block[self.filled..self.filled + taken].copy_from_slice(&part[..taken]);
            self.filled += taken;
            part = &part[taken..];
            if self.filled == BLOCK {
                self.filled = 0;
                self.header();
            }
        }
    }

    /// Whether its end was seen.
    pub(super) fn is_whole(&self) -> bool {
        self.zeros >= 2
    }

    fn header(&mut self) {
        if self.block.iter().all(|byte| *byte == 0) {
            self.zeros += 1;
            return;
        }
        self.zeros = 0;
        let header = tar::Header::from_byte_slice(&self.block);
        // A size that cannot be read ends in headers that are none, and the end is not seen.
        let size = header.entry_size().unwrap_or_default();
        let kind = header.entry_type();
        let is_extension = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if !is_extension {
            self.entries += 1;
            self.bytes = self.bytes.saturating_add(size);
        }
        self.skip = size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut tar = Small::new();
        tar.directory("dir");
        tar.file("dir/a", &[7; 1000]);
        tar.file(&format!("dir/{}", "long".repeat(50)), b"x");
        tar.end()
    }

    #[test]
    fn an_archive_is_counted_in_parts_of_any_size() {
        for size in [1, 511, 512, 513, 100_000] {
            let mut count = Count::default();
            for part in archive().chunks(size) {
                count.take(part);
            }
            assert!(count.is_whole());
            assert_eq!((count.entries, count.bytes), (3, 1001), "{size}");
        }
    }

    #[test]
    fn an_archive_that_broke_off_is_not_whole() {
        let archive = archive();
        let mut count = Count::default();
        count.take(&archive[..archive.len() - 2 * BLOCK]);
        assert!(!count.is_whole());
    }

    #[test]
    fn what_was_written_is_found_again() {
        let mut tar = Small::new();
        tar.directory("ready");
        tar.file("ready/aa", b"one");
        assert_eq!(names(&tar.end()), ["aa"]);
        let mut tar = Small::new();
        tar.file("aa", b"one");
        assert_eq!(only_file(&tar.end()), Some(b"one".to_vec()));
    }
}
