//! What the worker makes of each report of a tool. A report that makes no sense where it comes ends the tool.

use envicutor_protocol::{SKIPPED, Skipped, ToolReport};
use sha2::{Digest as _, Sha256};

use super::{
    Collect, Collected, CollectedFile, PATH_BYTES, Pack, Refused, Unpacked, listener::Take,
};
use crate::{
    container::{ContainerError, Spool, Spools, streams::unspooled},
    submission::{names::Digest, units::ByteSize},
};

/// That a report makes no sense where it came.
pub(super) fn nonsense<T>(report: &ToolReport) -> Result<T, String> {
    let name = match report {
        ToolReport::Unpacked { .. } => "unpacked",
        ToolReport::Refused { .. } => "refused",
        ToolReport::Found { .. } => "found",
        ToolReport::Data { .. } => "data",
        ToolReport::Whole => "whole",
        ToolReport::Cut { .. } => "cut",
        ToolReport::Collected { .. } => "collected",
        ToolReport::Packed { .. } => "packed",
    };
    Err(format!("{name} came out of order"))
}

/// What a tool says of a refusal, no longer than can be shown.
pub(super) fn refused(entry: &str, reason: &str) -> Refused {
    const SHOWN_CHARS: usize = 200;
    let shown = |text: &str| text.chars().take(SHOWN_CHARS).collect();
    Refused {
        entry: shown(entry),
        reason: shown(reason),
    }
}

/// How an archive was unpacked, once that is told.
pub(super) struct Unpacking(pub(super) Option<Result<Unpacked, Refused>>);

impl Take for Unpacking {
    async fn take(&mut self, report: ToolReport) -> Result<Result<(), String>, ContainerError> {
        Ok(match (&self.0, report) {
            (None, ToolReport::Unpacked { entries, bytes }) => {
                let bytes = ByteSize(bytes);
                self.0 = Some(Ok(Unpacked { entries, bytes }));
                Ok(())
            }
            (None, ToolReport::Refused { entry, reason }) => {
                self.0 = Some(Err(refused(&entry, &reason)));
                Ok(())
            }
            (_, report) => nonsense(&report),
        })
    }
}

/// Files that come.
pub(super) struct Collecting<'a> {
    what: &'a Collect,
    /// The one that comes: its size so far and its hash.
    current: Option<(String, bool, u64, Sha256)>,
    pub(super) collected: Collected,
    pub(super) is_done: bool,
}

impl<'a> Collecting<'a> {
    pub(super) fn new(what: &'a Collect, spools: &Spools) -> Self {
        Self {
            what,
            current: None,
            collected: Collected {
                files: Vec::new(),
                skipped: Vec::new(),
                data: spools.spool(),
            },
            is_done: false,
        }
    }

    fn found(&mut self, path: String, executable: bool) -> Result<(), String> {
        let files = &self.collected.files;
        if files.len() as u64 >= self.what.max_files {
            return Err("more files came than were asked for".to_owned());
        }
        // In order, so that none comes twice.
        let is_next = files.last().is_none_or(|last| last.path < path);
        if !is_next || !is_path(&path) {
            return Err("a path came that is none, or not in order".to_owned());
        }
        self.current = Some((path, executable, 0, Sha256::new()));
        Ok(())
    }

    async fn data(&mut self, data: &[u8]) -> Result<Result<(), String>, ContainerError> {
        let Some((_, _, size, hash)) = &mut self.current else {
            return Ok(Err("data came without a file".to_owned()));
        };
        let so_far = self.collected.data.len();
        if so_far.saturating_add(data.len() as u64) > self.what.max_bytes.0 {
            return Ok(Err("more bytes came than were asked for".to_owned()));
        }
        *size += data.len() as u64;
        hash.update(data);
        self.collected.data.push(data).await.map_err(unspooled)?;
        Ok(Ok(()))
    }
}

impl Take for Collecting<'_> {
    async fn take(&mut self, report: ToolReport) -> Result<Result<(), String>, ContainerError> {
        Ok(match (self.current.is_some(), report) {
            (false, ToolReport::Found { path, executable }) if !self.is_done => {
                self.found(path, executable)
            }
            (true, ToolReport::Data { data }) => return self.data(&data).await,
            (true, ToolReport::Whole) => {
                if let Some((path, executable, size, hash)) = self.current.take() {
                    self.collected.files.push(CollectedFile {
                        path,
                        executable,
                        size_bytes: ByteSize(size),
                        digest: Digest::of_hash(hash),
                        offset: self.collected.data.len() - size,
                    });
                }
                Ok(())
            }
            (true, ToolReport::Cut { reason }) => {
                if let Some((path, ..)) = self.current.take() {
                    let Refused { reason, .. } = refused("", &reason);
                    self.collected.skipped.push(Skipped { path, reason });
                }
                Ok(())
            }
            (false, ToolReport::Collected { skipped }) if !self.is_done => {
                self.is_done = true;
                let skipped = skipped.into_iter().take(SKIPPED).map(|it| {
                    let Refused { entry, reason } = refused(&it.path, &it.reason);
                    Skipped {
                        path: entry,
                        reason,
                    }
                });
                self.collected.skipped.extend(skipped);
                Ok(())
            }
            (_, report) => nonsense(&report),
        })
    }
}

/// Whether it is a path by the contract's rules.
fn is_path(path: &str) -> bool {
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= 255;
    path.len() as u64 <= PATH_BYTES && !path.contains('\0') && path.split('/').all(is_name)
}

/// A stream that comes.
pub(super) struct Packing<'a> {
    most: &'a Pack,
    pub(super) data: Spool,
    pub(super) hash: Sha256,
    pub(super) done: Option<Result<u64, Refused>>,
}

impl<'a> Packing<'a> {
    pub(super) fn new(most: &'a Pack, spools: &Spools) -> Self {
        Self {
            most,
            data: spools.spool(),
            hash: Sha256::new(),
            done: None,
        }
    }
}

impl Take for Packing<'_> {
    async fn take(&mut self, report: ToolReport) -> Result<Result<(), String>, ContainerError> {
        Ok(match (&self.done, report) {
            (None, ToolReport::Data { data }) => {
                let size = self.data.len().saturating_add(data.len() as u64);
                if size > self.most.bytes.0 {
                    return Ok(Err("more bytes came than were asked for".to_owned()));
                }
                self.hash.update(&data);
                self.data.push(&data).await.map_err(unspooled)?;
                Ok(())
            }
            (None, ToolReport::Packed { entries }) => {
                self.done = Some(Ok(entries));
                Ok(())
            }
            (None, ToolReport::Refused { entry, reason }) => {
                self.done = Some(Err(refused(&entry, &reason)));
                Ok(())
            }
            (_, report) => nonsense(&report),
        })
    }
}
