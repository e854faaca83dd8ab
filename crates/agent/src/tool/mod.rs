//! A tool: this program in the place of a stage's, behind the same walls, with no more rights than the submission's own. It
//! unpacks an archive into the work directory, collects files from it, or packs all of it. The talk is the protocol's
//! ([`envicutor_protocol::Task`]).
//!
//! It may allocate, and panic: it is executed anew, and nothing of the agent's is in it. What it reads is hostile. Should it be
//! made to die or to talk nonsense, that is an end of a stage, which the worker tells the submission.
//!
//! - [`path`]: what a name in an archive may be; [`tree`]: makes what it says, and nothing outside of the work directory;
//! - [`tar`], [`zip`], [`zstd`]: the formats;
//! - [`collect`], [`glob`]: what matches; [`pack`]: everything;
//! - [`bounds`]: what an archive may come to.

mod bounds;
mod collect;
mod glob;
mod pack;
mod path;
mod tar;
mod tree;
mod zip;
mod zstd;

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    os::fd::FromRawFd,
};

use envicutor_protocol::{Format, Task, ToolReport, Unpack, decode, encode, frame_length};

use crate::sys::check;
use bounds::Counted;
use tree::Tree;

/// How much of the archive is read at a time, in bytes: a pipe's size.
const READ_BYTES: usize = 64 << 10;

/// Why a task ends before it is done.
pub enum Stop {
    /// For a reason that lies in what is read.
    Refused {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// For one that does not.
    Failed(io::Error),
}

impl Stop {
    /// Refuses the whole.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::of("", reason)
    }

    /// Refuses for `entry`.
    pub fn of(entry: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused {
            entry: entry.into(),
            reason: reason.into(),
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Does what standard input says. The exit code: 0 where the answer was given, 1 where that could not be (standard error says
/// why).
pub fn run() -> libc::c_int {
    // SAFETY: the two were opened for this program, and nothing else in it uses them.
    let (input, output) = unsafe { (File::from_raw_fd(0), File::from_raw_fd(1)) };
    match serve(input, Teller(output)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

fn serve(input: File, mut teller: Teller) -> io::Result<()> {
    let mut input = BufReader::with_capacity(READ_BYTES, Counted::new(input));
    let done = match read_task(&mut input)? {
        Task::Unpack(order) => {
            limit_memory(order.own_memory_bytes)?;
            unpack(&order, input)
        }
        Task::Collect(order) => {
            limit_memory(order.own_memory_bytes)?;
            return collect::collect(&order, &mut teller);
        }
        Task::Pack(order) => {
            limit_memory(order.own_memory_bytes)?;
            pack::pack(&order, &mut teller)
        }
    };
    match done {
        Ok(report) => teller.tell(&report),
        Err(Stop::Refused { entry, reason }) => teller.tell(&ToolReport::Refused { entry, reason }),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn read_task(input: &mut impl Read) -> io::Result<Task> {
    let mut prefix = [0; 4];
    input.read_exact(&mut prefix)?;
    let mut payload = vec![0; frame_length(prefix).map_err(io::Error::other)?];
    input.read_exact(&mut payload)?;
    decode(&payload).map_err(io::Error::other)
}

/// Whatever an archive says of sizes, no more than this can be allocated: what is over it ends this process.
fn limit_memory(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: `limit` is an rlimit of ours.
    check(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) }).map(drop)
}

fn unpack(order: &Unpack, input: BufReader<Counted<File>>) -> Result<ToolReport, Stop> {
    let packed = input.get_ref().counter();
    let mut tree = Tree::new(order, packed)?;
    match order.format {
        Format::Tar => tar::unpack(input, &mut tree)?,
        Format::TarGz => tar::unpack(flate2::bufread::MultiGzDecoder::new(input), &mut tree)?,
        Format::TarZst => {
            let frames = zstd::Frames::new(input, order.max_window_bytes);
            tar::unpack(frames, &mut tree)?;
        }
        Format::Zip => zip::unpack(input, order.packed_bytes, &mut tree)?,
    }
    tree.finish()
}

/// Says what came of it.
pub struct Teller(File);

impl Teller {
    /// Sends a report.
    pub fn tell(&mut self, report: &ToolReport) -> io::Result<()> {
        self.0.write_all(&encode(report).map_err(io::Error::other)?)
    }

    /// Sends a part of some content, at most a chunk.
    pub fn data(&mut self, data: Vec<u8>) -> io::Result<()> {
        self.tell(&ToolReport::Data { data })
    }
}
