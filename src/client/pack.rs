//! A directory as one archive: what is in it but for what its ignore rules name, in one order, with nothing of this machine in it
//! (no owner, no time), so that an unchanged project is the same bytes and is sent once.
//!
//! It goes to a temporary file while it is hashed: memory does not grow with the project. Ignored is what `.gitignore` and
//! `.envicutorignore` say in the directory and below it, and `.git`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use ignore::{DirEntry, WalkBuilder};
use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use tempfile::TempPath;
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    submission::{check::path_problem, content::Blob, names::Digest, units::ByteSize},
};

/// The file of rules besides `.gitignore`.
pub const IGNORE_FILE: &str = ".envicutorignore";
/// Zstandard's fastest ordinary level: a project is sent once and unpacked often.
const LEVEL: i32 = 1;
/// What is read of a file at a time.
const PIECE: usize = 64 << 10;

/// A directory that cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something in it cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be walked, or its rules cannot be read.
    #[error(transparent)]
    Walk(#[from] ignore::Error),
    /// A name that no submission may have.
    #[error("{path}: {problem}")]
    Name {
        /// Whose.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A socket, a pipe or a device.
    #[error(
        "{path} is neither a file nor a directory nor a symbolic link: name it in {IGNORE_FILE}"
    )]
    Kind {
        /// Which.
        path: PathBuf,
    },
    /// A link to somewhere else.
    #[error(
        "{path} is a symbolic link to {target}, which is not in the project: copy what it leads to, or name it in {IGNORE_FILE}"
    )]
    LinkOut {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// More than the configuration lets through.
    #[error(
        "{dir} has more than {most} (client.{key}): name what is not needed in {IGNORE_FILE}, or raise the bound"
    )]
    TooMuch {
        /// The project.
        dir: PathBuf,
        /// The bound, with what it counts.
        most: String,
        /// The key of the bound.
        key: &'static str,
    },
    /// A file became shorter while it was read.
    #[error("{path} changed while it was packed: try again")]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error("{dir} has no files, or all of them are ignored (.gitignore, {IGNORE_FILE})")]
    Empty {
        /// The project.
        dir: PathBuf,
    },
    /// The archive cannot be written.
    #[error("the project cannot be packed into a temporary file: {0}")]
    Write(io::Error),
    /// Nobody waits for it any more.
    #[error("packing was given up")]
    Stopped,
}

/// A packed directory. The file is gone with it.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) file: TempPath,
    pub(super) blob: Blob,
}

/// Packs `dir`, and tells how many bytes were read so far. Blocks.
pub(super) fn pack(
    dir: &Path,
    bounds: &config::Client,
    told: &dyn Fn(u64),
    stop: &CancellationToken,
) -> Result<Packed, PackError> {
    let root = fs::canonicalize(dir).map_err(|source| PackError::Read {
        path: dir.to_owned(),
        source,
    })?;
    let file = tempfile::Builder::new().prefix("envicutor-").tempfile();
    let (file, path) = file.map_err(PackError::Write)?.into_parts();
    let sink = Hashed {
        inner: BufWriter::with_capacity(PIECE, file),
        hash: Sha256::new(),
        length: 0,
    };
    let encoder = zstd::Encoder::new(sink, LEVEL).map_err(PackError::Write)?;
    let mut packing = Packing {
        dir,
        root: &root,
        bounds,
        archive: tar::Builder::new(encoder),
        entries: 0,
        read: 0,
        told,
    };
    for entry in walk(&root) {
        if stop.is_cancelled() {
            return Err(PackError::Stopped);
        }
        let entry = entry?;
        if let Some(error) = entry.error() {
            return Err(PackError::Walk(error.clone()));
        }
        // The first is the directory itself.
        if entry.depth() > 0 {
            packing.add(&entry)?;
        }
    }
    if packing.entries == 0 {
        return Err(PackError::Empty {
            dir: dir.to_owned(),
        });
    }
    let ended = packing.archive.into_inner().and_then(zstd::Encoder::finish);
    let blob = ended.and_then(Hashed::end).map_err(PackError::Write)?;
    Ok(Packed { file: path, blob })
}

/// What is in the project, each directory's in the order of its names.
fn walk(root: &Path) -> ignore::Walk {
    WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .follow_links(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build()
}

/// An archive that is being written.
struct Packing<'a> {
    /// As it was named.
    dir: &'a Path,
    root: &'a Path,
    bounds: &'a config::Client,
    archive: tar::Builder<zstd::Encoder<'static, Hashed<BufWriter<File>>>>,
    entries: u64,
    read: u64,
    told: &'a dyn Fn(u64),
}

impl Packing<'_> {
    fn add(&mut self, entry: &DirEntry) -> Result<(), PackError> {
        let path = entry.path();
        let inside = path.strip_prefix(self.root).unwrap_or(path);
        check_name(inside)?;
        self.entries += 1;
        if self.entries > self.bounds.project_files {
            let most = format!("{} files and directories", self.bounds.project_files);
            return Err(self.too_much(most, "project_files"));
        }
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            let mut header = header(tar::EntryType::Directory, 0o755, 0);
            let added = self.archive.append_data(&mut header, inside, io::empty());
            added.map_err(PackError::Write)
        } else if kind.is_symlink() {
            self.add_link(path, inside)
        } else if kind.is_file() {
            self.add_file(path, inside)
        } else {
            Err(PackError::Kind {
                path: inside.to_owned(),
            })
        }
    }

    fn add_file(&mut self, path: &Path, inside: &Path) -> Result<(), PackError> {
        let unreadable = |source| PackError::Read {
            path: inside.to_owned(),
            source,
        };
        let mut options = fs::OpenOptions::new();
        let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let file = options.read(true).custom_flags(no_follow).open(path);
        let file = file.map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let size = metadata.len();
        if self.read.saturating_add(size) > self.bounds.project_bytes.0 {
            let most = self.bounds.project_bytes.to_string();
            return Err(self.too_much(most, "project_bytes"));
        }
        let is_executable = metadata.permissions().mode() & 0o111 != 0;
        let mode = if is_executable { 0o755 } else { 0o644 };
        let mut header = header(tar::EntryType::Regular, mode, size);
        let mut reading = Reading {
            inner: file.take(size),
            before: self.read,
            read: 0,
            told: self.told,
            error: None,
        };
        let added = self.archive.append_data(&mut header, inside, &mut reading);
        if let Some(error) = reading.error {
            return Err(unreadable(error));
        }
        added.map_err(PackError::Write)?;
        if reading.read < size {
            return Err(PackError::Changed {
                path: inside.to_owned(),
            });
        }
        self.read += size;
        Ok(())
    }

    fn add_link(&mut self, path: &Path, inside: &Path) -> Result<(), PackError> {
        let target = fs::read_link(path).map_err(|source| PackError::Read {
            path: inside.to_owned(),
            source,
        })?;
        if !self.leads_inside(path, inside, &target) {
            return Err(PackError::LinkOut {
                path: inside.to_owned(),
                target,
            });
        }
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        let added = self.archive.append_link(&mut header, inside, &target);
        added.map_err(PackError::Write)
    }

    /// Whether a link leads to within the project: by its words, and where it leads anywhere also in truth.
    fn leads_inside(&self, path: &Path, inside: &Path, target: &Path) -> bool {
        let mut depth = inside.components().count() - 1;
        for component in target.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(name) if name.to_str().is_some() => depth += 1,
                Component::ParentDir if depth > 0 => depth -= 1,
                _ => return false,
            }
        }
        match fs::canonicalize(path) {
            Ok(end) => end.starts_with(self.root),
            // It leads nowhere.
            Err(_) => true,
        }
    }

    fn too_much(&self, most: String, key: &'static str) -> PackError {
        let dir = self.dir.to_owned();
        PackError::TooMuch { dir, most, key }
    }
}

fn check_name(inside: &Path) -> Result<(), PackError> {
    let problem = match inside.to_str() {
        Some(name) => path_problem(name),
        None => Some("the name is not UTF-8".to_owned()),
    };
    problem.map_or(Ok(()), |problem| {
        Err(PackError::Name {
            path: inside.to_owned(),
            problem,
        })
    })
}

/// A header with nothing of this machine in it.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// A file that is read, and how far it is.
struct Reading<'a> {
    inner: io::Take<File>,
    before: u64,
    read: u64,
    told: &'a dyn Fn(u64),
    /// Told apart from an error of the writer.
    error: Option<io::Error>,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(read) => {
                self.read += read as u64;
                (self.told)(self.before + self.read);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// A writer that knows what went through it.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hash.update(&data[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Hashed<W> {
    fn end(mut self) -> io::Result<Blob> {
        self.inner.flush()?;
        Ok(Blob {
            digest: Digest::of_hash(self.hash),
            size_bytes: ByteSize(self.length),
        })
    }
}

/// The digest and size of what a file holds. Blocks.
pub(super) fn hash(
    path: &Path,
    told: &dyn Fn(u64),
    stop: &CancellationToken,
) -> Result<Blob, PackError> {
    let unreadable = |source| PackError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut hashed = Hashed {
        inner: io::sink(),
        hash: Sha256::new(),
        length: 0,
    };
    let mut buffer = vec![0; PIECE];
    loop {
        if stop.is_cancelled() {
            return Err(PackError::Stopped);
        }
        match file.read(&mut buffer) {
            Ok(0) => return hashed.end().map_err(PackError::Write),
            Ok(read) => hashed.write_all(&buffer[..read]).map_err(unreadable)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
        told(hashed.length);
    }
}

#[cfg(test)]
mod tests;
