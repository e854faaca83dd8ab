//! `envicutor-agent preload RUNTIMES_DIR NAME BYTES`: has the kernel keep the large files of a root file system in huge pages of
//! its page cache, and libraries and smaller programs in pages as large as fit into them. A compiler of 30 MB is then mapped by a
//! few entries of page tables instead of thousands of faults, and a library counted in and out as a handful of pages. No part of
//! PID 1: it runs in a container of the worker's that has the volume to read.
//!
//! Only page cache: no file is changed, and what the kernel needs for something else it takes. Where the volume's file system
//! keeps no huge pages (ext4 does since Linux 6.16, XFS since 5.18), this says so and nothing is won.
//!
//! A root is an image's: names are not followed through links, and what is not a regular file is not opened.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    ptr,
};

use libc::{c_int, c_void};

use crate::sys::check;

/// The size of a huge page on x86-64, in bytes. A file below it has none.
const HUGE_PAGE: usize = 2 << 20;

/// Files below it are left alone, in bytes: what is mapped at a fault is as much anyway.
const WORTH_IT: usize = 64 << 10;

/// Does it, for files of `BYTES` together at most, those that have huge pages before the others, the smaller first. The exit
/// code: 0 done, 1 not (standard error says why), 2 wrong arguments.
pub fn run(arguments: impl Iterator<Item = OsString>) -> c_int {
    let arguments: Vec<OsString> = arguments.collect();
    let [directory, name, bytes] = arguments.as_slice() else {
        eprintln!("usage: envicutor-agent preload RUNTIMES_DIR NAME BYTES");
        return 2;
    };
    let Some(bytes) = bytes.to_str().and_then(|bytes| bytes.parse().ok()) else {
        eprintln!("preload: {} is no number of bytes", bytes.display());
        return 2;
    };
    match preload(&Path::new(directory).join(name), bytes) {
        Ok(()) => 0,
        Err(problem) => {
            eprintln!("preload: {problem}");
            1
        }
    }
}

fn preload(root: &Path, most_bytes: usize) -> Result<(), String> {
    // A machine with little memory has better use for it.
    let mut left = most_bytes.min(available_bytes() / 4);
    for file in large_files(root) {
        let Some(rest) = left.checked_sub(file.bytes) else {
            continue;
        };
        left = rest;
        let failed = |error| format!("{}: {error}", file.path.display());
        if file.preload().map_err(failed)? == Preloaded::Small {
            return Err(
                "the file system of the volume keeps no huge pages, or Linux is told to have none"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// What came of a file.
#[derive(Debug, PartialEq, Eq)]
enum Preloaded {
    /// It is in huge pages, if not all of it; a small one in what the kernel found fitting.
    Large,
    /// Programs use it: it stays in the pages that it has. Or it is not to be read.
    Kept,
    /// It was read anew, and not into huge pages.
    Small,
}

/// A file that is worth it.
struct Large {
    path: PathBuf,
    bytes: usize,
}

/// The files of `root` that are worth it, each once: those of a huge page or more, which show whether there are such pages, and
/// then the others; the smaller first. What cannot be read is passed over.
fn large_files(root: &Path) -> Vec<Large> {
    let (mut directories, mut large, mut seen) = (vec![root.to_owned()], vec![], HashSet::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // Of a link, not of what it leads to.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            let bytes = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
            if metadata.is_file() && bytes >= WORTH_IT && seen.insert(metadata.ino()) {
                let path = entry.path();
                large.push(Large { path, bytes });
            }
        }
    }
    large.sort_unstable_by_key(|file| (file.bytes < HUGE_PAGE, file.bytes));
    large
}

impl Large {
    fn preload(&self) -> io::Result<Preloaded> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Preloaded::Kept);
            }
            opened => opened?,
        };
        if self.bytes < HUGE_PAGE {
            // In which pages it is the kernel does not tell, so it is read anew each time, but for what is not written out yet.
            evict(&file)?;
            self.read(&file)?;
            return Ok(Preloaded::Large);
        }
        if self.is_huge_when_read(&file)? {
            return Ok(Preloaded::Large);
        }
        // What stands in small pages stays there until it has gone, and what is not written yet does not go.
        file.sync_data()?;
        evict(&file)?;
        let gone = Mapping::of(&file, self.bytes)?.is_absent()?;
        Ok(match (self.is_huge_when_read(&file)?, gone) {
            (true, _) => Preloaded::Large,
            (false, true) => Preloaded::Small,
            (false, false) => Preloaded::Kept,
        })
    }

    /// Reads it, into pages as large as fit where it is not there already.
    fn read(&self, file: &File) -> io::Result<Mapping> {
        let mapping = Mapping::of(file, self.bytes)?;
        mapping.advise(libc::MADV_HUGEPAGE)?;
        mapping.advise(libc::MADV_POPULATE_READ)?;
        Ok(mapping)
    }

    /// The same; returns whether half of it is in huge pages then. (The end of a file never is.)
    fn is_huge_when_read(&self, file: &File) -> io::Result<bool> {
        let _mapped = self.read(file)?;
        Ok(huge_bytes()? >= self.bytes / 2)
    }
}

/// Has the kernel forget the pages of `file` that nobody maps.
fn evict(file: &File) -> io::Result<()> {
    // SAFETY: touches no memory.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Memory that the kernel could give without swapping, in bytes; all there can be where it does not tell.
fn available_bytes() -> usize {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    bytes_after("MemAvailable:", &memory).unwrap_or(usize::MAX)
}

/// Bytes of files that this process has mapped by huge pages.
fn huge_bytes() -> io::Result<usize> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
    Ok(bytes_after("FilePmdMapped:", &rollup).unwrap_or(0))
}

/// The value of the line of `text` that begins with `name`, where it is in the kernel's kB, which are KiB.
fn bytes_after(name: &str, text: &str) -> Option<usize> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: usize = value.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

/// A file in memory, to be read, at the beginning of a huge page. Dropped, it is unmapped.
struct Mapping {
    /// With what was reserved to find that beginning.
    reserved: (*mut c_void, usize),
    start: *mut c_void,
    bytes: usize,
}

impl Mapping {
    fn of(file: &File, bytes: usize) -> io::Result<Self> {
        let room = bytes
            .checked_add(HUGE_PAGE)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let reserved = map(ptr::null_mut(), room, libc::PROT_NONE, anonymous, -1)?;
        let offset = reserved.addr().next_multiple_of(HUGE_PAGE) - reserved.addr();
        let mut mapping = Self {
            reserved: (reserved, room),
            start: reserved.wrapping_byte_add(offset),
            bytes,
        };
        let in_place = libc::MAP_PRIVATE | libc::MAP_FIXED;
        let (start, fd) = (mapping.start, file.as_raw_fd());
        mapping.start = map(start, bytes, libc::PROT_READ, in_place, fd)?;
        Ok(mapping)
    }

    /// Whether nothing of it is in the page cache. To be asked before it is read through this mapping. Of a file that is not this
    /// user's the kernel does not tell.
    fn is_absent(&self) -> io::Result<bool> {
        const PAGE: usize = 4_096;
        let mut pages = vec![0_u8; self.bytes.div_ceil(PAGE)];
        // SAFETY: there is a byte for each page of the mapping.
        check(unsafe { libc::mincore(self.start, self.bytes, pages.as_mut_ptr()) })?;
        Ok(pages.iter().all(|page| page & 1 == 0))
    }

    fn advise(&self, advice: c_int) -> io::Result<()> {
        // SAFETY: the range is this mapping's, and nothing is read of it.
        check(unsafe { libc::madvise(self.start, self.bytes, advice) }).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (reserved, room) = self.reserved;
        // SAFETY: the range was reserved for this mapping, and nobody else has a pointer into it.
        unsafe { libc::munmap(reserved, room) };
    }
}

fn map(
    at: *mut c_void,
    bytes: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
) -> io::Result<*mut c_void> {
    // SAFETY: what is mapped anew is nobody's, or was reserved by the caller.
    let mapped = unsafe { libc::mmap(at, bytes, protection, flags, fd, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(mapped)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn large_files_are_found_once_and_not_through_links() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("deep")).expect("made");
        for (name, bytes) in [
            ("tiny", WORTH_IT - 1),
            ("library", HUGE_PAGE - 1),
            ("deep/larger", 3 * HUGE_PAGE),
            ("deep/program", WORTH_IT),
            ("large", HUGE_PAGE),
        ] {
            let file = File::create(path(name)).expect("made");
            file.set_len(bytes as u64).expect("grown");
        }
        fs::hard_link(path("large"), path("deep/again")).expect("linked");
        symlink(path("large"), path("link")).expect("linked");
        symlink(directory.path(), path("round")).expect("linked");
        let bytes: Vec<usize> = large_files(directory.path())
            .iter()
            .map(|file| file.bytes)
            .collect();
        assert_eq!(bytes, [HUGE_PAGE, 3 * HUGE_PAGE, WORTH_IT, HUGE_PAGE - 1]);
    }

    #[test]
    fn a_file_is_mapped_where_a_huge_page_begins() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(HUGE_PAGE as u64).expect("grown");
        let mapping = Mapping::of(&file, HUGE_PAGE).expect("mapped");
        assert_eq!(mapping.start.addr() % HUGE_PAGE, 0);
        assert!(mapping.is_absent().expect("asked"), "a hole was never read");
        mapping.advise(libc::MADV_POPULATE_READ).expect("read");
        assert!(!mapping.is_absent().expect("asked"));
    }

    #[test]
    fn values_are_read_in_bytes() {
        let text = "MemFree:     12 kB\nMemAvailable:   2048 kB\nHugePages_Total:  3\n";
        assert_eq!(bytes_after("MemAvailable:", text), Some(2 << 20));
        assert_eq!(bytes_after("HugePages_Total:", text), None);
        assert!(available_bytes() < usize::MAX, "Linux tells");
    }

    #[test]
    fn wrong_arguments_are_told() {
        let run = |arguments: &[&str]| run(arguments.iter().map(OsString::from));
        assert_eq!(run(&["/", "aa"]), 2);
        assert_eq!(run(&["/", "aa", "many"]), 2);
        assert_eq!(run(&["/", "nowhere", "1"]), 0);
    }
}
