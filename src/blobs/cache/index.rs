//! What a cache has: sizes, pins, and the order of last use. No I/O.
//!
//! The invariant: what is pinned is never chosen to go, and what is reserved or there is at most `most_bytes`, as long as what is
//! pinned and reserved together is.

use std::collections::{BTreeMap, HashMap};

use crate::submission::names::{Digest, Tenant};

/// What a file takes at least, and the step of it: a block of most file systems.
pub(super) const BLOCK: u64 = 4_096;

/// The most files that are kept. Each takes some memory of the worker's.
const MOST_ENTRIES: usize = 100_000;

/// Whose, and which. No tenant learns by it what another one has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) tenant: Tenant,
    pub(super) digest: Digest,
}

/// A file of the cache. Its number is never given twice: what a file that has gone was called, no later one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) size: u64,
    /// Its digest was seen to be right since this process started.
    pub(super) verified: bool,
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    pins: u32,
    /// Its place in the order of last use, while nothing pins it.
    turn: Option<u64>,
}

/// What a file that is to go is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) key: Key,
    pub(super) number: u64,
}

/// What a cache has.
#[derive(Debug)]
pub(super) struct Index {
    most_bytes: u64,
    /// Of everything that is there or reserved.
    bytes: u64,
    /// Of what is used next.
    turn: u64,
    /// Of what is added next.
    number: u64,
    kept: HashMap<Key, Kept>,
    /// What nothing pins, the least recently used first.
    order: BTreeMap<u64, Key>,
}

/// What a file of `size` bytes takes of the disk.
pub(super) const fn footprint(size: u64) -> u64 {
    match size.checked_next_multiple_of(BLOCK) {
        Some(0) => BLOCK,
        Some(blocks) => blocks,
        None => u64::MAX,
    }
}

impl Index {
    /// An empty one of at most `most_bytes`, whose files are called by numbers from `number` on.
    pub(super) fn new(most_bytes: u64, number: u64) -> Self {
        Self {
            most_bytes,
            bytes: 0,
            turn: 0,
            number,
            kept: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    /// A number that nothing was called by.
    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }

    /// Pins what is there of this size, and marks it as used.
    pub(super) fn pin(&mut self, key: &Key, size: u64) -> Option<Entry> {
        let kept = self.kept.get_mut(key).filter(|it| it.entry.size == size)?;
        kept.pins += 1;
        if let Some(turn) = kept.turn.take() {
            self.order.remove(&turn);
        }
        Some(kept.entry)
    }

    /// Takes back a pin of the file `number`, if that is what is there.
    pub(super) fn unpin(&mut self, key: &Key, number: u64) {
        let is_it = |it: &&mut Kept| it.entry.number == number;
        let Some(kept) = self.kept.get_mut(key).filter(is_it) else {
            return;
        };
        kept.pins = kept.pins.saturating_sub(1);
        if kept.pins == 0 {
            self.turn += 1;
            kept.turn = Some(self.turn);
            self.order.insert(self.turn, key.clone());
        }
    }

    /// Its digest is right.
    pub(super) fn verified(&mut self, key: &Key, number: u64) {
        let kept = self.kept.get_mut(key);
        if let Some(kept) = kept.filter(|it| it.entry.number == number) {
            kept.entry.verified = true;
        }
    }

    /// Forgets the file `number`, if that is what is there.
    pub(super) fn remove(&mut self, key: &Key, number: u64) {
        let is_it = |it: &Kept| it.entry.number == number;
        if !self.kept.get(key).is_some_and(is_it) {
            return;
        }
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= footprint(kept.entry.size);
            if let Some(turn) = kept.turn {
                self.order.remove(&turn);
            }
        }
    }

    /// Forgets a file that was found at the start and is not of this size, as a power cut leaves one: its number.
    pub(super) fn remove_cut(&mut self, key: &Key, size: u64) -> Option<u64> {
        let is_cut = |it: &&Kept| !it.entry.verified && it.entry.size != size && it.pins == 0;
        let number = self.kept.get(key).filter(is_cut)?.entry.number;
        self.remove(key, number);
        Some(number)
    }

    /// Reserves `bytes`; what has to go for them.
    pub(super) fn reserve(&mut self, bytes: u64) -> Vec<Gone> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.go_while(|it, _| it.bytes > it.most_bytes || it.kept.len() >= MOST_ENTRIES)
    }

    /// Gives back what was reserved.
    pub(super) fn release(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// What goes so that at least `bytes` are free on the disk, as far as nothing pins it.
    pub(super) fn shrink(&mut self, bytes: u64) -> Vec<Gone> {
        self.go_while(|_, gone| gone < bytes)
    }

    /// Has the least recently used go, while `more` of what remains and how many bytes went.
    fn go_while(&mut self, more: impl Fn(&Self, u64) -> bool) -> Vec<Gone> {
        let (before, mut gone) = (self.bytes, Vec::new());
        while more(self, before - self.bytes) {
            let Some((_, key)) = self.order.pop_first() else {
                break;
            };
            let Some(kept) = self.kept.remove(&key) else {
                continue;
            };
            self.bytes -= footprint(kept.entry.size);
            let number = kept.entry.number;
            gone.push(Gone { key, number });
        }
        gone
    }

    /// Adds a file with one pin, in place of what was reserved for it. False where there is one already.
    pub(super) fn add_pinned(&mut self, key: Key, entry: Entry) -> bool {
        if self.kept.contains_key(&key) {
            return false;
        }
        let kept = Kept {
            entry,
            pins: 1,
            turn: None,
        };
        self.kept.insert(key, kept);
        true
    }

    /// Adds a file that was found: the most recently used of those that there are. False where there is one already.
    pub(super) fn add_found(&mut self, key: Key, entry: Entry) -> bool {
        let bytes = footprint(entry.size);
        let (again, number) = (key.clone(), entry.number);
        let added = self.add_pinned(key, entry);
        if added {
            self.bytes = self.bytes.saturating_add(bytes);
            self.unpin(&again, number);
        }
        added
    }

    /// Of everything that is there or reserved.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is there.
    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Key, Entry, u32)> {
        self.kept
            .iter()
            .map(|(key, kept)| (key, kept.entry, kept.pins))
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn key(name: u64) -> Key {
        Key {
            tenant: Tenant::default_tenant(),
            digest: Digest::of(&name.to_le_bytes()),
        }
    }

    fn add(index: &mut Index, name: u64, size: u64) -> Vec<Gone> {
        let gone = index.reserve(footprint(size));
        let number = index.next_number();
        let entry = Entry {
            number,
            size,
            verified: true,
        };
        assert!(index.add_pinned(key(name), entry));
        index.unpin(&key(name), number);
        gone
    }

    #[test]
    fn the_least_recently_used_goes_first_and_nothing_that_is_pinned() {
        let mut index = Index::new(4 * BLOCK, 0);
        for name in 0..4 {
            assert_eq!(add(&mut index, name, BLOCK), []);
        }
        let pinned = index.pin(&key(0), BLOCK).expect("there");
        let used = index.pin(&key(1), BLOCK).expect("there");
        index.unpin(&key(1), used.number);
        let went = |gone: Vec<Gone>| gone.into_iter().map(|it| it.key).collect::<Vec<_>>();
        assert_eq!(went(add(&mut index, 4, 1)), [key(2)]);
        assert_eq!(went(add(&mut index, 5, BLOCK + 1)), [key(3), key(1)]);
        index.unpin(&key(0), pinned.number);
        assert_eq!(went(index.shrink(2 * BLOCK)), [key(4), key(5)]);
    }

    #[test]
    fn a_pin_of_a_file_that_went_unpins_no_later_one() {
        let mut index = Index::new(4 * BLOCK, 0);
        add(&mut index, 0, 1);
        let former = index.pin(&key(0), 1).expect("there");
        index.remove(&key(0), former.number);
        add(&mut index, 0, 1);
        let later = index.pin(&key(0), 1).expect("there");
        index.unpin(&key(0), former.number);
        assert_eq!(index.shrink(1), [], "it is pinned");
        index.unpin(&key(0), later.number);
        assert_eq!(index.shrink(1).len(), 1);
        assert_eq!(index.bytes(), 0);
    }

    #[test]
    fn another_size_than_what_is_there_is_not_it() {
        let mut index = Index::new(4 * BLOCK, 0);
        add(&mut index, 0, 7);
        assert!(index.pin(&key(0), 8).is_none());
    }

    #[test]
    fn a_footprint_is_of_whole_blocks() {
        for (size, bytes) in [(0, 1), (1, 1), (BLOCK, 1), (BLOCK + 1, 2)] {
            assert_eq!(footprint(size), bytes * BLOCK);
        }
        assert_eq!(footprint(u64::MAX), u64::MAX);
    }

    #[test]
    fn whatever_is_done_the_bytes_are_those_of_what_is_there() {
        let mut random = StdRng::seed_from_u64(6);
        let most = 40 * BLOCK;
        let mut index = Index::new(most, 0);
        let mut pins: Vec<(Key, Entry)> = Vec::new();
        for _ in 0..20_000 {
            let name = random.random_range(0..60);
            // The size is the content's, as the digest is.
            let size = name * 97 % (3 * BLOCK);
            let held: u64 = pins.iter().map(|(_, entry)| footprint(entry.size)).sum();
            match random.random_range(0..4) {
                0 if held + footprint(size) <= most => {
                    if let Some(entry) = index.pin(&key(name), size) {
                        pins.push((key(name), entry));
                    } else {
                        add(&mut index, name, size);
                    }
                }
                1 if !pins.is_empty() => {
                    let (key, entry) = pins.swap_remove(random.random_range(0..pins.len()));
                    index.unpin(&key, entry.number);
                }
                2 => {
                    index.shrink(size);
                }
                _ => {
                    let found = index.pin(&key(name), size);
                    if let Some(entry) = found {
                        index.unpin(&key(name), entry.number);
                    }
                }
            }
            let there: u64 = index.entries().map(|(_, it, _)| footprint(it.size)).sum();
            assert_eq!(index.bytes(), there);
            assert!(there <= most);
            for (key, entry) in &pins {
                assert!(index.entries().any(|it| it.0 == key && it.1 == *entry));
            }
        }
    }
}
