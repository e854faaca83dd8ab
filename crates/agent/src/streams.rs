//! A stage's standard input and its two outputs: pipes that belong to the stage's user, so that the program can open
//! `/dev/stdin` and `/dev/stdout` anew. The agent's ends never block.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use envicutor_protocol::{CHUNK_BYTES, Stdin, Stream};

use crate::{buffer::Buffer, identity::Identity, sys};

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

/// Standard input, as far as the worker has sent it: a part that is written, and one behind it, so that the program need not wait
/// for the worker between two.
pub struct Input {
    /// Open as long as there is something to write, or to come.
    pipe: Option<File>,
    pending: Stdin,
    written: usize,
    /// What follows `pending`, once it has come.
    next: Option<Stdin>,
    /// More was asked for, and has not come.
    asked: bool,
}

impl Input {
    /// Input through `pipe` that begins with `first`.
    pub fn new(pipe: OwnedFd, first: Stdin) -> Self {
        Self {
            pipe: Some(File::from(pipe)),
            pending: first,
            written: 0,
            next: None,
            asked: false,
        }
    }

    /// The descriptor to poll for writing, -1 for none.
    pub fn interest(&self) -> RawFd {
        let has_more = self.written < self.pending.data.len() || self.next.is_some();
        match &self.pipe {
            Some(pipe) if has_more => pipe.as_raw_fd(),
            _ => -1,
        }
    }

    /// Takes the next part from the worker; false if none was asked for.
    pub fn give(&mut self, next: Stdin) -> bool {
        if !self.asked {
            return false;
        }
        self.asked = false;
        self.next = Some(next);
        true
    }

    /// Writes what the pipe takes now. True if the worker is to be asked for more.
    pub fn fill(&mut self) -> bool {
        self.write();
        let is_wanted =
            self.pipe.is_some() && !self.asked && self.next.is_none() && !self.pending.last;
        self.asked |= is_wanted;
        is_wanted
    }

    fn write(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            let rest = &self.pending.data[self.written..];
            if rest.is_empty() {
                if self.pending.last {
                    self.pipe = None;
                }
                let Some(next) = self.next.take() else {
                    return;
                };
                (self.pending, self.written) = (next, 0);
                continue;
            }
            match pipe.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The program has closed its standard input: what it does not want, nobody needs to send.
                Err(_) => self.pipe = None,
            }
        }
    }
}

/// How long a stream is left alone after a read that found little, but something: a program that writes single bytes would else
/// wake the agent for each. One that writes nothing does not wake it at all.
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

    /// Reads what is there into `buffer`, at most one chunk.
    pub fn read(&mut self, now: Duration, buffer: &mut Buffer) -> Found {
        let Some(pipe) = self.pipe.as_mut().filter(|_| !self.exceeded) else {
            return Found::default();
        };
        // One byte over the limit is enough to know.
        let room = usize::try_from(self.left.saturating_add(1)).unwrap_or(CHUNK_BYTES);
        let data = buffer.first(room.min(CHUNK_BYTES));
        let (count, at_end) = read_available(pipe, data);
        if at_end {
            self.pipe = None;
        }
        if (1..LITTLE_BYTES).contains(&count) {
            self.rest_until = now + REST;
        }
        let kept = usize::try_from(self.left).map_or(count, |left| left.min(count));
        self.exceeded = kept < count;
        self.left -= kept as u64;
        Found {
            data: data[..kept].to_vec(),
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
        let mut buffer = Buffer::take(CHUNK_BYTES).expect("memory");
        Output::new(Stream::Stdout, reader, limit).read(Duration::ZERO, &mut buffer)
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
    fn input_asks_for_one_part_ahead_and_stops_when_nobody_reads() {
        let (reader, writer) = sys::pipe().expect("makes a pipe");
        sys::set_nonblocking(&writer).expect("sets it");
        let part = |bytes, last| Stdin {
            data: vec![1; bytes],
            last,
        };
        let mut input = Input::new(writer, part(1 << 20, false));
        assert!(!input.give(part(1, false)), "nothing was asked for");
        assert!(input.fill(), "while the first part waits");
        assert!(!input.fill(), "it was asked for already");
        assert!(input.give(part(1, false)));
        assert!(!input.fill(), "one is there");
        assert!(input.interest() >= 0);
        drop(reader);
        assert!(!input.fill(), "the other end is closed");
        assert_eq!(input.interest(), -1);
    }

    #[test]
    fn input_comes_in_order_and_ends() {
        let (reader, writer) = sys::pipe().expect("makes a pipe");
        sys::set_nonblocking(&writer).expect("sets it");
        let part = |data: &[u8], last| Stdin {
            data: data.to_vec(),
            last,
        };
        let mut input = Input::new(writer, part(b"", false));
        for data in [&b"ab"[..], b"", b"c"] {
            assert!(input.fill());
            assert!(input.give(part(data, data == b"c")));
        }
        assert!(!input.fill());
        assert_eq!(input.interest(), -1);
        let read = io::read_to_string(File::from(reader));
        assert_eq!(read.expect("at its end"), "abc");
    }
}
