//! Makes what an archive says, below the work directory. Every name is walked one component at a time by descriptors, no link is
//! followed, and nothing that is there is touched: whatever an archive holds, what is outside of the tree cannot be meant by it.

use std::{
    cell::Cell,
    collections::HashSet,
    ffi::{CStr, CString},
    fs::File,
    io::{self, ErrorKind, Read, Write},
    rc::Rc,
};

use envicutor_protocol::{Faith, ToolReport, Unpack};
use libc::mode_t;

use super::{READ_BYTES, Stop, bounds::Bounds, path::Rules, path::shown};
use crate::directory::{self, Directory, Time};

/// What is kept of a packed mode.
const KEPT_MODE: mode_t = 0o777;

/// What an entry says of itself.
pub struct Entry<'a> {
    /// Its name, as it is in the archive.
    pub name: &'a [u8],
    /// Its permissions.
    pub mode: u32,
    /// When it was modified, if that is known: seconds.
    pub modified: Option<i64>,
}

/// The work directory as it is filled.
pub struct Tree {
    bounds: Bounds,
    max_bytes: u64,
    rules: Rules,
    faith: Faith,
    top: Directory,
    /// The way to the directory that was used last.
    way: Vec<(CString, Directory)>,
    /// The files that were made, by their inodes: what a hard link may mean.
    made: HashSet<libc::ino_t>,
    /// Packed directories that get their modes and times last, when nothing is made in them any more.
    unfinished: Vec<(Vec<CString>, mode_t, Option<i64>)>,
    buffer: Vec<u8>,
}

impl Tree {
    /// The current directory, as it is.
    pub fn new(order: &Unpack, packed: Rc<Cell<u64>>) -> io::Result<Self> {
        Ok(Self {
            bounds: Bounds::new(order, packed),
            max_bytes: order.max_bytes,
            rules: Rules::new(order),
            faith: order.faith,
            top: Directory::open(c".")?.0,
            way: Vec::new(),
            made: HashSet::new(),
            unfinished: Vec::new(),
            buffer: vec![0; READ_BYTES],
        })
    }

    /// The most that all files may come to.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Makes a directory; one that is there is one.
    pub fn directory(&mut self, entry: &Entry<'_>) -> Result<(), Stop> {
        let Some(components) = self.begin(entry)? else {
            self.finish_later(entry, Vec::new());
            return Ok(());
        };
        self.enter(&components).map_err(|it| it.about(entry.name))?;
        self.finish_later(entry, components);
        Ok(())
    }

    fn finish_later(&mut self, entry: &Entry<'_>, components: Vec<CString>) {
        if self.faith == Faith::Packed {
            let mode = entry.mode & KEPT_MODE;
            self.unfinished.push((components, mode, entry.modified));
        }
    }

    /// Makes a file of what `content` gives; it says to be `size` bytes.
    pub fn file(
        &mut self,
        entry: &Entry<'_>,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), Stop> {
        const EXECUTABLE: u32 = 0o100;
        let Some(components) = self.begin(entry)? else {
            return Ok(());
        };
        let wrong = |it: Wrong| it.about(entry.name);
        self.bounds
            .expect(size)
            .map_err(|it| wrong(Wrong::Is(it)))?;
        let mode = match self.faith {
            Faith::Plain if entry.mode & EXECUTABLE != 0 => 0o755,
            Faith::Plain => 0o644,
            Faith::Packed => entry.mode & KEPT_MODE,
        };
        let file = self.make_file(&components, mode).map_err(wrong)?;
        self.fill(&file, content).map_err(wrong)?;
        if self.faith == Faith::Packed {
            directory::set_mode(&file, mode).map_err(|it| wrong(it.into()))?;
        }
        if let Some(modified) = entry.modified {
            directory::set_modified(&file, time(modified)).map_err(|it| wrong(it.into()))?;
        }
        Ok(())
    }

    fn make_file(&mut self, components: &[CString], mode: mode_t) -> Result<File, Wrong> {
        let (name, directory) = self.place(components)?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let file = File::from(directory.file(name, flags, mode)?);
        let inode = directory::status_of(&file)?.st_ino;
        self.made.insert(inode);
        Ok(file)
    }

    fn fill(&mut self, mut file: &File, content: &mut dyn Read) -> Result<(), Wrong> {
        loop {
            let count = match content.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Wrong::Is(format!("cannot be read: {error}"))),
            };
            self.bounds.count_bytes(count as u64).map_err(Wrong::Is)?;
            file.write_all(&self.buffer[..count])?;
        }
    }

    /// Makes a symbolic link.
    pub fn symbolic_link(&mut self, entry: &Entry<'_>, target: &[u8]) -> Result<(), Stop> {
        let Some(components) = self.begin(entry)? else {
            return Ok(());
        };
        let wrong = |it: Wrong| it.about(entry.name);
        let target = self
            .rules
            .check_target(target, components.len().saturating_sub(1))
            .map_err(|it| wrong(Wrong::Is(it)))?;
        let modified = entry.modified.map_or((0, libc::UTIME_NOW), time);
        let (name, directory) = self.place(&components).map_err(wrong)?;
        let made = directory.link(name, &target, modified);
        made.map_err(|it| wrong(it.into()))
    }

    /// Makes a hard link to a file that an earlier entry made.
    pub fn hard_link(&mut self, entry: &Entry<'_>, target: &[u8]) -> Result<(), Stop> {
        let Some(components) = self.begin(entry)? else {
            return Ok(());
        };
        let linked = self.link_hard(&components, target);
        linked.map_err(|it| it.about(entry.name))
    }

    fn link_hard(&mut self, components: &[CString], target: &[u8]) -> Result<(), Wrong> {
        let none = || Wrong::Is("is a hard link to what is no earlier file of it".to_owned());
        let target = self.rules.components(target).map_err(|_| none())?;
        let (target, above) = target.split_last().ok_or_else(none)?;
        let mut from = self.top.below(c".")?;
        for component in above {
            from = from.below(component).map_err(|_| none())?;
        }
        let status = from.status_of(target).map_err(|_| none())?;
        let is_file = status.st_mode & libc::S_IFMT == libc::S_IFREG;
        if !is_file || !self.made.contains(&status.st_ino) {
            return Err(none());
        }
        let (name, directory) = self.place(components)?;
        Ok(directory.link_hard(name, &from, target)?)
    }

    /// Counts an entry, and checks its name; none where nothing is left of it.
    fn begin(&mut self, entry: &Entry<'_>) -> Result<Option<Vec<CString>>, Stop> {
        let wrong = |reason| Stop::of(shown(entry.name), reason);
        self.bounds.count_entry().map_err(wrong)?;
        let components = self.rules.components(entry.name).map_err(wrong)?;
        Ok(Some(components).filter(|it| !it.is_empty()))
    }

    /// The last component, and the directory that it is to be in.
    fn place<'a>(&mut self, components: &'a [CString]) -> Result<(&'a CStr, &Directory), Wrong> {
        let none = || Wrong::Is("has no name".to_owned());
        let (name, above) = components.split_last().ok_or_else(none)?;
        Ok((name, self.enter(above)?))
    }

    /// The directory at `components`, made where it is missing.
    fn enter(&mut self, components: &[CString]) -> Result<&Directory, Wrong> {
        let pairs = self.way.iter().zip(components);
        let common = pairs.take_while(|((name, _), it)| name == *it).count();
        self.way.truncate(common);
        for component in &components[common..] {
            let last = self.way.last().map_or(&self.top, |(_, last)| last);
            let next = last.enter_or_make(component).map_err(|error| {
                match error.raw_os_error() {
                    Some(libc::ENOTDIR | libc::ELOOP) => Wrong::Is(format!(
                        "is in, or is, a directory {component:?} that is a file or a link there already"
                    )),
                    _ => error.into(),
                }
            })?;
            self.way.push((component.clone(), next));
        }
        Ok(self.way.last().map_or(&self.top, |(_, last)| last))
    }

    /// Everything is there.
    pub fn finish(mut self) -> Result<ToolReport, Stop> {
        // What is below goes first: its directory may be closed.
        while let Some((components, mode, modified)) = self.unfinished.pop() {
            let directory = self.enter(&components).map_err(|it| it.about(b""))?;
            let modified = modified.map_or((0, libc::UTIME_NOW), time);
            directory.finish(mode, modified)?;
        }
        Ok(ToolReport::Unpacked {
            entries: self.bounds.entries,
            bytes: self.bounds.bytes,
        })
    }
}

impl Entry<'_> {
    /// Refuses it, of a kind that is none of a submission's.
    pub fn refuse<T>(&self, reason: impl Into<String>) -> Result<T, Stop> {
        Err(Stop::of(shown(self.name), reason))
    }
}

fn time(seconds: i64) -> Time {
    (seconds, 0)
}

/// What is wrong with an entry.
enum Wrong {
    /// It is this, after its name.
    Is(String),
    /// It cannot be made.
    Made(io::Error),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Self::Made(error)
    }
}

impl Wrong {
    fn about(self, name: &[u8]) -> Stop {
        let reason = match self {
            Self::Is(reason) => reason,
            Self::Made(error) => match error.raw_os_error() {
                Some(libc::EEXIST) => {
                    "is there already: it is named twice, or is a file of the submission".to_owned()
                }
                Some(libc::ENOSPC | libc::EDQUOT) => {
                    "finds no room: the work directory is full (disk_bytes, inodes)".to_owned()
                }
                _ => format!("cannot be made: {error}"),
            },
        };
        Stop::of(shown(name), reason)
    }
}
