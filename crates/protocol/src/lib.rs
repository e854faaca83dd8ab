//! The protocol between a worker and the agent, PID 1 of a container.
//!
//! # The wire
//! One unix stream socket, connected once by the agent. A frame is a length (`u32`, big endian, the payload's bytes, 1 to
//! [`MAX_FRAME_BYTES`]) and that many bytes of MessagePack: one [`Command`] (worker → agent) or one [`Report`] (agent →
//! worker), a map with named fields. Neither side allocates by a length that it has not checked; a frame that is longer
//! or cannot be read ends the connection.
//!
//! # The order
//! | worker sends | agent answers | when |
//! | --- | --- | --- |
//! | (accepts) | [`Report::Hello`] | once, at once after connecting. Another `version`: the worker closes |
//! | [`Command::Prepare`] | [`Report::Prepared`] | the agent of a slot only: once, first. The worker has delegated the container's cgroup to the agent before |
//! | [`Command::Open`] | nothing | begins a submission: who the stages run as, or in which root. To the agent of a container once; to that of a slot again after each `Closed` |
//! | [`Command::File`], for each file | nothing | after `Open`, before the first `Keep` and `Stage`. A file larger than one frame goes on in frames of the same path with `append` |
//! | [`Command::Keep`] | [`Report::Kept`] | after `Open`, while no stage runs: before the first or between two. Again: what is there now is kept instead |
//! | [`Command::Stage`] | [`Report::Started`], then any number of [`Report::Output`] and [`Report::StdinWanted`], then one [`Report::Ended`] | after `Open`; one at a time: the next after `Ended` |
//! | [`Command::Tool`] | the same as of a stage | after `Open`; as a stage. A tool is the agent's own program in the place of a stage's |
//! | [`Command::Stdin`] | nothing | once for each `StdinWanted`; one that meets a stage that has ended meanwhile is dropped |
//! | [`Command::Kill`] | nothing of its own (the stage's `Ended` comes as always, with `killed`) | at any time; without a stage it does nothing |
//! | [`Command::Close`] | [`Report::Closed`] | the agent of a slot only: after `Open`, while no stage runs. Everything that the submission left is gone |
//!
//! `Output` is sent while the stage runs, in the order of each stream, with at most [`CHUNK_BYTES`] each, and everything that
//! belongs to the result is sent before `Ended`. What was written past `limits.output_bytes` is never sent.
//!
//! # What ends it
//! - **The socket closes** (the worker died, or is done): the agent kills every process and exits; the container ends with it.
//! - **A command out of order, or a frame that cannot be read**: the agent sends [`Report::Failed`], kills everything and exits.
//! - **A step of the agent's own fails** (a file cannot be written, a fork fails): [`Report::Failed`] names the step, the object
//!   and the system's error; then the agent exits. It is never the submission's verdict.
//! - **The agent dies**: the worker sees the socket close before `Ended`. A failure of ours, never a verdict.
//!
//! # What a stage leaves
//! Before `Ended` is sent, every process of the stage is dead and reaped, however it hid (`setsid`, double fork, stopped).
//!
//! Before every stage but the first, `/tmp` and `/dev/shm` are emptied, and System V shared memory, queues and semaphores are
//! removed. What a stage wrote to the work directory stays for the next one: that is how a build reaches its runs.
//!
//! After `Keep` no run finds another's traces: every later stage finds the work directory as it was then. Kept are
//! directories, files and symbolic links with their contents, modes and times of modification. A hard link becomes a file of
//! its own; pipes, sockets, extended attributes and access lists are not kept. What is kept lies in the container's memory
//! beside the work directory itself (holes of files take none). A build may leave so much that there is no room for both, and
//! that is its own doing: `Kept` then says so and nothing is kept, and a stage that should find what was kept ends
//! as one that was out of memory.
//!
//! # Two kinds of agent
//! **Of a container** (isolation `container`): root of its container without the capabilities of root but three; the stages
//! are another user's. It serves one submission.
//!
//! **Of a slot** (isolation `sandbox`, started with the argument [`SLOT`]): a user without any capability, who makes an inner
//! wall for each stage: fresh namespaces, a root file system of [`RUNTIMES_DIR`] that the stage cannot write to, file systems
//! in memory, a cgroup, a filter for system calls. It serves one tenant's submissions, one after the other. Sent together, the
//! commands of a whole submission (`Open` to the first `Stage`) are worked off in one go.
//!
//! The worker trusts no number, length or byte from here more than it must: the agent is ours, but it lives beside hostile code.

mod codec;
pub mod install;
mod tool;

pub use codec::{FrameError, decode, encode, frame_length};
pub use tool::{Collect, Faith, Format, Pack, SKIPPED, Skipped, TOOL, Task, ToolReport, Unpack};

use serde::{Deserialize, Serialize};

/// The version of this protocol. Worker and agent are built together, so that another one means a stale file.
pub const VERSION: u32 = 6;

/// The largest payload of a frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// The most data in one `File`, `Stdin` or `Output` frame, in bytes.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Where the agent's own directory is mounted in the container, read-only.
pub const AGENT_DIR: &str = "/envicutor";

/// The agent's path in the container.
pub const AGENT_PATH: &str = "/envicutor/agent";

/// The directory in the container that holds the worker's socket until the agent has connected.
pub const SOCKET_DIR: &str = "/envicutor/socket";

/// The socket's file name in its directory.
pub const SOCKET_NAME: &str = "worker.sock";

/// The argument that makes the agent one of a slot.
pub const SLOT: &str = "slot";

/// The argument that makes the agent of a container keep the stages' limits on memory and processes itself, where the container's
/// kernel (gVisor) has no cgroups.
pub const WATCH: &str = "watch";

/// Where a slot's container has the volume of the runtimes' root file systems, read-only: a directory for each, named by
/// the hexadecimal digits of its image's digest.
pub const RUNTIMES_DIR: &str = "/envicutor/runtimes";

/// The directory in [`RUNTIMES_DIR`] that has a file of each root's name that is whole. Only the worker looks here.
pub const READY: &str = "ready";

/// The directory in [`RUNTIMES_DIR`] that has a file of each root's name that is there, whole or not.
pub const BEGUN: &str = "begun";

/// The work directory of a submission in the container: the current directory and `HOME` of its stages.
pub const WORK_DIR: &str = "/work";

/// What the worker tells the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Make ready what all stages of a slot share.
    Prepare(Prepare),
    /// A submission begins.
    Open(Open),
    /// A file, or the next part of one.
    File(File),
    /// What the work directory holds now is what every later stage finds.
    Keep,
    /// Run a stage.
    Stage(Box<Stage>),
    /// Run a tool.
    Tool(Box<Tool>),
    /// The next part of the running stage's, or tool's, standard input.
    Stdin(Stdin),
    /// End the running stage now.
    Kill,
    /// The submission is over: the slot is to be as it was before `Open`.
    Close,
}

/// What all stages of a slot share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// Processor time that a stage may use in a second, in thousandths of one processor's. Above zero.
    pub cpu_millis: u64,
    /// The bounds of `/tmp` and of `/dev/shm`, each.
    pub scratch: Bounds,
}

/// The bounds of a file system in memory. Both above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Its size.
    pub bytes: u64,
    /// The files and directories that it may hold, its own directory not counted.
    pub inodes: u64,
}

/// Who the stages are and what they find. The work directory is [`WORK_DIR`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Open {
    /// For the agent of a container.
    User {
        /// The user id of the stages, not 0. Files belong to it.
        uid: u32,
        /// The group id of the stages, not 0.
        gid: u32,
    },
    /// For the agent of a slot.
    Root {
        /// The directory in [`RUNTIMES_DIR`]: one component, hexadecimal digits.
        name: String,
        /// The bounds of the work directory.
        work: Bounds,
    },
}

/// A file of the work directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative, already validated by the worker; the agent refuses an absolute one and `..` all the same. Missing
    /// directories are made.
    pub path: String,
    /// Mode 0755 instead of 0644.
    pub executable: bool,
    /// Whether `data` follows what the frames before wrote. Without it the file must not exist yet.
    pub append: bool,
    /// At most [`CHUNK_BYTES`].
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// A stage to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The argument vector; the first is looked up in the `PATH` of `env` where it has no slash.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// What the stage may use.
    pub limits: Limits,
    /// Standard input, or its beginning.
    pub stdin: Stdin,
    /// Whether the program may begin from a template that the agent of a slot has taken of an earlier start of the very same
    /// command.
    pub may_be_warm: bool,
}

/// A tool to run: a stage whose program is the agent's own. What was kept is not laid out for it, so that it finds the work
/// directory as the stage before has left it. What goes to it and comes from it: see [`Task`] and [`ToolReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// What it may use.
    pub limits: Limits,
    /// Standard input, or its beginning: first a frame of the [`Task`].
    pub stdin: Stdin,
}

/// A part of a stage's standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdin {
    /// At most [`CHUNK_BYTES`].
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// Nothing follows: the agent closes the pipe after `data`. Else it asks for more with [`Report::StdinWanted`] when
    /// it has begun to write this part: one part is ahead of the program.
    pub last: bool,
}

/// The limits of a stage, as the contract names them. All above zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU time of all its processes together, user and system.
    pub cpu_time_us: u64,
    /// How long past `cpu_time_us` it may go on before it is killed; may be zero.
    pub extra_time_us: u64,
    /// Time on the wall from exec to the end.
    pub wall_time_us: u64,
    /// Memory of the whole process tree, with what it writes to in-memory directories.
    pub memory_bytes: u64,
    /// `RLIMIT_STACK`.
    pub stack_bytes: u64,
    /// Processes and threads at a time.
    pub processes: u64,
    /// `RLIMIT_NOFILE`.
    pub open_files: u64,
    /// `RLIMIT_FSIZE`.
    pub file_size_bytes: u64,
    /// Standard output, and standard error, each.
    pub output_bytes: u64,
}

/// What the agent tells the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The agent is there.
    Hello {
        /// [`VERSION`] of the agent.
        version: u32,
    },
    /// The slot is ready for its first submission: every step that an inner wall takes has been tried.
    Prepared,
    /// Nothing of the submission is left.
    Closed {
        /// What is not as it was before `Open` (a process, a descriptor, memory that is not given back): then the slot is to
        /// run nothing any more.
        anomaly: Option<String>,
    },
    /// The work directory was kept.
    Kept {
        /// The memory that this takes, in bytes; none where there is no room for it, and then nothing is kept.
        bytes: Option<u64>,
    },
    /// The stage's program was executed.
    Started,
    /// What the stage wrote.
    Output {
        /// To which stream.
        stream: Stream,
        /// At most [`CHUNK_BYTES`].
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// The program reads the last part of its standard input that has come, and more was promised.
    StdinWanted,
    /// The stage is over, and every process of it is gone.
    Ended(Box<Ended>),
    /// The agent could not do its part, and exits.
    Failed {
        /// What it was doing: `write file`, `fork`, `read frame`.
        step: String,
        /// On what: a path, a command.
        object: String,
        /// The system's error.
        error: String,
    },
}

/// One of a stage's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a stage went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How its first process ended.
    pub exit: Exit,
    /// Why the agent ended it, where it did: the first reason.
    pub killed: Option<Killed>,
    /// The limits that it touched, whatever came of it.
    pub touched: Touched,
    /// CPU time of the whole tree in user mode.
    pub cpu_user_us: u64,
    /// CPU time of the whole tree in the kernel.
    pub cpu_system_us: u64,
    /// From exec to the end of the first process, or to the kill.
    pub wall_us: u64,
    /// The peak of the whole tree, see `memory_from`.
    pub memory_peak_bytes: u64,
    /// Where `memory_peak_bytes` comes from.
    pub memory_from: MemoryFrom,
    /// The most processes and threads at a time.
    pub processes_peak: u64,
    /// Where the program began.
    pub origin: Origin,
}

/// Where a stage's program began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// By exec.
    Exec,
    /// From a template.
    Template,
    /// By exec, and so do all later ones of its kind in this slot: why they can have no template. Told once.
    NoTemplate(String),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// With an exit code.
    Code(u8),
    /// By a signal, by its number.
    Signal(i32),
    /// It never ran: execve refused. The worker shows it as the exit code of a shell: 127 not found, 126 else.
    NotExecuted {
        /// `errno` of the last try.
        errno: i32,
    },
}

/// Why the agent ended a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Killed {
    /// `cpu_time_us` and `extra_time_us` are used up.
    CpuTime,
    /// `wall_time_us` is over.
    WallTime,
    /// The kernel killed in its memory cgroup, or execve failed for want of memory.
    Memory,
    /// More than `output_bytes` on a stream.
    Output,
    /// [`Command::Kill`].
    Asked,
}

/// The limits that a stage touched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// It used more than `cpu_time_us`, perhaps within `extra_time_us`.
    pub cpu_time: bool,
    /// It reached `wall_time_us`.
    pub wall_time: bool,
    /// The kernel refused or killed for `memory_bytes`.
    pub memory: bool,
    /// It wrote more than `output_bytes` to a stream.
    pub output: bool,
    /// It ended by SIGXFSZ.
    pub file_size: bool,
    /// A fork was refused for `processes`.
    pub processes: bool,
}

/// Where a memory peak was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryFrom {
    /// The cgroup's peak: exact for the whole tree, with the pages of its in-memory files.
    Cgroup,
    /// The largest process alone (`ru_maxrss`): of a stage that stayed below the peak of an earlier one in the same
    /// cgroup, whose peak cannot be reset.
    Rusage,
}
