//! What an archive may come to: entries, bytes, and bytes for each packed one. Counted as it is read, never believed.

use std::{
    cell::Cell,
    io::{self, Read},
    rc::Rc,
};

use envicutor_protocol::Unpack;

use super::Stop;

/// What may be unpacked of however little, in bytes: a small archive may well be a few hundred times smaller than its content.
const FREE_BYTES: u64 = 1 << 20;

/// A reader that counts.
pub struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R> Counted<R> {
    /// Of which nothing was read.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            count: Rc::default(),
        }
    }

    /// How much was read of it, also later.
    pub fn counter(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// What was unpacked so far, and may be.
pub struct Bounds {
    max_entries: u64,
    max_bytes: u64,
    max_ratio: u64,
    packed: Rc<Cell<u64>>,
    /// Entries so far.
    pub entries: u64,
    /// Bytes of files so far.
    pub bytes: u64,
}

impl Bounds {
    /// Those of `order`; `packed` says how much of the archive was read.
    pub fn new(order: &Unpack, packed: Rc<Cell<u64>>) -> Self {
        Self {
            max_entries: order.max_entries,
            max_bytes: order.max_bytes,
            max_ratio: order.max_ratio,
            packed,
            entries: 0,
            bytes: 0,
        }
    }

    /// One entry more.
    pub fn count_entry(&mut self) -> Result<(), String> {
        self.entries += 1;
        if self.entries > self.max_entries {
            let most = self.max_entries;
            return Err(format!("is one more than the {most} that there may be"));
        }
        Ok(())
    }

    /// Whether a file that says to have `size` bytes can be meant seriously.
    pub fn expect(&self, size: u64) -> Result<(), String> {
        if self.bytes.saturating_add(size) > self.max_bytes {
            return Err(self.too_large());
        }
        Ok(())
    }

    /// So many bytes more.
    pub fn count_bytes(&mut self, count: u64) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(count);
        if self.bytes > self.max_bytes {
            return Err(self.too_large());
        }
        let allowed = self.packed.get().saturating_mul(self.max_ratio);
        if self.bytes > allowed.saturating_add(FREE_BYTES) {
            let ratio = self.max_ratio;
            return Err(format!(
                "unpacks to more than {ratio} times the size of the archive so far"
            ));
        }
        Ok(())
    }

    fn too_large(&self) -> String {
        let most = self.max_bytes;
        format!("makes the files more than the {most} bytes that they may be together")
    }
}

/// Reads what follows the end of an archive, so that its checksums are seen; not more than an archive may hold.
pub fn drain(mut rest: impl Read, order_bytes: u64) -> Result<(), Stop> {
    let limit = order_bytes.saturating_add(FREE_BYTES);
    let unread = |error| Stop::refused(format!("cannot be read to its end: {error}"));
    let read = io::copy(&mut rest.by_ref().take(limit), &mut io::sink()).map_err(unread)?;
    if read == limit {
        return Err(Stop::refused("goes on for too long after its end"));
    }
    Ok(())
}
