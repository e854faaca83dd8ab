//! Directories that a stage has left, however it left them: what the kernel says of their entries, and the way up and down.
//!
//! No path is ever longer than one name, no symbolic link is followed, and one directory is open at a time: a tree of any
//! depth and names of any bytes are all the same to who walks it. Every process of the stage is dead by then, so that nothing
//! changes between a look and a deed. To be used as the stages' user ([`crate::identity::Identity::act`]).

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use libc::{c_int, mode_t};

use crate::sys::check;

/// What an owner needs to list a directory, and to make and remove entries.
const ALL_OF_OWNER: mode_t = 0o700;

/// The bits of a mode that are permissions.
pub const PERMISSIONS: mode_t = 0o7777;

/// When something was last modified: seconds and nanoseconds.
pub type Time = (i64, i64);

/// An open directory.
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens the directory at `path`, and says which mode it had: one that is closed to its owner is opened to it.
    pub fn open(path: &CStr) -> io::Result<(Self, mode_t)> {
        enter(libc::AT_FDCWD, path)
    }

    /// The same for `name` in this directory.
    pub fn enter(&self, name: &CStr) -> io::Result<(Self, mode_t)> {
        enter(self.raw(), name)
    }

    /// The directory `name` in this one, as it is.
    pub fn below(&self, name: &CStr) -> io::Result<Self> {
        open_at(self.raw(), name, libc::O_RDONLY | libc::O_DIRECTORY, 0).map(Self)
    }

    /// The same, made where it is missing.
    pub fn enter_or_make(&self, name: &CStr) -> io::Result<Self> {
        match self.below(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // SAFETY: `name` ends with a NUL, the directory is open.
                check(unsafe { libc::mkdirat(self.raw(), name.as_ptr(), 0o755) })?;
                self.below(name)
            }
            found => found,
        }
    }

    /// The directory above. This one must be open to its owner.
    pub fn parent(&self) -> io::Result<Self> {
        open_at(self.raw(), c"..", libc::O_RDONLY | libc::O_DIRECTORY, 0).map(Self)
    }

    /// Makes the directory `name`, open to its owner alone.
    pub fn make(&self, name: &CStr) -> io::Result<()> {
        // SAFETY: `name` ends with a NUL, the directory is open.
        check(unsafe { libc::mkdirat(self.raw(), name.as_ptr(), ALL_OF_OWNER) }).map(drop)
    }

    /// Opens the file `name`.
    pub fn file(&self, name: &CStr, flags: c_int, mode: mode_t) -> io::Result<OwnedFd> {
        open_at(self.raw(), name, flags, mode)
    }

    /// What the kernel says of this directory.
    pub fn status(&self) -> io::Result<libc::stat> {
        status_of(&self.0)
    }

    /// How many bytes its file system can hold.
    pub fn size(&self) -> io::Result<u64> {
        // SAFETY: a statvfs is plain data.
        let mut system: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: `system` is a statvfs that the call may write.
        check(unsafe { libc::fstatvfs(self.raw(), &raw mut system) })?;
        Ok(match system.f_blocks.saturating_mul(system.f_frsize) {
            0 => u64::MAX, // It has no bound of its own.
            bytes => bytes,
        })
    }

    /// What it says of the entry `name`.
    pub fn status_of(&self, name: &CStr) -> io::Result<libc::stat> {
        status_at(self.raw(), name, 0)
    }

    /// Changes the mode of the entry `name`, which must be no symbolic link.
    pub fn set_mode_of(&self, name: &CStr, mode: mode_t) -> io::Result<()> {
        set_mode_at(self.raw(), name, mode)
    }

    /// Removes the entry `name`, a directory only where it is empty.
    pub fn remove(&self, name: &CStr, is_directory: bool) -> io::Result<()> {
        let flags = if is_directory { libc::AT_REMOVEDIR } else { 0 };
        // SAFETY: `name` ends with a NUL, the directory is open.
        check(unsafe { libc::unlinkat(self.raw(), name.as_ptr(), flags) }).map(drop)
    }

    /// The target of the symbolic link `name`, without a NUL.
    pub fn target<'a>(&self, name: &CStr, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let (pointer, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: `name` ends with a NUL, the buffer has `size` bytes.
        let count = unsafe { libc::readlinkat(self.raw(), name.as_ptr(), pointer, size) };
        Ok(&buffer[..length(count)?])
    }

    /// Makes the symbolic link `name`.
    pub fn link(&self, name: &CStr, target: &CStr, modified: Time) -> io::Result<()> {
        // SAFETY: both end with a NUL, the directory is open.
        check(unsafe { libc::symlinkat(target.as_ptr(), self.raw(), name.as_ptr()) })?;
        let times = times(modified);
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        // SAFETY: `name` ends with a NUL, there are two times.
        check(unsafe { libc::utimensat(self.raw(), name.as_ptr(), times.as_ptr(), flags) })?;
        Ok(())
    }

    /// Makes the hard link `name` to the entry `target` of `from`, which must be no symbolic link.
    pub fn link_hard(&self, name: &CStr, from: &Self, target: &CStr) -> io::Result<()> {
        let (from, to) = (from.raw(), self.raw());
        // SAFETY: both names end with a NUL, both directories are open. Without a flag no link is followed.
        check(unsafe { libc::linkat(from, target.as_ptr(), to, name.as_ptr(), 0) }).map(drop)
    }

    /// Goes on with the entry after the one whose [`Entry::next`] this is.
    pub fn seek(&self, position: i64) -> io::Result<()> {
        // SAFETY: touches no memory.
        let result = unsafe { libc::lseek(self.raw(), position, libc::SEEK_SET) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Removes its extended attributes and access lists: a program can write them, and a default list goes on in every file.
    pub fn strip(&self) -> io::Result<()> {
        const MOST: usize = 64 << 10;
        // SAFETY: a size of 0 asks for the size alone.
        if unsafe { libc::flistxattr(self.raw(), std::ptr::null_mut(), 0) } <= 0 {
            return Ok(()); // None, or none known to this file system.
        }
        let mut names = vec![0_u8; MOST];
        // SAFETY: the buffer has the size that is passed.
        let count = unsafe { libc::flistxattr(self.raw(), names.as_mut_ptr().cast(), MOST) };
        for name in names[..length(count)?].split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                continue;
            };
            // Best effort: those that a security module sets cannot be removed, and not be set by a program either.
            // SAFETY: `name` ends with a NUL, the directory is open.
            unsafe { libc::fremovexattr(self.raw(), name.as_ptr()) };
        }
        Ok(())
    }

    /// Sets its mode back to `mode`, if it was opened to its owner.
    pub fn close_again(&self, mode: mode_t) -> io::Result<()> {
        if mode & ALL_OF_OWNER == ALL_OF_OWNER {
            return Ok(());
        }
        set_mode(&self.0, mode)
    }

    /// Sets mode and time of modification: the last thing that is done to it.
    pub fn finish(&self, mode: mode_t, modified: Time) -> io::Result<()> {
        finish(&self.0, mode, modified)
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sets mode and time of modification of an open file or directory.
pub fn finish(fd: &impl AsRawFd, mode: mode_t, modified: Time) -> io::Result<()> {
    set_mode(fd, mode)?;
    set_modified(fd, modified)
}

/// Sets the time of modification of an open file or directory.
pub fn set_modified(fd: &impl AsRawFd, modified: Time) -> io::Result<()> {
    let times = times(modified);
    // SAFETY: there are two times, the descriptor is open.
    check(unsafe { libc::futimens(fd.as_raw_fd(), times.as_ptr()) }).map(drop)
}

/// What the kernel says of an open file or directory.
pub fn status_of(fd: &impl AsRawFd) -> io::Result<libc::stat> {
    status_at(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

/// Changes the mode of an open file or directory.
pub fn set_mode(fd: &impl AsRawFd, mode: mode_t) -> io::Result<()> {
    // SAFETY: touches no memory, the descriptor is open.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// Opens `name` in `directory`, which must be no symbolic link.
pub fn open_at(directory: RawFd, name: &CStr, flags: c_int, mode: mode_t) -> io::Result<OwnedFd> {
    // O_NONBLOCK: opening a pipe that somebody put there must not wait for its other end.
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: `name` ends with a NUL, `directory` is open.
    let fd = check(unsafe { libc::openat(directory, name.as_ptr(), flags, mode) })?;
    // SAFETY: the call succeeded, so that the descriptor is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A length that a system call returned, or its error.
pub fn length(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn enter(directory: RawFd, name: &CStr) -> io::Result<(Directory, mode_t)> {
    let status = status_at(directory, name, 0)?;
    let mode = status.st_mode & PERMISSIONS;
    let is_directory = status.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if is_directory && mode & ALL_OF_OWNER != ALL_OF_OWNER {
        set_mode_at(directory, name, ALL_OF_OWNER)?;
    }
    let fd = open_at(directory, name, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    Ok((Directory(fd), mode))
}

fn status_at(directory: RawFd, name: &CStr, flags: c_int) -> io::Result<libc::stat> {
    // SAFETY: a stat is plain data.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    let flags = flags | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: `name` ends with a NUL, `status` is a stat that the call may write.
    check(unsafe { libc::fstatat(directory, name.as_ptr(), &raw mut status, flags) })?;
    Ok(status)
}

fn set_mode_at(directory: RawFd, name: &CStr, mode: mode_t) -> io::Result<()> {
    // SAFETY: `name` ends with a NUL, the directory is open.
    check(unsafe { libc::fchmodat(directory, name.as_ptr(), mode, 0) }).map(drop)
}

/// For `utimensat`: read now, modified then.
fn times(modified: Time) -> [libc::timespec; 2] {
    [(0, libc::UTIME_NOW), modified].map(|(seconds, nanoseconds)| libc::timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    })
}

/// How much of a directory is read at a time, in bytes: little, because what was read is read again after each way down.
const LISTING_BYTES: usize = 4096;

/// The entries of a directory, from where it stands.
pub struct Listing {
    buffer: [u8; LISTING_BYTES],
    filled: usize,
    at: usize,
}

/// One entry, but `.` and `..`.
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a CStr,
    /// Where the directory goes on after it.
    pub next: i64,
    /// Whether it is known to be a directory.
    pub is_directory: bool,
}

impl Listing {
    /// Of which nothing is read yet.
    pub fn new() -> Self {
        Self {
            buffer: [0; LISTING_BYTES],
            filled: 0,
            at: 0,
        }
    }

    /// The next entry of `directory`, the same one at each call.
    pub fn next(&mut self, directory: &Directory) -> io::Result<Option<Entry<'_>>> {
        loop {
            if self.at == self.filled {
                self.filled = self.read(directory)?;
                self.at = 0;
                if self.filled == 0 {
                    return Ok(None);
                }
            }
            let start = self.at;
            let (entry, size) = parse(&self.buffer[start..self.filled])
                .ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))?;
            self.at = start + size;
            if !matches!(entry.name.to_bytes(), b"." | b"..") {
                // Parsed again, because a borrow that is returned from a loop would last for all of it.
                return Ok(parse(&self.buffer[start..self.filled]).map(|(entry, _)| entry));
            }
        }
    }

    fn read(&mut self, directory: &Directory) -> io::Result<usize> {
        let buffer = self.buffer.as_mut_ptr();
        // SAFETY: the buffer has the size that is passed.
        let count =
            unsafe { libc::syscall(libc::SYS_getdents64, directory.raw(), buffer, LISTING_BYTES) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// The first of the kernel's `linux_dirent64`: inode (8 bytes), position of the next (8), size (2), type (1), name.
fn parse(bytes: &[u8]) -> Option<(Entry<'_>, usize)> {
    let next = i64::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let size = usize::from(u16::from_ne_bytes(*bytes.get(16..)?.first_chunk()?));
    let kind = *bytes.get(18)?;
    let name = CStr::from_bytes_until_nul(bytes.get(19..size)?).ok()?;
    let is_directory = kind == libc::DT_DIR;
    Some((
        Entry {
            name,
            next,
            is_directory,
        },
        size,
    ))
}
