//! Tar: POSIX and GNU, with long names in either way. The crate reads the format; what is made of it is the tree's.

use std::io::Read;

use tar::{Archive, Entry as TarEntry, EntryType};

use super::{
    Stop,
    bounds::drain,
    path::shown,
    tree::{Entry, Tree},
};

/// Unpacks what `stream` holds.
pub fn unpack(stream: impl Read, tree: &mut Tree) -> Result<(), Stop> {
    let mut archive = Archive::new(stream);
    let mut last = String::new();
    let unread =
        |last: &str, error| Stop::of(last, format!("is the last that can be read: {error}"));
    for entry in archive.entries().map_err(|error| unread("", error))? {
        let mut entry = entry.map_err(|error| unread(&last, error))?;
        last = shown(&entry.path_bytes());
        take(&mut entry, tree)?;
    }
    drain(archive.into_inner(), tree.max_bytes())
}

fn take(tar: &mut TarEntry<'_, impl Read>, tree: &mut Tree) -> Result<(), Stop> {
    let name = tar.path_bytes().into_owned();
    let header = tar.header();
    let entry = Entry {
        name: &name,
        mode: header.mode().unwrap_or(0o644),
        modified: header.mtime().ok().and_then(|it| i64::try_from(it).ok()),
    };
    let is_directory = name.ends_with(b"/");
    match header.entry_type() {
        // What is for all entries: none of them.
        EntryType::XGlobalHeader => Ok(()),
        EntryType::Directory => tree.directory(&entry),
        // So old archives have them.
        EntryType::Regular if is_directory => tree.directory(&entry),
        EntryType::Regular | EntryType::Continuous if has_holes(tar) => {
            entry.refuse("is a sparse file as POSIX has it, expected one with all its bytes")
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let size = tar.size();
            tree.file(&entry, size, tar)
        }
        EntryType::Symlink => tree.symbolic_link(&entry, &target(tar)),
        EntryType::Link => tree.hard_link(&entry, &target(tar)),
        EntryType::Char | EntryType::Block => entry.refuse("is a device"),
        EntryType::Fifo => entry.refuse("is a named pipe"),
        other => {
            let reason = format!(
                "is of the kind {:?}, expected a file, a directory or a link",
                char::from(other.as_byte())
            );
            entry.refuse(reason)
        }
    }
}

fn target(tar: &TarEntry<'_, impl Read>) -> Vec<u8> {
    tar.link_name_bytes().unwrap_or_default().into_owned()
}

/// Whether extended headers say that holes were left out: nobody fills them in here.
fn has_holes(tar: &mut TarEntry<'_, impl Read>) -> bool {
    let extensions = tar.pax_extensions();
    let mut keys = extensions.ok().flatten().into_iter().flatten().flatten();
    keys.any(|it| it.key_bytes().starts_with(b"GNU.sparse."))
}
