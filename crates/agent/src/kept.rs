//! What the work directory held at `Keep`, to be laid out again: directories, files, symbolic links, their modes and times.
//!
//! It lies in one file in memory, as records in the order of a walk: enter this directory, make this file, write these
//! bytes at this offset, leave. Only what a file really holds is in it, its holes are not. A hard link becomes a file of its
//! own; pipes, sockets, extended attributes and access lists are not kept.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::Path,
};

use libc::{c_int, mode_t};

use crate::{
    clean,
    directory::{self, Directory, Listing, PERMISSIONS, Time},
    helper,
    identity::Identity,
    sys::check,
};

/// How much is copied at a time, in bytes.
const COPY_BYTES: usize = 64 << 10;

/// Up to this many bytes the agent lays out itself, in less time than a fork takes. More may be more than there is memory
/// for, and is left to a helper.
const SMALL_BYTES: u64 = 256 << 10;

/// The most that belongs to a record but a file's data, in bytes: a name and a link's target, each with a NUL.
const NAMES_BYTES: usize = 256 + 4096;

/// A work directory that was kept.
pub struct Kept {
    records: File,
    work_dir: CString,
    identity: Identity,
    bytes: u64,
    /// Whether the work directory is what would be laid out: nothing in it was not kept, or not kept as it is.
    pub is_exact: bool,
}

impl Kept {
    /// Keeps what `work_dir` holds.
    pub fn take(work_dir: &Path, identity: Identity) -> io::Result<Self> {
        let records = memory_file()?;
        let work_dir = CString::new(work_dir.as_os_str().as_bytes())?;
        helper::run(&mut || identity.act(|| Walk::all(&work_dir, &records))?)?;
        let bytes = records.metadata()?.len();
        let mut last = [0; Record::BYTES];
        records.read_exact_at(&mut last, bytes.saturating_sub(Record::BYTES as u64))?;
        Ok(Self {
            records,
            work_dir,
            identity,
            bytes,
            is_exact: Record::decode(&last).extra == EXACT,
        })
    }

    /// The memory that it takes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the work directory what it was.
    pub fn lay_out(&self) -> io::Result<()> {
        let mut work = || {
            self.identity.act(|| {
                clean::empty(&self.work_dir, self.identity)?;
                lay_out(&self.records, &self.work_dir)
            })?
        };
        if self.bytes <= SMALL_BYTES {
            work()
        } else {
            helper::run(&mut work)
        }
    }
}

/// A file without a name, that no stage can open.
fn memory_file() -> io::Result<File> {
    // SAFETY: the name ends with a NUL.
    let fd = check(unsafe { libc::memfd_create(c"kept".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the call succeeded, so that the descriptor is open and nobody else's.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// What a record says to do.
mod kind {
    /// Make the directory and enter it. Its name follows.
    pub const ENTER: u64 = 0;
    /// Set mode and time of this directory and go up; at the top it is the last record, with `EXACT` as its extra or 0.
    pub const LEAVE: u64 = 1;
    /// Make the file, with its size as extra. Its name follows.
    pub const FILE: u64 = 2;
    /// Write what follows at the offset extra.
    pub const DATA: u64 = 3;
    /// Set mode and time of the file.
    pub const CLOSE: u64 = 4;
    /// Make the symbolic link. Its name and its target follow.
    pub const LINK: u64 = 5;
}

const EXACT: u64 = 1;

/// One step of laying out.
#[derive(Default)]
struct Record {
    kind: u64,
    mode: mode_t,
    modified: Time,
    /// How many bytes follow. Names end with a NUL.
    length: u64,
    extra: u64,
}

impl Record {
    const WORDS: usize = 6;
    const BYTES: usize = 8 * Self::WORDS;

    /// With mode and time of modification from `status`.
    fn of(kind: u64, status: &libc::stat) -> Self {
        Self {
            kind,
            mode: status.st_mode & PERMISSIONS,
            modified: (status.st_mtime, status.st_mtime_nsec),
            ..Self::default()
        }
    }

    fn encode(&self) -> [u8; Self::BYTES] {
        let (seconds, nanoseconds) = self.modified;
        let words: [u64; Self::WORDS] = [
            self.kind,
            self.mode.into(),
            seconds.cast_unsigned(),
            nanoseconds.cast_unsigned(),
            self.length,
            self.extra,
        ];
        let mut bytes = [0; Self::BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let mut words = [0; Self::WORDS];
        for (word, part) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*part);
        }
        let [kind, mode, seconds, nanoseconds, length, extra] = words;
        Self {
            kind,
            mode: mode_t::try_from(mode).unwrap_or(0),
            modified: (seconds.cast_signed(), nanoseconds.cast_signed()),
            length,
            extra,
        }
    }
}

/// A directory on the way to the one that is read.
struct Above {
    /// Where it goes on.
    next: i64,
    /// The mode that it had.
    mode: mode_t,
}

/// The walk that keeps a tree.
struct Walk<'a> {
    records: BufWriter<&'a File>,
    buffer: Vec<u8>,
    /// How many bytes of files may still be kept: not more than can be laid out again.
    left: u64,
    is_exact: bool,
}

impl<'a> Walk<'a> {
    /// Writes the records of everything in `top`, which is afterwards as it was.
    fn all(top: &CStr, records: &'a File) -> io::Result<()> {
        let (mut directory, mut mode) = Directory::open(top)?;
        let mut walk = Self {
            records: BufWriter::with_capacity(COPY_BYTES, records),
            buffer: vec![0; COPY_BYTES],
            left: directory.size()?,
            is_exact: true,
        };
        let mut above: Vec<Above> = Vec::new();
        let mut listing = Listing::new();
        loop {
            if let Some(entry) = listing.next(&directory)? {
                let status = directory.status_of(entry.name)?;
                if status.st_mode & libc::S_IFMT != libc::S_IFDIR {
                    walk.keep(&directory, entry.name, &status)?;
                    continue;
                }
                walk.write_names(Record::of(kind::ENTER, &status), &[entry.name.to_bytes()])?;
                let (child, child_mode) = directory.enter(entry.name)?;
                let next = entry.next;
                above.push(Above { next, mode });
                (directory, mode) = (child, child_mode);
            } else {
                let mut record = Record::of(kind::LEAVE, &directory.status()?);
                record.mode = mode;
                record.extra = if walk.is_exact { EXACT } else { 0 };
                walk.records.write_all(&record.encode())?;
                let Some(parent) = above.pop() else {
                    directory.close_again(mode)?;
                    return walk.records.flush();
                };
                // In this order: nobody goes up from a directory that is closed.
                let up = directory.parent()?;
                directory.close_again(mode)?;
                (directory, mode) = (up, parent.mode);
                directory.seek(parent.next)?;
            }
            listing = Listing::new();
        }
    }

    /// Keeps an entry that is no directory.
    fn keep(&mut self, directory: &Directory, name: &CStr, status: &libc::stat) -> io::Result<()> {
        match status.st_mode & libc::S_IFMT {
            libc::S_IFREG => self.keep_file(directory, name, status),
            libc::S_IFLNK => {
                let mut target = [0; 4096];
                let target = directory.target(name, &mut target)?;
                self.write_names(Record::of(kind::LINK, status), &[name.to_bytes(), target])
            }
            _ => {
                self.is_exact = false;
                Ok(())
            }
        }
    }

    fn keep_file(
        &mut self,
        directory: &Directory,
        name: &CStr,
        status: &libc::stat,
    ) -> io::Result<()> {
        const READABLE: mode_t = libc::S_IRUSR;
        self.is_exact &= status.st_nlink == 1;
        let mode = status.st_mode & PERMISSIONS;
        let is_closed = mode & READABLE == 0;
        if is_closed {
            directory.set_mode_of(name, mode | READABLE)?;
        }
        let file = File::from(directory.file(name, libc::O_RDONLY, 0)?);
        if is_closed {
            directory::set_mode(&file, mode)?;
        }
        let mut record = Record::of(kind::FILE, status);
        record.extra = status.st_size.cast_unsigned();
        self.write_names(record, &[name.to_bytes()])?;
        let mut offset = 0;
        let size = status.st_size;
        while let Some(start) = seek(&file, offset, libc::SEEK_DATA, size)? {
            offset = seek(&file, start, libc::SEEK_HOLE, size)?.unwrap_or(size);
            self.keep_data(&file, start.cast_unsigned(), offset.cast_unsigned())?;
        }
        let record = Record::of(kind::CLOSE, status);
        self.records.write_all(&record.encode())
    }

    /// Keeps the bytes of `file` from `start` to `end`.
    fn keep_data(&mut self, file: &File, start: u64, end: u64) -> io::Result<()> {
        let length = end.saturating_sub(start);
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        let record = Record {
            kind: kind::DATA,
            length,
            extra: start,
            ..Record::default()
        };
        self.records.write_all(&record.encode())?;
        let mut at = start;
        while at < end {
            let part = part(&mut self.buffer, end - at);
            file.read_exact_at(part, at)?;
            self.records.write_all(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn write_names(&mut self, mut record: Record, names: &[&[u8]]) -> io::Result<()> {
        record.length = names.iter().map(|it| it.len() as u64 + 1).sum();
        self.records.write_all(&record.encode())?;
        for name in names {
            self.records.write_all(name)?;
            self.records.write_all(&[0])?;
        }
        Ok(())
    }
}

/// Does what the records say in `top`, which is empty.
fn lay_out(mut records: &File, top: &CStr) -> io::Result<()> {
    records.rewind()?;
    let mut records = BufReader::with_capacity(COPY_BYTES, records);
    let mut buffer = vec![0; COPY_BYTES];
    let (mut directory, _) = Directory::open(top)?;
    directory.strip()?;
    let mut file = None;
    let mut depth = 0_usize;
    loop {
        let mut bytes = [0; Record::BYTES];
        records.read_exact(&mut bytes)?;
        let record = Record::decode(&bytes);
        match (record.kind, &file) {
            (kind::ENTER, _) => {
                let name = names(&mut records, &mut buffer, &record)?.0;
                directory.make(name)?;
                directory = directory.enter(name)?.0;
                depth += 1;
            }
            (kind::LEAVE, _) if depth == 0 => {
                return directory.finish(record.mode, record.modified);
            }
            (kind::LEAVE, _) => {
                // In this order: nobody goes up from a directory that is closed.
                let up = directory.parent()?;
                directory.finish(record.mode, record.modified)?;
                directory = up;
                depth -= 1;
            }
            (kind::FILE, _) => {
                let name = names(&mut records, &mut buffer, &record)?.0;
                file = Some(make_file(&directory, name, record.extra)?);
            }
            (kind::DATA, Some(file)) => {
                write_data(&mut records, &mut buffer, &record, file)?;
            }
            (kind::CLOSE, Some(open)) => {
                directory::finish(open, record.mode, record.modified)?;
                file = None;
            }
            (kind::LINK, _) => {
                let (name, target) = names(&mut records, &mut buffer, &record)?;
                directory.link(name, target, record.modified)?;
            }
            _ => return Err(broken()),
        }
    }
}

fn make_file(directory: &Directory, name: &CStr, size: u64) -> io::Result<File> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let file = File::from(directory.file(name, flags, 0o600)?);
    if size > 0 {
        file.set_len(size)?;
    }
    Ok(file)
}

/// Writes the bytes that follow `record` to `file`.
fn write_data(
    records: &mut impl Read,
    buffer: &mut [u8],
    record: &Record,
    file: &File,
) -> io::Result<()> {
    let mut left = record.length;
    let mut at = record.extra;
    while left > 0 {
        let part = part(buffer, left);
        records.read_exact(part)?;
        file.write_all_at(part, at)?;
        left -= part.len() as u64;
        at += part.len() as u64;
    }
    Ok(())
}

/// The name that follows `record`, and a second one if there is.
fn names<'a>(
    records: &mut impl Read,
    buffer: &'a mut [u8],
    record: &Record,
) -> io::Result<(&'a CStr, &'a CStr)> {
    let part = part(&mut buffer[..NAMES_BYTES], record.length);
    records.read_exact(part)?;
    let name = CStr::from_bytes_until_nul(part).map_err(|_| broken())?;
    let rest = &part[name.to_bytes_with_nul().len()..];
    Ok((name, CStr::from_bytes_until_nul(rest).unwrap_or_default()))
}

/// As much of `buffer` as is needed for `length` bytes, or all of it.
fn part(buffer: &mut [u8], length: u64) -> &mut [u8] {
    let size = usize::try_from(length).unwrap_or(usize::MAX);
    let size = size.min(buffer.len());
    &mut buffer[..size]
}

/// Where data, or a hole, begins in `file` of `size` bytes from `offset` on; `None` at its end.
fn seek(file: &File, offset: i64, what: c_int, size: i64) -> io::Result<Option<i64>> {
    // SAFETY: touches no memory, the descriptor is open.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, what) };
    if found >= 0 {
        return Ok(Some(found));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        // A kernel that knows no holes (gVisor): all of it is data.
        error if error.raw_os_error() == Some(libc::EINVAL) => {
            let is_data = what == libc::SEEK_DATA && offset < size;
            Ok(is_data.then_some(offset))
        }
        error => Err(error),
    }
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}
