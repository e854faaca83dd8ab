//! A stage's standard input and its two outputs: pipes that belong to the stage's user, so that the program can open
//! `/dev/stdin` and `/dev/stdout` anew. The agent's ends never block.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use envicutor_protocol::{CHUNK_BYTES, Stdin, Stream};

use crate::{identity::Identity, sys};

/// The pipes of a stage.
pub struct Pipes {
    /// The agent's end of standard input.
    pub input: OwnedFd,
    /// The agent's ends of standard output and standard error.
    pub outputs: [OwnedFd; 2],
    /// The program's ends, as descriptor 0, 1 and 2.
    pub stdio: [OwnedFd; 3],
}

impl Pipes {
    /// Makes them as `identity`.
    pub fn make(identity: Identity) -> io::Result<Self> {
        let (stdin, input) = identity.act(sys::pipe)??;
        let (output, stdout) = identity.act(sys::pipe)??;
        let (errors, stderr) = identity.act(sys::pipe)??;
        for end in [&input, &output, &errors] {
            sys::set_nonblocking(end)?;
        }
        Ok(Self {
            input,
            outputs: [output, errors],
            stdio: [stdin, stdout, stderr],
        })
    }
}

/// Standard input, as far as the worker has sent it.
pub struct Input {
    /// Open as long as there is something to write, or to come.
    pipe: Option<File>,
    pending: Vec<u8>,
    written: usize,
    /// Nothing follows `pending`.
    last: bool,
    /// More was asked for, and has not come.
    asked: bool,
}

impl Input {
    /// Input through `pipe` that begins with `first`.
    pub fn new(pipe: OwnedFd, first: Stdin) -> Self {
        Self {
            pipe: Some(File::from(pipe)),
            pending: first.data,
            written: 0,
            last: first.last,
            asked: false,
        }
    }

    /// The descriptor to poll for writing, -1 for none.
    pub fn interest(&self) -> RawFd {
        match &self.pipe {
            Some(pipe) if !self.asked => pipe.as_raw_fd(),
            _ => -1,
        }
    }

    /// Takes the next part from the worker; false if none was asked for.
    pub fn give(&mut self, next: Stdin) -> bool {
        if !self.asked {
            return false;
        }
        self.asked = false;
        self.pending = next.data;
        self.written = 0;
        self.last = next.last;
        true
    }

    /// Writes what the pipe takes now. True if the worker is to be asked for more.
    pub fn fill(&mut self) -> bool {
        let Some(pipe) = self.pipe.as_mut().filter(|_| !self.asked) else {
            return false;
        };
        while self.written < self.pending.len() {
            match pipe.write(&self.pending[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                // The program has closed its standard input: what it does not want, nobody needs to send.
                Err(_) => {
                    self.pipe = None;
                    return false;
                }
            }
        }
        if self.last {
            self.pipe = None;
        } else {
            self.asked = true;
        }
        self.asked
    }
}

/// How long a stream is left alone after a read that found little: a program that writes single bytes would else wake
/// the agent for each.
const REST: Duration = Duration::from_millis(2);

/// Less than this is little, in bytes: far from filling a pipe (64 KiB) within [`REST`].
const LITTLE_BYTES: usize = 4096;

/// One output stream, up to its limit.
pub struct Output {
    /// Which one.
    pub stream: Stream,
    pipe: Option<File>,
    /// How much may still come, in bytes.
    left: u64,
    exceeded: bool,
    rest_until: Duration,
}

/// What a read of an output found.
#[derive(Default)]
pub struct Found {
    /// What belongs to the result; empty if nothing came.
    pub data: Vec<u8>,
    /// More was written than the limit.
    pub exceeded: bool,
}

impl Output {
    /// The stream at `pipe`, of which `limit` bytes count.
    pub fn new(stream: Stream, pipe: OwnedFd, limit: u64) -> Self {
        Self {
            stream,
            pipe: Some(File::from(pipe)),
            left: limit,
            exceeded: false,
            rest_until: Duration::ZERO,
        }
    }

    /// Nothing more will come, or count.
    pub fn is_done(&self) -> bool {
        self.pipe.is_none() || self.exceeded
    }

    /// When to look at it again, if it is left alone at `now`.
    pub fn resting_until(&self, now: Duration) -> Option<Duration> {
        (!self.is_done() && now < self.rest_until).then_some(self.rest_until)
    }

    /// The descriptor to poll for reading, -1 for none.
    pub fn interest(&self) -> RawFd {
        match &self.pipe {
            Some(pipe) if !self.exceeded => pipe.as_raw_fd(),
            _ => -1,
        }
    }

    /// Reads what is there, at most one chunk.
    pub fn read(&mut self, now: Duration) -> Found {
        let Some(pipe) = self.pipe.as_mut().filter(|_| !self.exceeded) else {
            return Found::default();
        };
        // One byte over the limit is enough to know.
        let room = usize::try_from(self.left.saturating_add(1)).unwrap_or(CHUNK_BYTES);
        let mut data = vec![0; room.min(CHUNK_BYTES)];
        let (count, at_end) = read_available(pipe, &mut data);
        if at_end {
            self.pipe = None;
        }
        if count < LITTLE_BYTES {
            self.rest_until = now + REST;
        }
        data.truncate(count);
        let kept = usize::try_from(self.left).map_or(count, |left| left.min(count));
        self.exceeded = kept < count;
        data.truncate(kept);
        self.left -= kept as u64;
        Found {
            data,
            exceeded: self.exceeded,
        }
    }
}

/// Fills `buffer` as far as the pipe goes: how many bytes, and whether the pipe is at its end.
fn read_available(pipe: &mut File, buffer: &mut [u8]) -> (usize, bool) {
    let mut count = 0;
    while count < buffer.len() {
        match pipe.read(&mut buffer[count..]) {
            Ok(0) => return (count, true),
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return (count, true),
        }
    }
    (count, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output_of(written: &[u8], limit: u64) -> Found {
        let (reader, writer) = sys::pipe().expect("makes a pipe");
        File::from(writer).write_all(written).expect("writes");
        Output::new(Stream::Stdout, reader, limit).read(Duration::ZERO)
    }

    #[test]
    fn exactly_the_limit_is_fine() {
        let found = output_of(b"12345", 5);
        assert_eq!(found.data, b"12345");
        assert!(!found.exceeded);
    }

    #[test]
    fn one_byte_over_the_limit_is_over_and_never_sent() {
        let found = output_of(b"123456", 5);
        assert_eq!(found.data, b"12345");
        assert!(found.exceeded);
    }

    #[test]
    fn input_asks_for_more_once_and_stops_when_nobody_reads() {
        let (reader, writer) = sys::pipe().expect("makes a pipe");
        let part = |last| Stdin {
            data: vec![1],
            last,
        };
        let mut input = Input::new(writer, part(false));
        assert!(!input.give(part(false)), "nothing was asked for");
        assert!(input.fill());
        assert!(!input.fill(), "it was asked for already");
        drop(reader);
        assert!(input.give(part(false)));
        assert!(!input.fill(), "the other end is closed");
        assert_eq!(input.interest(), -1);
    }
}
