//! What a worker runs: a submission that was found valid, with the runtime's defaults filled in.

use std::{collections::BTreeMap, sync::Arc};

use time::OffsetDateTime;

use super::{
    archive::ArchiveFormat,
    compare::Compare,
    content::Blob,
    limits::Limits,
    message::EventsWanted,
    names::{RuntimeName, RuntimeVersion},
    units::{ByteSize, Micros},
};

/// A valid submission, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The runtime that was named, or its default version.
    pub runtime: (RuntimeName, RuntimeVersion),
    /// What is extracted into the work directory first.
    pub archive: Option<ArchivePlan>,
    /// What lies in the work directory before the first stage, beside what the archive has: none may be one of its paths.
    pub files: Vec<PlannedFile>,
    /// The compile stage, where the runtime or the submission has one.
    pub compile: Option<StagePlan>,
    /// The runs, one or more, in order.
    pub runs: Vec<RunPlan>,
    /// What is kept of the work directory after the last run.
    pub collect: Option<CollectPlan>,
    /// Whether the compile stage may be taken from the cache.
    pub cache: bool,
    /// How output is held against what was expected.
    pub compare: Compare,
    /// Skip what follows the first run that is not ok.
    pub stop_on_failure: bool,
    /// Wall time of all stages together.
    pub total_time_us: Micros,
    /// After this it is not started any more.
    pub expires_at: Option<OffsetDateTime>,
    /// Which events are published.
    pub events: EventsWanted,
    /// Echoed in every message.
    pub labels: BTreeMap<String, String>,
}

/// Where bytes are that a plan needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the plan itself.
    Inline(Vec<u8>),
    /// In the object store.
    Blob(Blob),
}

/// An archive to extract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivePlan {
    /// How it is packed.
    pub format: ArchiveFormat,
    /// Its bytes.
    pub source: Source,
    /// How many leading components of every entry's path are dropped.
    pub strip_components: u32,
}

/// What is kept of the work directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectPlan {
    /// Globs of paths relative to the work directory, each a valid one: see [`Collect`](super::collect::Collect).
    pub patterns: Vec<String>,
    /// The most files.
    pub max_files: u64,
    /// The most bytes of all files together.
    pub max_bytes: ByteSize,
}

/// A file with its path resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Relative, by the contract's rules.
    pub path: String,
    /// Mode 0755 instead of 0644.
    pub executable: bool,
    /// Its content.
    pub data: Source,
}

/// A stage with everything resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// The argument vector, not empty.
    pub argv: Vec<String>,
    /// The whole environment, `HOME` and `PATH` included. Shared, since a thousand runs have the same one.
    pub env: Arc<BTreeMap<String, String>>,
    /// Every limit.
    pub limits: Limits,
    /// Standard input.
    pub stdin: Source,
    /// The runtime's own command, and that may begin from a template.
    pub template: bool,
}

/// A run with what it is held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPlan {
    /// The test's name.
    pub name: Option<String>,
    /// How it runs.
    pub stage: StagePlan,
    /// What it should write to its standard output.
    pub expected: Option<Source>,
}

impl Default for Source {
    fn default() -> Self {
        Self::Inline(Vec::new())
    }
}

impl From<Vec<u8>> for Source {
    fn from(data: Vec<u8>) -> Self {
        Self::Inline(data)
    }
}

impl Source {
    /// The bytes, where they are in the plan.
    pub fn inline(&self) -> Option<&[u8]> {
        match self {
            Self::Inline(data) => Some(data),
            Self::Blob(_) => None,
        }
    }

    /// Where they are, if that is in the object store.
    pub const fn blob(&self) -> Option<&Blob> {
        match self {
            Self::Inline(_) => None,
            Self::Blob(blob) => Some(blob),
        }
    }

    /// How many bytes they are, as far as it is said: a blob is held against its size when it is read.
    pub fn size_bytes(&self) -> ByteSize {
        match self {
            Self::Inline(data) => ByteSize(data.len() as u64),
            Self::Blob(blob) => blob.size_bytes,
        }
    }
}

impl Plan {
    /// Everything that it needs bytes of, in the order in which it does: the archive, the files, then of each run its standard
    /// input and what is expected.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let archive = self.archive.iter().map(|archive| &archive.source);
        let files = self.files.iter().map(|file| &file.data);
        let compile = self.compile.iter().map(|stage| &stage.stdin);
        let runs = self.runs.iter();
        let runs = runs.flat_map(|run| [&run.stage.stdin].into_iter().chain(&run.expected));
        archive.chain(files).chain(compile).chain(runs)
    }

    /// Whether it cannot run without the object store.
    pub fn needs_store(&self) -> bool {
        self.collect.is_some() || self.sources().any(|source| source.blob().is_some())
    }

    /// Whether it is too late to start it, by this machine's clock.
    pub fn has_expired(&self) -> bool {
        self.expires_at
            .is_some_and(|instant| instant <= OffsetDateTime::now_utc())
    }

    /// Every stage, in order.
    pub fn stages(&self) -> impl Iterator<Item = &StagePlan> {
        self.compile
            .iter()
            .chain(self.runs.iter().map(|run| &run.stage))
    }

    /// The most memory that a stage may use, in bytes: what a worker must have free.
    pub fn memory_bytes(&self) -> ByteSize {
        self.stages()
            .map(|stage| stage.limits.memory_bytes)
            .max()
            .unwrap_or_default()
    }

    /// What may lie in memory beside a stage, in bytes: the work directory as files, archive and build leave it, and where there
    /// are several runs a second time, kept for the next one.
    pub fn build_bytes(&self) -> ByteSize {
        let times = if self.runs.len() > 1 { 2 } else { 1 };
        ByteSize(self.kept_bytes().0.saturating_mul(times))
    }

    /// What the work directory may hold before a run, in bytes. The files of the message itself fit the overhead that every
    /// container has.
    pub fn kept_bytes(&self) -> ByteSize {
        if self.compile.is_some() || self.archive.is_some() {
            return self.disk_bytes();
        }
        let blobs = self.files.iter().filter_map(|file| file.data.blob());
        let bytes = blobs.fold(0_u64, |bytes, blob| bytes.saturating_add(blob.size_bytes.0));
        ByteSize(bytes.min(self.disk_bytes().0))
    }

    /// The size of the work directory that its stages share, in bytes.
    pub fn disk_bytes(&self) -> ByteSize {
        self.stages()
            .map(|stage| stage.limits.disk_bytes)
            .max()
            .unwrap_or_default()
    }

    /// The files and directories that the work directory may hold.
    pub fn inodes(&self) -> u64 {
        self.stages()
            .map(|stage| stage.limits.inodes)
            .max()
            .unwrap_or_default()
    }
}
