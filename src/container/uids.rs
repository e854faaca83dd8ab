//! Host uids for containers. No two live containers have the same one, because the kernel's per-user limits (processes,
//! pipe buffers, message queues) are a channel between all that share a uid.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::ContainerError;

/// The uids of this worker.
#[derive(Debug, Clone)]
pub(super) struct Uids(Arc<Mutex<Range>>);

#[derive(Debug)]
struct Range {
    first: u32,
    count: u32,
    /// Where the search begins: a uid comes again as late as possible.
    next: u32,
    taken: HashSet<u32>,
}

/// A uid in use. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Uid {
    number: u32,
    uids: Uids,
}

impl Uids {
    /// `count` uids from `first` on.
    pub(super) fn new(first: u32, count: u32) -> Self {
        // u32::MAX is no uid: the kernel takes it for "leave it as it is".
        let count = count.min(u32::MAX - first);
        Self(Arc::new(Mutex::new(Range {
            first,
            count,
            next: 0,
            taken: HashSet::new(),
        })))
    }

    /// A uid that no container has.
    pub(super) fn take(&self) -> Result<Uid, ContainerError> {
        let mut range = self.range();
        for step in 0..range.count {
            let offset = (u64::from(range.next) + u64::from(step)) % u64::from(range.count);
            // Below `count`, which is a u32.
            let offset = u32::try_from(offset).unwrap_or_default();
            let number = range.first + offset;
            if range.taken.insert(number) {
                range.next = offset + 1;
                return Ok(Uid {
                    number,
                    uids: self.clone(),
                });
            }
        }
        Err(ContainerError::NoUid {
            first: range.first,
            count: range.count,
        })
    }

    /// Never hands out `number`: a container that cannot be removed has it.
    pub(super) fn reserve(&self, number: u32) {
        self.range().taken.insert(number);
    }

    /// Whether `number` is one of them.
    pub(super) fn contain(&self, number: u32) -> bool {
        let range = self.range();
        number >= range.first && number - range.first < range.count
    }

    fn range(&self) -> MutexGuard<'_, Range> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uid {
    /// The number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Uid {
    fn drop(&mut self) {
        self.uids.range().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_has_one_holder_and_comes_again_as_late_as_possible() {
        let uids = Uids::new(100, 3);
        let first = uids.take().expect("free");
        let second = uids.take().expect("free");
        assert_eq!((first.number(), second.number()), (100, 101));
        drop(first);
        let third = uids.take().expect("free");
        let again = uids.take().expect("free");
        assert_eq!((third.number(), again.number()), (102, 100));
        assert!(matches!(
            uids.take(),
            Err(ContainerError::NoUid {
                first: 100,
                count: 3
            })
        ));
    }

    #[test]
    fn a_reserved_uid_is_not_handed_out() {
        let uids = Uids::new(100, 2);
        uids.reserve(100);
        assert_eq!(uids.take().expect("free").number(), 101);
    }
}
