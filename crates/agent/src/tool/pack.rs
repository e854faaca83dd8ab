//! Packs the work directory: directories, files, symbolic links, their modes and times, as a tar stream. Nothing lives that could
//! change it meanwhile. What cannot be in such a stream, or is over a bound, refuses the whole: half a build is none.

use std::{
    ffi::{CStr, OsStr},
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use envicutor_protocol::{CHUNK_BYTES, Pack, ToolReport};
use tar::{Builder, EntryType, Header, HeaderMode};

use super::{Stop, Teller, path::shown};
use crate::directory::{self, Directory, Listing, PERMISSIONS};

/// Does what `order` says.
pub fn pack(order: &Pack, teller: &mut Teller) -> Result<ToolReport, Stop> {
    let stream = Stream {
        teller,
        buffer: Vec::with_capacity(CHUNK_BYTES),
        left: order.max_bytes,
    };
    let mut packing = Packing {
        order,
        tar: Builder::new(stream),
        entries: 0,
    };
    packing.tar.mode(HeaderMode::Complete);
    let (top, mode) = Directory::open(c".")?;
    packing.directory(&top, mode, &mut Vec::new(), 0)?;
    packing.tar.finish().map_err(of_stream)?;
    let Packing {
        entries, mut tar, ..
    } = packing;
    tar.get_mut().flush()?;
    Ok(ToolReport::Packed { entries })
}

/// What the stream says when its bound is met.
const FULL: ErrorKind = ErrorKind::StorageFull;

/// The tar stream, in frames.
struct Stream<'a> {
    teller: &'a mut Teller,
    buffer: Vec<u8>,
    left: u64,
}

impl Write for Stream<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == CHUNK_BYTES {
            self.flush()?;
        }
        let room = CHUNK_BYTES - self.buffer.len();
        let data = &data[..data.len().min(room)];
        self.left = match self.left.checked_sub(data.len() as u64) {
            Some(left) => left,
            None => return Err(FULL.into()),
        };
        self.buffer.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let next = Vec::with_capacity(CHUNK_BYTES);
        self.teller.data(std::mem::replace(&mut self.buffer, next))
    }
}

fn of_stream(error: io::Error) -> Stop {
    if error.kind() == FULL {
        return Stop::refused("it is more than may be packed");
    }
    Stop::Failed(error)
}

struct Packing<'a> {
    order: &'a Pack,
    tar: Builder<Stream<'a>>,
    entries: u64,
}

impl Packing<'_> {
    /// Packs `directory`, which is at `path` and has `mode`, with everything in it.
    fn directory(
        &mut self,
        directory: &Directory,
        mode: libc::mode_t,
        path: &mut Vec<u8>,
        depth: u64,
    ) -> Result<(), Stop> {
        let mut status = directory.status()?;
        status.st_mode = mode;
        let mut header = self.header(&status, EntryType::Directory, path, depth)?;
        let name = if path.is_empty() { b"./" } else { &path[..] };
        let added = self
            .tar
            .append_data(&mut header, name_of(name), io::empty());
        added.map_err(of_stream)?;
        let mut listing = Listing::new();
        while let Some(entry) = listing.next(directory)? {
            let before = path.len();
            if before > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(entry.name.to_bytes());
            self.entry(directory, entry.name, path, depth + 1)?;
            path.truncate(before);
        }
        directory.close_again(mode)?;
        Ok(())
    }

    fn entry(
        &mut self,
        directory: &Directory,
        name: &CStr,
        path: &mut Vec<u8>,
        depth: u64,
    ) -> Result<(), Stop> {
        let status = directory.status_of(name)?;
        match status.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                let (below, mode) = directory.enter(name)?;
                self.directory(&below, mode, path, depth)
            }
            libc::S_IFREG => self.file(directory, name, &status, path, depth),
            libc::S_IFLNK => {
                let mut target = [0; 4096];
                let target = directory.target(name, &mut target)?;
                let mut header = self.header(&status, EntryType::Symlink, path, depth)?;
                let added = self
                    .tar
                    .append_link(&mut header, name_of(path), name_of(target));
                added.map_err(of_stream)
            }
            // As a keep leaves them out.
            _ => Ok(()),
        }
    }

    fn file(
        &mut self,
        directory: &Directory,
        name: &CStr,
        status: &libc::stat,
        path: &[u8],
        depth: u64,
    ) -> Result<(), Stop> {
        const READABLE: libc::mode_t = libc::S_IRUSR;
        let size = status.st_size.cast_unsigned();
        let mut header = self.header(status, EntryType::Regular, path, depth)?;
        header.set_size(size);
        if size > self.order.max_bytes {
            return Err(Stop::of(shown(path), "is more than may be packed"));
        }
        let mode = status.st_mode & PERMISSIONS;
        let is_closed = mode & READABLE == 0;
        if is_closed {
            directory.set_mode_of(name, mode | READABLE)?;
        }
        let file = File::from(directory.file(name, libc::O_RDONLY, 0)?);
        if is_closed {
            directory::set_mode(&file, mode)?;
        }
        let mut content = file.take(size);
        let added = self
            .tar
            .append_data(&mut header, name_of(path), &mut content);
        added.map_err(of_stream)?;
        if content.limit() > 0 {
            return Err(Stop::of(shown(path), "is shorter than it said"));
        }
        Ok(())
    }

    fn header(
        &mut self,
        status: &libc::stat,
        kind: EntryType,
        path: &[u8],
        depth: u64,
    ) -> Result<Header, Stop> {
        let over = |reason: String| Err(Stop::of(shown(path), reason));
        self.entries += 1;
        if self.entries > self.order.max_entries {
            let most = self.order.max_entries;
            return over(format!(
                "is one more than the {most} entries that there may be"
            ));
        }
        if path.len() as u64 > self.order.max_path_bytes {
            let most = self.order.max_path_bytes;
            return over(format!("has a path of more than {most} bytes"));
        }
        if depth > self.order.max_depth {
            let most = self.order.max_depth;
            return over(format!("is more than {most} directories deep"));
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(status.st_mode & 0o777);
        header.set_mtime(u64::try_from(status.st_mtime).unwrap_or(0));
        header.set_size(0);
        Ok(header)
    }
}

fn name_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
