//! What a tool is told and what it says: the agent's own program, run behind the walls of a stage and as the stages' user, that
//! unpacks an archive into the work directory, or reads files out of it.
//!
//! # Why behind the walls
//! An archive is hostile, and so is what a program leaves in its work directory. Whatever reads either has no more rights than
//! the program itself: should it be fooled or taken over, nothing is won. It may die, by a limit or by a bug; that is an end of
//! a stage like any other.
//!
//! # The talk
//! The agent takes no part in it: it carries bytes. A tool's standard input is one frame of a [`Task`] and then, for `Unpack`,
//! the archive; its standard output is frames of [`ToolReport`], of which the last is the task's end. Frames are those of the
//! protocol itself. A tool that ends without its last frame has not done its task.
//!
//! | task | reports |
//! | --- | --- |
//! | [`Task::Unpack`] | [`ToolReport::Unpacked`] or [`ToolReport::Refused`] |
//! | [`Task::Collect`] | for each file [`ToolReport::Found`], any number of [`ToolReport::Data`], [`ToolReport::Whole`] or [`ToolReport::Cut`]; then [`ToolReport::Collected`] |
//! | [`Task::Pack`] | any number of [`ToolReport::Data`] (a tar stream), then [`ToolReport::Packed`]; or [`ToolReport::Refused`] |
//!
//! The worker trusts all of it as little as a program's output: it counts files and bytes itself, and looks at every path.

use serde::{Deserialize, Serialize};

/// The argument that makes the agent's program a tool.
pub const TOOL: &str = "tool";

/// The most skipped paths that [`ToolReport::Collected`] names.
pub const SKIPPED: usize = 100;

/// What a tool is to do in the work directory, its current one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Unpack the archive that follows.
    Unpack(Unpack),
    /// Read out the files that match.
    Collect(Collect),
    /// Read out everything.
    Pack(Pack),
}

/// How to unpack, and what an archive may hold. Whatever is over a bound refuses the whole archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpack {
    /// What kind of archive it is.
    pub format: Format,
    /// How many components are taken from the beginning of each path; entries that have no more are left out.
    pub strip_components: u32,
    /// What symbolic links may point to, and what is kept of an entry.
    pub faith: Faith,
    /// Entries of any kind.
    pub max_entries: u64,
    /// The contents of all files together, unpacked.
    pub max_bytes: u64,
    /// How many times its packed size it may be unpacked, the first MiB not counted.
    pub max_ratio: u64,
    /// The bytes of a path.
    pub max_path_bytes: u64,
    /// The components of a path.
    pub max_depth: u64,
    /// The window of zstd: how far back it may refer, which is memory.
    pub max_window_bytes: u64,
    /// Memory that the tool itself may have.
    pub own_memory_bytes: u64,
    /// The packed size, where it is known: of `zip` always.
    pub packed_bytes: u64,
}

/// The kind of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// POSIX or GNU tar.
    Tar,
    /// The same through gzip.
    TarGz,
    /// The same through zstd.
    TarZst,
    /// Zip, stored or deflated.
    Zip,
}

/// What of an archive is taken as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Faith {
    /// A stranger's: names are UTF-8, modes 0755 or 0644, symbolic links stay in the tree.
    Plain,
    /// What [`Task::Pack`] made: names, modes (but setuid, setgid and sticky) and targets of symbolic links as they are. No less is
    /// checked: no path leaves the work directory, and no link is followed.
    Packed,
}

/// What to read out of the work directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collect {
    /// Relative paths with `*`, `?` and `[…]` within a component, and `**` for any number of components.
    pub patterns: Vec<String>,
    /// Files at most.
    pub max_files: u64,
    /// All of them together.
    pub max_bytes: u64,
    /// Entries of directories that are looked at, at most.
    pub max_entries: u64,
    /// The components of a path.
    pub max_depth: u64,
    /// Memory that the tool itself may have.
    pub own_memory_bytes: u64,
}

/// Bounds of packing the work directory. What is over one is not packed at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Entries of any kind.
    pub max_entries: u64,
    /// The tar stream.
    pub max_bytes: u64,
    /// The bytes of a path.
    pub max_path_bytes: u64,
    /// The components of a path.
    pub max_depth: u64,
    /// Memory that the tool itself may have.
    pub own_memory_bytes: u64,
}

/// What a tool says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolReport {
    /// The archive is unpacked.
    Unpacked {
        /// Its entries, those that were left out not counted.
        entries: u64,
        /// The contents of its files.
        bytes: u64,
    },
    /// It is not done, for a reason that lies in the archive or in the work directory.
    Refused {
        /// The entry, as its archive names it; empty where it is about no single one.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that matches; its content follows.
    Found {
        /// Relative, UTF-8.
        path: String,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// The next part of the content.
    Data {
        /// At most [`crate::CHUNK_BYTES`].
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// The file was read to its end.
    Whole,
    /// The file could not be read to its end, or is too large: it is no result.
    Cut {
        /// Why.
        reason: String,
    },
    /// Everything that matches was found, or skipped.
    Collected {
        /// The first [`SKIPPED`] of what was skipped.
        skipped: Vec<Skipped>,
    },
    /// The stream is whole.
    Packed {
        /// Its entries.
        entries: u64,
    },
}

/// What matches and was not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its path, made readable where it is no UTF-8; a pattern where the whole of it is concerned; or empty.
    pub path: String,
    /// Why.
    pub reason: String,
}
