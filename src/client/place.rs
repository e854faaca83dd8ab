//! A directory that files of a hostile program's naming are written to. Nothing is written outside of it, no symbolic link below it
//! is followed, and nothing that is there is replaced unless that was asked for.
//!
//! Errors show names with their control characters escaped. A file appears under its name only when it is whole: until then it has a name of our own beside it, and none when it is given up.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, RenameFlags},
    io::Errno,
};

use crate::submission::check::path_problem;

/// What an unfinished file's name begins with.
const UNFINISHED: &str = ".envicutor-";

/// A file that is not written.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A name that would lead out of the directory, or none at all.
    #[error("a file of that name is not written: {problem}")]
    Name {
        /// What is wrong with it.
        problem: String,
    },
    /// Something is there already.
    #[error("{path:?} exists: it is replaced only with --force")]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// A component of the path is a symbolic link or a file.
    #[error("{path:?} is no directory: nothing is written below it")]
    NoDirectory {
        /// Which.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("{path:?} cannot be written: {source}")]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    open: OwnedFd,
}

/// A file that is being written. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct Place {
    directory: OwnedFd,
    unfinished: String,
    name: String,
    path: PathBuf,
    is_kept: bool,
}

const SEARCH: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

impl Directory {
    /// The directory at `path`, made where it is missing. Its own path may have links: whoever names it knows where it is.
    pub(super) fn open(path: &Path) -> Result<Self, PlaceError> {
        let unwritable = |source| PlaceError::Write {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(unwritable)?;
        let open = rustix::fs::openat(CWD, path, SEARCH, Mode::empty());
        Ok(Self {
            path: path.to_owned(),
            open: open.map_err(|error| unwritable(error.into()))?,
        })
    }

    /// Whether something is at `name`, without making anything.
    pub(super) fn has(&self, name: &str) -> Result<bool, PlaceError> {
        let (parents, last) = split(name)?;
        let mut at = self.duplicate()?;
        let mut path = self.path.clone();
        for parent in parents {
            path.push(parent);
            match step(&at, parent) {
                Ok(next) => at = next,
                Err(Errno::NOENT) => return Ok(false),
                Err(error) => return Err(blocked(path, error)),
            }
        }
        match rustix::fs::statat(&at, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(blocked(path.join(last), error)),
        }
    }

    /// A new file that is to be at `name`.
    pub(super) fn create(&self, name: &str, executable: bool) -> Result<(Place, File), PlaceError> {
        let (parents, last) = split(name)?;
        let mut at = self.duplicate()?;
        let mut path = self.path.clone();
        for parent in parents {
            path.push(parent);
            let next = match step(&at, parent) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&at, parent, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => step(&at, parent),
                        Err(error) => Err(error),
                    }
                }
                stepped => stepped,
            };
            at = next.map_err(|error| blocked(path.clone(), error))?;
        }
        path.push(last);
        let unfinished = format!("{UNFINISHED}{}", uuid::Uuid::now_v7().simple());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(if executable { 0o777 } else { 0o666 });
        let file = rustix::fs::openat(&at, &unfinished, flags | OFlags::CLOEXEC, mode);
        let file = file.map_err(|error| blocked(path.clone(), error))?;
        let place = Place {
            directory: at,
            unfinished,
            name: last.to_owned(),
            path,
            is_kept: false,
        };
        Ok((place, file.into()))
    }

    fn duplicate(&self) -> Result<OwnedFd, PlaceError> {
        let duplicate = self.open.as_fd().try_clone_to_owned();
        duplicate.map_err(|source| PlaceError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

/// The directories above, and the last name.
fn split(name: &str) -> Result<(impl Iterator<Item = &str>, &str), PlaceError> {
    if let Some(problem) = path_problem(name) {
        return Err(PlaceError::Name { problem });
    }
    let (parents, last) = name.rsplit_once('/').unwrap_or(("", name));
    Ok((parents.split('/').filter(|part| !part.is_empty()), last))
}

/// The directory `name` in `at`, which is not followed where it is a link.
fn step(at: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(at, name, SEARCH | OFlags::NOFOLLOW, Mode::empty())
}

/// What a system call's error says of a path.
fn blocked(path: PathBuf, error: Errno) -> PlaceError {
    match error {
        Errno::NOTDIR | Errno::LOOP => PlaceError::NoDirectory { path },
        Errno::EXIST => PlaceError::Exists { path },
        error => PlaceError::Write {
            path,
            source: error.into(),
        },
    }
}

impl Place {
    /// Where it is to be.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name. `force`: in place of a file or link that has it.
    pub(super) fn keep(mut self, force: bool) -> Result<PathBuf, PlaceError> {
        let (at, from, to) = (&self.directory, &self.unfinished, &self.name);
        let renamed = if force {
            rustix::fs::renameat(at, from, at, to)
        } else {
            match rustix::fs::renameat_with(at, from, at, to, RenameFlags::NOREPLACE) {
                // A file system that cannot: a second name fails where there is one already.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    rustix::fs::linkat(at, from, at, to, AtFlags::empty())
                        .and_then(|()| rustix::fs::unlinkat(at, from, AtFlags::empty()))
                }
                renamed => renamed,
            }
        };
        renamed.map_err(|error| match error {
            Errno::ISDIR => blocked(self.path.clone(), Errno::EXIST),
            error => blocked(self.path.clone(), error),
        })?;
        self.is_kept = true;
        Ok(std::mem::take(&mut self.path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed has a name that says whose it was.
            let _ = rustix::fs::unlinkat(&self.directory, &self.unfinished, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write as _,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn write(dir: &Path, name: &str, content: &str, force: bool) -> Result<PathBuf, PlaceError> {
        let directory = Directory::open(dir)?;
        let (place, mut file) = directory.create(name, false)?;
        file.write_all(content.as_bytes()).expect("written");
        place.keep(force)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect()
    }

    #[test]
    fn a_file_is_there_when_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let directory = Directory::open(&dir.path().join("new/dir")).expect("made");
        let (place, mut file) = directory.create("a/b.txt", true).expect("created");
        file.write_all(b"half").expect("written");
        assert!(!directory.has("a/b.txt").expect("looked"));
        let path = place.keep(false).expect("kept");
        assert_eq!(path, dir.path().join("new/dir/a/b.txt"));
        assert_eq!(fs::read(&path).expect("read"), b"half");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o100, 0o100);
        assert!(directory.has("a/b.txt").expect("looked"));
        // One that is given up leaves nothing.
        drop(directory.create("a/c.txt", false).expect("created"));
        assert_eq!(names(&dir.path().join("new/dir/a")), ["b.txt"]);
    }

    #[test]
    fn a_name_never_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let inside = dir.path().join("inside");
        for name in ["../x", "/tmp/x", "a/../../x", "", ".", "a//b", "a\0b", "a/"] {
            let error = write(&inside, name, "x", true).expect_err("refused");
            assert!(matches!(error, PlaceError::Name { .. }), "{name:?}");
        }
        assert_eq!(names(dir.path()), ["inside"]);
        assert!(names(&inside).is_empty());
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        fs::create_dir_all(&outside).expect("made");
        fs::create_dir_all(&inside).expect("made");
        fs::write(outside.join("file"), "old").expect("written");
        symlink(&outside, inside.join("dir")).expect("linked");
        symlink(outside.join("file"), inside.join("file")).expect("linked");
        let error = write(&inside, "dir/new", "x", true).expect_err("refused");
        assert!(matches!(error, PlaceError::NoDirectory { .. }), "{error}");
        let error = write(&inside, "file", "x", false).expect_err("refused");
        assert!(matches!(error, PlaceError::Exists { .. }), "{error}");
        // The link itself is replaced, not what it leads to.
        write(&inside, "file", "new", true).expect("written");
        assert_eq!(
            fs::read_to_string(outside.join("file")).expect("read"),
            "old"
        );
        assert_eq!(
            fs::read_to_string(inside.join("file")).expect("read"),
            "new"
        );
        assert_eq!(names(&outside), ["file"]);
    }

    #[test]
    fn what_is_there_stays_unless_it_is_to_be_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("a"), "old").expect("written");
        fs::create_dir(dir.path().join("d")).expect("made");
        let error = write(dir.path(), "a", "new", false).expect_err("refused");
        assert!(error.to_string().contains("--force"), "{error}");
        let error = write(dir.path(), "a/b", "new", true).expect_err("refused");
        assert!(matches!(error, PlaceError::NoDirectory { .. }), "{error}");
        assert!(write(dir.path(), "d", "new", true).is_err());
        write(dir.path(), "a", "new", true).expect("written");
        assert_eq!(
            fs::read_to_string(dir.path().join("a")).expect("read"),
            "new"
        );
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, ["a", "d"]);
    }
}
