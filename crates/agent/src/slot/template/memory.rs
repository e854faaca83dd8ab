//! What a program has in its memory: the areas, which of their pages are its own, and what is in those.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

use super::tracee::Tracee;

pub const PAGE: u64 = 4096;

/// An area of a program's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    pub start: u64,
    pub end: u64,
    /// `PROT_READ` and so on.
    pub protection: u64,
    pub shared: bool,
    /// Where in the file it begins.
    pub offset: u64,
    pub of: Of,
}

/// What an area is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    Nothing,
    Stack,
    File(String),
    /// The kernel's own, by name.
    Kernel(String),
}

/// Pages of the program's own that follow each other, and what is in them.
pub struct Run {
    pub start: u64,
    pub bytes: Vec<u8>,
}

impl Area {
    /// Reads a line of `/proc/<pid>/maps`.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let flags = words.next()?;
        let offset = words.next()?;
        let (_device, _inode) = (words.next()?, words.next()?);
        let name = words.next().unwrap_or("").trim();
        let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
        let protections = [
            ('r', libc::PROT_READ),
            ('w', libc::PROT_WRITE),
            ('x', libc::PROT_EXEC),
        ];
        let given = protections
            .iter()
            .filter(|(letter, _)| flags.contains(*letter));
        let protection = given.fold(0, |sum, (_, bit)| sum | bit);
        Some(Self {
            start: hexadecimal(start)?,
            end: hexadecimal(end)?,
            protection: u64::from(protection.cast_unsigned()),
            shared: flags.contains('s'),
            offset: hexadecimal(offset)?,
            of: match name {
                "" | "[heap]" => Of::Nothing,
                "[stack]" => Of::Stack,
                name if name.starts_with('[') => Of::Kernel(name.to_owned()),
                name => Of::File(name.to_owned()),
            },
        })
    }

    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it is of the kind that the kernel gives every program.
    pub fn is_kernel(&self) -> bool {
        matches!(self.of, Of::Kernel(_))
    }
}

/// The areas of process `pid` ("self" too), without the one that is above all programs.
pub fn areas(pid: &str) -> io::Result<Vec<Area>> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let lines = text.lines().filter(|line| !line.ends_with("[vsyscall]"));
    let areas: Option<Vec<Area>> = lines.map(Area::read).collect();
    areas.ok_or_else(|| io::Error::other("its memory areas cannot be read"))
}

/// Where the heap of `pid` ends.
pub fn end_of_heap(pid: &str) -> io::Result<Option<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut heap = text.lines().filter(|line| line.ends_with("[heap]"));
    Ok(heap.next_back().and_then(Area::read).map(|area| area.end))
}

/// The pages of `area` that are the program's own. Those with nothing in them are left out where there is no file below.
pub fn own_pages(tracee: &Tracee, area: &Area) -> io::Result<Vec<Run>> {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    if area.bytes() > (1 << 32) {
        return Ok(Vec::new()); // Reserved alone.
    }
    let pages = usize::try_from(area.bytes() / PAGE).map_err(io::Error::other)?;
    let mut map = vec![0; pages * 8];
    let file = File::open(format!("/proc/{}/pagemap", tracee.pid()))?;
    file.read_exact_at(&mut map, area.start / PAGE * 8)?;
    let mut runs: Vec<Run> = Vec::new();
    let mut page = vec![0; 4096];
    for (entry, start) in map.chunks_exact(8).zip((area.start..).step_by(4096)) {
        let entry = u64::from_ne_bytes(entry.try_into().map_err(io::Error::other)?);
        let is_own = entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0;
        if !is_own {
            continue;
        }
        tracee.read(start, &mut page)?;
        let is_blank = page.iter().all(|byte| *byte == 0);
        if is_blank && !matches!(area.of, Of::File(_)) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.start + run.bytes.len() as u64 == start => {
                run.bytes.extend_from_slice(&page);
            }
            _ => runs.push(Run {
                start,
                bytes: page.clone(),
            }),
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::{Area, Of};

    #[test]
    fn an_area_is_read_from_its_line() {
        let line = "7f10c000-7f10d000 r-xp 00002000 00:2a 1234      /usr/lib/x y.so";
        let area = Area::read(line).expect("a line");
        assert_eq!(
            (area.start, area.end, area.offset),
            (0x7f10_c000, 0x7f10_d000, 0x2000)
        );
        assert_eq!(area.of, Of::File("/usr/lib/x y.so".to_owned()));
        assert_eq!(area.protection, 5);
        let line = "00e0a000-00e4b000 rw-p 00000000 00:00 0              [heap]";
        assert_eq!(Area::read(line).expect("a line").of, Of::Nothing);
        assert!(Area::read("nonsense").is_none());
    }
}
