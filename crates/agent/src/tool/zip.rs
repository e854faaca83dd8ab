//! Zip. What is in it is said at its end: it is taken whole into memory first, into a file without a name that goes with this
//! process.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::FromRawFd,
};

use flate2::read::DeflateDecoder;
use rawzip::{
    CompressionMethod, FileReader, ZipArchive, ZipArchiveEntryWayfinder, ZipFileHeaderRecord,
    time::ZipDateTimeKind,
};

use super::{
    READ_BYTES, Stop,
    path::shown,
    tree::{Entry, Tree},
};
use crate::sys::check;

/// The most that a symbolic link's target takes.
const TARGET_BYTES: u64 = 4096;

/// Unpacks what `stream` holds, which is `size` bytes.
pub fn unpack(stream: impl Read, size: u64, tree: &mut Tree) -> Result<(), Stop> {
    let file = take_whole(stream, size)?;
    let mut buffer = vec![0; READ_BYTES];
    let unread = |error: rawzip::Error| Stop::refused(format!("is no zip: {error}"));
    let archive = ZipArchive::from_file(file, &mut buffer).map_err(unread)?;
    let mut entries = archive.entries(&mut buffer);
    while let Some(record) = entries.next_entry().map_err(unread)? {
        take(&archive, &record, tree)?;
    }
    Ok(())
}

fn take_whole(stream: impl Read, size: u64) -> Result<File, Stop> {
    // SAFETY: the name ends with a NUL.
    let fd = check(unsafe { libc::memfd_create(c"zip".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the call succeeded, so that the descriptor is open and nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    let mut stream = stream.take(size);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            count => file.write_all(&buffer[..count])?,
        }
    }
    Ok(file)
}

fn take(
    archive: &ZipArchive<FileReader>,
    record: &ZipFileHeaderRecord<'_>,
    tree: &mut Tree,
) -> Result<(), Stop> {
    let path = record.file_path();
    let mode = record.mode().value();
    let entry = Entry {
        name: path.as_ref(),
        mode,
        modified: match record.last_modified() {
            ZipDateTimeKind::Utc(time) => Some(time.to_unix()),
            ZipDateTimeKind::Local(_) => None, // Whose local time nobody knows.
        },
    };
    if record.flags().is_encrypted() {
        return entry.refuse("is encrypted");
    }
    if record.is_dir() {
        return tree.directory(&entry);
    }
    let content = Content {
        archive,
        way: record.wayfinder(),
        method: record.compression_method(),
    };
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => content.with(&entry, tree, |tree, content| {
            tree.file(&entry, record.uncompressed_size_hint(), content)
        }),
        libc::S_IFLNK => content.with(&entry, tree, |tree, content| {
            let mut target = Vec::new();
            content
                .take(TARGET_BYTES)
                .read_to_end(&mut target)
                .map_err(|error| Stop::of(shown(entry.name), format!("cannot be read: {error}")))?;
            tree.symbolic_link(&entry, &target)
        }),
        libc::S_IFDIR => tree.directory(&entry),
        libc::S_IFCHR | libc::S_IFBLK => entry.refuse("is a device"),
        libc::S_IFIFO => entry.refuse("is a named pipe"),
        _ => entry.refuse("is of an unknown kind, expected a file, a directory or a link"),
    }
}

/// The content of an entry.
struct Content<'a> {
    archive: &'a ZipArchive<FileReader>,
    way: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
}

impl Content<'_> {
    /// Has `work` read it. Its size and checksum are checked at its end.
    fn with(
        &self,
        entry: &Entry<'_>,
        tree: &mut Tree,
        work: impl FnOnce(&mut Tree, &mut dyn Read) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let found = self
            .archive
            .get_entry(self.way)
            .map_err(|error| Stop::of(shown(entry.name), format!("cannot be read: {error}")))?;
        let packed = found.reader();
        if self.method == CompressionMethod::STORE {
            return work(tree, &mut found.verifying_reader(packed));
        }
        if self.method == CompressionMethod::DEFLATE {
            let content = DeflateDecoder::new(packed);
            return work(tree, &mut found.verifying_reader(content));
        }
        let reason = format!(
            "is compressed by the method {}, expected none or deflate",
            self.method
        );
        entry.refuse(reason)
    }
}
