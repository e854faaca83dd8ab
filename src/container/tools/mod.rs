//! What the agent's tools do for a submission, seen from the worker: unpack an archive into its work directory, collect files from
//! it, pack all of it.
//!
//! A tool runs behind the walls, as a stage does (see [`envicutor_protocol`]). What it says is taken for what a program says: counted, bounded, and every
//! path looked at. A tool that dies or talks nonsense was made to by what it read, and that is the submission's doing: it is
//! told as a refusal, never as a failure.

mod listener;
mod takes;

use envicutor_protocol::{
    self as protocol, Ended, Exit, Faith, Format, Killed, Limits, SKIPPED, Skipped, Task,
};
use tokio::{io::AsyncRead, time::timeout};

use super::{ContainerError, Feed, Spool, orders::GRACE, session::Session};
use crate::{
    config,
    submission::{
        limits,
        names::Digest,
        units::{ByteSize, Micros},
    },
};
use takes::{Collecting, Packing, Unpacking};

pub(super) use listener::{Listener, Take};

/// The bytes of a path, as the contract has it.
const PATH_BYTES: u64 = 1024;

/// What frames take beside what is in them, for each file.
const FRAMES_BYTES: u64 = 2 * PATH_BYTES;

/// Descriptors that a tool has beside one for each level of a tree.
const OPEN_FILES: u64 = 64;

/// How an archive is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpack {
    /// What kind of archive it is.
    pub format: Format,
    /// How many components are taken from the beginning of each path.
    pub strip_components: u32,
    /// A stranger's, or one that [`super::Sandbox::pack`] made.
    pub faith: Faith,
    /// The entries that it may have.
    pub entries: u64,
    /// What its files may come to, unpacked.
    pub bytes: ByteSize,
}

/// An archive that was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Its entries.
    pub entries: u64,
    /// What its files come to.
    pub bytes: ByteSize,
}

/// Why an archive was not unpacked, or a work directory not packed: the submission's doing. It reads as what follows `archive: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", refusal(entry, reason))]
pub struct Refused {
    /// The entry, as the archive names it; empty where it is about no single one. It is hostile: it may hold anything that is
    /// UTF-8, up to a few hundred bytes.
    pub entry: String,
    /// What is wrong with it.
    pub reason: String,
}

fn refusal(entry: &str, reason: &str) -> String {
    if entry.is_empty() {
        return reason.to_owned();
    }
    format!("entry {entry:?} {reason}")
}

/// What is read out of the work directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collect {
    /// Relative paths; `*`, `?` and `[…]` stand for what is in one component, `**` for any number of components.
    pub patterns: Vec<String>,
    /// Files at most.
    pub max_files: u64,
    /// All of them together.
    pub max_bytes: ByteSize,
    /// The entries of the work directory that are looked at.
    pub entries: u64,
}

/// Files that were read out of the work directory.
#[derive(Debug)]
pub struct Collected {
    /// The files, by their paths.
    pub files: Vec<CollectedFile>,
    /// What matches and was not read, and why; a pattern that nothing matches.
    pub skipped: Vec<Skipped>,
    data: Spool,
}

/// A file that was read out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedFile {
    /// Relative, by the contract's rules.
    pub path: String,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Its size.
    pub size_bytes: ByteSize,
    /// Of its content.
    pub digest: Digest,
    /// Where it begins in what was read.
    offset: u64,
}

impl Collected {
    /// The content of one of its files.
    pub fn reader(&self, file: &CollectedFile) -> impl AsyncRead + Send + Unpin + use<> {
        self.data.part(file.offset, file.size_bytes.0)
    }
}

/// Bounds of packing the work directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The entries that it may have.
    pub entries: u64,
    /// The size of what is made of it.
    pub bytes: ByteSize,
}

/// A work directory that was packed: a tar stream.
#[derive(Debug)]
pub struct Packed {
    /// Its entries.
    pub entries: u64,
    /// The stream.
    pub data: Spool,
    /// Of the stream.
    pub digest: Digest,
}

/// Runs tools, within the configured bounds.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    memory: ByteSize,
    cpu_time: Micros,
    wall_time: Micros,
    ratio: u64,
    depth: u64,
    /// The most memory that a stage and its work directory may have together: what a slot's container has room for.
    most_memory: u64,
}

impl Tools {
    /// Tools beside stages within `ceilings`.
    pub(super) fn new(config: &config::Container, ceilings: &limits::Limits) -> Self {
        let most_memory = ceilings.memory_bytes.0;
        Self {
            most_memory: most_memory.saturating_add(ceilings.disk_bytes.0),
            memory: config.tool_memory_bytes,
            cpu_time: config.tool_cpu_time_us,
            wall_time: config.tool_wall_time_us,
            ratio: config.unpack_ratio,
            depth: config.unpack_depth,
        }
    }

    /// What a tool takes of memory beside what it writes.
    pub(super) fn own_memory(&self) -> u64 {
        self.memory.0
    }

    /// What unpacking takes of memory.
    pub(super) fn memory_to_unpack(&self, archive: &Feed<'_>, how: &Unpack) -> u64 {
        let whole = match how.format {
            Format::Zip => archive.size_bytes(),
            Format::Tar | Format::TarGz | Format::TarZst => 0,
        };
        let own = self.memory.0.saturating_add(whole);
        own.saturating_add(how.bytes.0).min(self.most_memory)
    }

    pub(super) async fn unpack(
        &self,
        session: &mut Session,
        archive: Feed<'_>,
        how: &Unpack,
    ) -> Result<Result<Unpacked, Refused>, ContainerError> {
        let task = Task::Unpack(protocol::Unpack {
            format: how.format,
            strip_components: how.strip_components,
            faith: how.faith,
            max_entries: how.entries,
            max_bytes: how.bytes.0,
            max_ratio: self.ratio,
            max_path_bytes: PATH_BYTES,
            max_depth: self.depth,
            // Half: there is more to unpacking than the window.
            max_window_bytes: self.memory.0 / 2,
            own_memory_bytes: self.memory.0,
            packed_bytes: archive.size_bytes(),
        });
        let memory = self.memory_to_unpack(&archive, how);
        let limits = self.limits(
            memory,
            how.bytes.0.max(archive.size_bytes()),
            FRAMES_BYTES * 2,
        );
        let mut unpacking = Unpacking(None);
        let (ended, listener) = self
            .run(session, limits, &task, archive, &mut unpacking)
            .await?;
        Ok(match unpacking.0 {
            Some(done) if listener.is_fine() && is_well(&ended) => done,
            _ => Err(self.death(&ended, &listener, "unpacking")?),
        })
    }

    pub(super) async fn collect(
        &self,
        session: &mut Session,
        what: &Collect,
    ) -> Result<Collected, ContainerError> {
        let task = Task::Collect(protocol::Collect {
            patterns: what.patterns.clone(),
            max_files: what.max_files,
            max_bytes: what.max_bytes.0,
            max_entries: what.entries,
            max_depth: self.depth,
            own_memory_bytes: self.memory.0,
        });
        let frames = what.max_files.saturating_add(2 * SKIPPED as u64);
        let limits = self.limits(
            self.memory.0,
            1,
            framed(what.max_bytes.0).saturating_add(frames.saturating_mul(FRAMES_BYTES)),
        );
        let mut collecting = Collecting::new(what, &session.spools);
        let (ended, listener) = self
            .run(session, limits, &task, Feed::EMPTY, &mut collecting)
            .await?;
        let is_done = collecting.is_done && listener.is_fine() && is_well(&ended);
        let mut collected = collecting.collected;
        if !is_done {
            let Refused { reason, .. } = self.death(&ended, &listener, "collecting")?;
            let path = String::new();
            collected.skipped.push(Skipped { path, reason });
        }
        Ok(collected)
    }

    pub(super) async fn pack(
        &self,
        session: &mut Session,
        most: &Pack,
    ) -> Result<Result<Packed, Refused>, ContainerError> {
        let task = Task::Pack(protocol::Pack {
            max_entries: most.entries,
            max_bytes: most.bytes.0,
            max_path_bytes: PATH_BYTES,
            max_depth: self.depth,
            own_memory_bytes: self.memory.0,
        });
        let output = framed(most.bytes.0).saturating_add(2 * FRAMES_BYTES);
        let limits = self.limits(self.memory.0, 1, output);
        let mut packing = Packing::new(most, &session.spools);
        let (ended, listener) = self
            .run(session, limits, &task, Feed::EMPTY, &mut packing)
            .await?;
        let is_well = listener.is_fine() && is_well(&ended);
        Ok(match packing.done.filter(|_| is_well) {
            Some(Ok(entries)) => Ok(Packed {
                entries,
                data: packing.data,
                digest: Digest::of_hash(packing.hash),
            }),
            Some(Err(refused)) => Err(refused),
            None => Err(self.death(&ended, &listener, "packing")?),
        })
    }

    async fn run(
        &self,
        session: &mut Session,
        limits: Limits,
        task: &Task,
        feed: Feed<'_>,
        take: &mut impl Take,
    ) -> Result<(Ended, Listener), ContainerError> {
        let waited = self.wall_time.duration().saturating_add(GRACE);
        let ended = timeout(waited, session.tool(limits, task, feed, take)).await;
        ended.map_err(|_| ContainerError::AgentOverdue {
            doing: "end a tool",
            waited,
        })?
    }

    fn limits(&self, memory: u64, file_size: u64, output: u64) -> Limits {
        Limits {
            cpu_time_us: self.cpu_time.0,
            extra_time_us: 0,
            wall_time_us: self.wall_time.0,
            memory_bytes: memory,
            stack_bytes: 8 << 20,
            processes: 1,
            open_files: self.depth.saturating_add(OPEN_FILES),
            file_size_bytes: file_size.max(1),
            output_bytes: output,
        }
    }

    /// Why a tool did not do what it should; an error only where the agent could not even start it.
    fn death(
        &self,
        ended: &Ended,
        listener: &Listener,
        doing: &str,
    ) -> Result<Refused, ContainerError> {
        let words = listener.words();
        let reason = match (&listener.problem, ended.killed, &ended.exit) {
            (Some(problem), ..) => format!("{doing} it gave no answer that can be read: {problem}"),
            (None, Some(Killed::Memory), _) => format!(
                "{doing} it takes more than the {} of memory there are for that (container.tool_memory_bytes)",
                self.memory
            ),
            (None, Some(Killed::CpuTime | Killed::WallTime), _) => format!(
                "{doing} it takes longer than {:?} (container.tool_cpu_time_us, container.tool_wall_time_us)",
                self.cpu_time.duration().min(self.wall_time.duration())
            ),
            (None, None, Exit::NotExecuted { errno }) => {
                return Err(failed(doing, &format!("errno {errno}")));
            }
            (None, None, Exit::Code(0)) => format!("{doing} it ended without an answer"),
            (None, None, Exit::Code(_)) if !words.is_empty() => {
                return Err(failed(doing, &words));
            }
            (None, _, exit) => format!("{doing} it made its reader fail ({exit:?})"),
        };
        let entry = String::new();
        Ok(Refused { entry, reason })
    }
}

fn failed(doing: &str, error: &str) -> ContainerError {
    ContainerError::AgentFailed {
        step: doing.to_owned(),
        object: "a tool".to_owned(),
        error: error.to_owned(),
    }
}

fn is_well(ended: &Ended) -> bool {
    ended.killed.is_none() && ended.exit == Exit::Code(0)
}

/// What so many bytes take in frames of data.
fn framed(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 512)
}
