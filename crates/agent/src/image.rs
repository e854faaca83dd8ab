//! Whether a program's image fits into this machine at all. One that does not dies in the middle of `execve`, by a signal that
//! looks as if the program had made it: a static array of more memory than there is (go-judge's issue 186).
//!
//! The file is the submission's: no more is read of it than two tables of bounded size, and nothing is done but adding up.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// The header of a 64-bit file in little-endian order, and an entry of its table of segments.
const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;

/// More segments than this has no program that a linker made.
const MOST_SEGMENTS: u16 = 128;

/// A segment that is loaded.
const LOADED: u32 = 1;

/// Whether the segments of the program at `path` are more than this machine's memory and swap. False for what is no program.
pub fn is_too_large(path: &Path) -> bool {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY)
        .open(path);
    let bytes = file.ok().and_then(|file| loaded_bytes(&file));
    bytes.is_some_and(|bytes| bytes > machine_bytes())
}

/// What the segments of `file` take when they are loaded.
fn loaded_bytes(file: &File) -> Option<u64> {
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = u64::from_le_bytes(*header[32..].first_chunk()?);
    let size = u16::from_le_bytes(*header[54..].first_chunk()?);
    let count = u16::from_le_bytes(*header[56..].first_chunk()?).min(MOST_SEGMENTS);
    if usize::from(size) != SEGMENT_BYTES {
        return None;
    }
    let mut total = 0_u64;
    for index in 0..u64::from(count) {
        let mut segment = [0; SEGMENT_BYTES];
        let at = table.checked_add(index * SEGMENT_BYTES as u64)?;
        file.read_exact_at(&mut segment, at).ok()?;
        if u32::from_le_bytes(*segment.first_chunk()?) == LOADED {
            total = total.saturating_add(u64::from_le_bytes(*segment[40..].first_chunk()?));
        }
    }
    Some(total)
}

fn machine_bytes() -> u64 {
    // SAFETY: a sysinfo is plain data.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a sysinfo that the call may write.
    if unsafe { libc::sysinfo(&raw mut info) } < 0 {
        return u64::MAX;
    }
    info.totalram
        .saturating_add(info.totalswap)
        .saturating_mul(info.mem_unit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(memory: u64) -> File {
        let mut bytes = vec![0; HEADER_BYTES + SEGMENT_BYTES];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        bytes[64] = 1;
        bytes[104..112].copy_from_slice(&memory.to_le_bytes());
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&bytes, 0).expect("written");
        file
    }

    #[test]
    fn segments_are_added_up() {
        assert_eq!(loaded_bytes(&program(1 << 40)), Some(1 << 40));
        let text = tempfile::tempfile().expect("a file");
        text.write_all_at(b"#!/bin/sh\n", 0).expect("written");
        assert_eq!(loaded_bytes(&text), None);
    }

    #[test]
    fn a_program_that_runs_is_not_too_large() {
        assert!(!is_too_large(Path::new("/proc/self/exe")));
        let this = std::env::current_exe().expect("has a path");
        assert!(!is_too_large(&this));
    }
}
