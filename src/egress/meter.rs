//! What an installation has used of its way out, and that it does not use more.

use std::sync::atomic::{AtomicU64, Ordering};

use super::request::Refused;
use crate::submission::units::ByteSize;

/// Counts over all connections of an installation.
#[derive(Debug)]
pub(super) struct Meter {
    max_bytes: u64,
    max_requests: u64,
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Meter {
    pub(super) fn new(max_bytes: ByteSize, max_requests: u64) -> Self {
        Self {
            max_bytes: max_bytes.0,
            max_requests,
            bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        }
    }

    /// One more request.
    pub(super) fn request(&self) -> Result<(), Refused> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        if before >= self.max_requests {
            let reason = format!(
                "more than {} requests (egress.max_requests)",
                self.max_requests
            );
            return Err(Refused::new(429, reason));
        }
        self.has_room()
    }

    /// Takes `count` bytes, in either direction. False where they are more than there may be: then they are not passed on.
    pub(super) fn take(&self, count: usize) -> bool {
        let count = count as u64;
        let before = self.bytes.fetch_add(count, Ordering::Relaxed);
        before.saturating_add(count) <= self.max_bytes
    }

    fn has_room(&self) -> Result<(), Refused> {
        if self.bytes.load(Ordering::Relaxed) < self.max_bytes {
            return Ok(());
        }
        let reason = format!(
            "more than {} came and went (egress.max_bytes)",
            ByteSize(self.max_bytes)
        );
        Err(Refused::new(429, reason))
    }

    /// Requests and bytes so far.
    pub(super) fn used(&self) -> (u64, u64) {
        (
            self.requests.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}
