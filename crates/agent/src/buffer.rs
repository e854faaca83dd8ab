//! Memory to read into. It is shared with every copy of the agent, and so never copied: after each fork the kernel would else
//! make a copy of each page that the agent writes to while a stage runs.

use std::{io, ptr, slice};

/// Memory of a fixed size, for as long as the agent lives.
pub struct Buffer(&'static mut [u8]);

impl Buffer {
    /// Takes `bytes` of memory.
    pub fn take(bytes: usize) -> io::Result<Self> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping has `bytes` bytes, is never unmapped, and no copy of the agent touches it.
        Ok(Self(unsafe {
            slice::from_raw_parts_mut(start.cast(), bytes)
        }))
    }

    /// Its first `most` bytes, or all there are.
    pub fn first(&mut self, most: usize) -> &mut [u8] {
        let end = most.min(self.0.len());
        &mut self.0[..end]
    }
}
