//! Reads out the files of the work directory that match. Nothing lives that could change it meanwhile; all the same every name is
//! walked by descriptors, no link is followed, nothing but a regular file is read, and no more of it than may still come.
//!
//! In the order of their paths, so that the same directory gives the same files whatever bound is met.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    fs::File,
    io::{self, Read},
};

use envicutor_protocol::{CHUNK_BYTES, Collect, SKIPPED, Skipped, ToolReport};

use super::{
    Teller,
    glob::{self, Pattern, Places},
};
use crate::directory::{self, Directory, Listing};

/// The most bytes of a path, the contract's.
const PATH_BYTES: usize = 1024;

/// Does what `order` says.
pub fn collect(order: &Collect, teller: &mut Teller) -> io::Result<()> {
    let mut skipped = Vec::new();
    let (mut patterns, mut origins) = (Vec::new(), Vec::new());
    for (index, text) in order.patterns.iter().enumerate() {
        let Some(all) = Pattern::all(text) else {
            skip(&mut skipped, text, "has too many alternatives in braces");
            continue;
        };
        origins.resize(origins.len() + all.len(), index);
        patterns.extend(all);
    }
    let mut search = Search {
        patterns: &patterns,
        origins: &origins,
        matched: vec![false; order.patterns.len()],
        left: order.max_entries,
        max_depth: order.max_depth,
        found: BTreeMap::new(),
        skipped,
    };
    let (top, _) = Directory::open(c".")?;
    search.look_in(&top, "", &glob::start(&patterns), 1)?;
    let mut skipped = search.skipped;
    for (text, matched) in order.patterns.iter().zip(&search.matched) {
        if !matched {
            skip(&mut skipped, text, "matches no file");
        }
    }
    let mut left = order.max_bytes;
    let mut files = 0;
    for (path, mode) in search.found {
        if files == order.max_files {
            let reason = format!("is over the {files} files that are collected");
            skip(&mut skipped, &path, &reason);
        } else if read(&top, &path, mode, &mut left, teller, &mut skipped)? {
            files += 1;
        }
    }
    teller.tell(&ToolReport::Collected { skipped })
}

fn skip(skipped: &mut Vec<Skipped>, path: &str, reason: &str) {
    if skipped.len() < SKIPPED {
        skipped.push(Skipped {
            path: path.to_owned(),
            reason: reason.to_owned(),
        });
    }
}

struct Search<'a> {
    patterns: &'a [Pattern],
    /// Which of the order's each of them comes from.
    origins: &'a [usize],
    matched: Vec<bool>,
    /// How many entries may still be looked at.
    left: u64,
    /// How many components a path may have.
    max_depth: u64,
    /// Files by their paths, with their modes.
    found: BTreeMap<String, libc::mode_t>,
    skipped: Vec<Skipped>,
}

impl Search<'_> {
    /// Looks for what matches in `directory`, which is at `path`; `places` is where the patterns are there.
    fn look_in(
        &mut self,
        directory: &Directory,
        path: &str,
        places: &Places,
        depth: u64,
    ) -> io::Result<()> {
        let mut listing = Listing::new();
        while let Some(entry) = listing.next(directory)? {
            let Some(left) = self.left.checked_sub(1) else {
                let reason = "was not looked into any further: there are too many entries";
                skip(&mut self.skipped, path, reason);
                return Ok(());
            };
            self.left = left;
            let Ok(name) = entry.name.to_str() else {
                let name = entry.name.to_string_lossy();
                skip(
                    &mut self.skipped,
                    &join(path, &name),
                    "has a name that is no UTF-8",
                );
                continue;
            };
            let (next, ended) = glob::step(self.patterns, places, name);
            if next.is_empty() && ended.is_empty() {
                continue;
            }
            let path = join(path, name);
            let status = directory.status_of(entry.name)?;
            match status.st_mode & libc::S_IFMT {
                libc::S_IFDIR if next.is_empty() => {}
                libc::S_IFDIR => self.go_down(directory, entry.name, &path, &next, depth)?,
                _ if ended.is_empty() => {}
                kind => {
                    for index in ended {
                        self.matched[self.origins[index]] = true;
                    }
                    self.take(path, kind, status.st_mode);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, path: String, kind: libc::mode_t, mode: libc::mode_t) {
        if path.len() > PATH_BYTES {
            let reason = format!("has a path of more than {PATH_BYTES} bytes");
            let start = path.floor_char_boundary(PATH_BYTES);
            return skip(&mut self.skipped, &path[..start], &reason);
        }
        let reason = match kind {
            libc::S_IFREG => {
                self.found.insert(path, mode);
                return;
            }
            libc::S_IFLNK => "is a symbolic link",
            _ => "is no regular file",
        };
        skip(&mut self.skipped, &path, reason);
    }

    fn go_down(
        &mut self,
        directory: &Directory,
        name: &CStr,
        path: &str,
        places: &Places,
        depth: u64,
    ) -> io::Result<()> {
        if depth >= self.max_depth || path.len() > PATH_BYTES {
            let start = path.floor_char_boundary(PATH_BYTES);
            skip(
                &mut self.skipped,
                &path[..start],
                "is too deep to be looked into",
            );
            return Ok(());
        }
        match directory.enter(name) {
            Ok((below, _)) => self.look_in(&below, path, places, depth + 1),
            Err(error) => {
                skip(
                    &mut self.skipped,
                    path,
                    &format!("cannot be opened: {error}"),
                );
                Ok(())
            }
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        return name.to_owned();
    }
    format!("{path}/{name}")
}

/// Sends the file at `path`, as long as `left` allows; whether it was sent whole.
fn read(
    top: &Directory,
    path: &str,
    mode: libc::mode_t,
    left: &mut u64,
    teller: &mut Teller,
    skipped: &mut Vec<Skipped>,
) -> io::Result<bool> {
    let file = match open(top, path) {
        Ok(file) => file,
        Err(error) => {
            skip(skipped, path, &format!("cannot be read: {error}"));
            return Ok(false);
        }
    };
    let size = file.metadata()?.len();
    if size > *left {
        let reason = format!("is larger than the {left} bytes that may still be collected");
        skip(skipped, path, &reason);
        return Ok(false);
    }
    teller.tell(&ToolReport::Found {
        path: path.to_owned(),
        executable: mode & libc::S_IXUSR != 0,
    })?;
    // What it says of its size is one thing, what comes another.
    let mut content = file.take(left.saturating_add(1));
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        let part = content.by_ref().take(CHUNK_BYTES as u64);
        let cut = match { part }.read_to_end(&mut data) {
            Ok(0) => {
                teller.tell(&ToolReport::Whole)?;
                return Ok(true);
            }
            Ok(count) if count as u64 > *left => "is larger than it said".to_owned(),
            Ok(count) => {
                *left -= count as u64;
                teller.data(data)?;
                continue;
            }
            Err(error) => format!("cannot be read: {error}"),
        };
        teller.tell(&ToolReport::Cut { reason: cut })?;
        return Ok(false);
    }
}

/// Opens a regular file, whatever its permissions are.
fn open(top: &Directory, path: &str) -> io::Result<File> {
    const READABLE: libc::mode_t = libc::S_IRUSR;
    let names: Vec<CString> = path
        .split('/')
        .map(CString::new)
        .collect::<Result<_, _>>()?;
    let (name, above) = names
        .split_last()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    let mut directory = top.below(c".")?;
    for component in above {
        directory = directory.enter(component)?.0;
    }
    let status = directory.status_of(name)?;
    let is_file = |status: &libc::stat| status.st_mode & libc::S_IFMT == libc::S_IFREG;
    if is_file(&status) && status.st_mode & READABLE == 0 {
        directory.set_mode_of(name, READABLE)?;
    }
    let file = directory.file(name, libc::O_RDONLY, 0)?;
    if is_file(&directory::status_of(&file)?) {
        return Ok(File::from(file));
    }
    Err(io::Error::other("it is no regular file any more"))
}
