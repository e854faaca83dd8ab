//! The worker's end of the line: frames in and out of one unix socket, none of which the agent ever waits for.
//!
//! What is to be sent lies in a buffer until the worker reads. The buffer's bound is kept by whoever produces: a stage's
//! output is not read while [`Connection::has_room`] says no, so that a slow worker slows the program and never the
//! enforcement of its limits.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use envicutor_protocol::{Command, Report, decode, encode, frame_length};

use crate::{
    buffer::Buffer,
    failure::{Failure, Naming},
    sys,
};

/// How much may wait for the worker before output is no longer read, in bytes.
const ROOM_BYTES: usize = 256 << 10;

/// How much is read from the socket at a time, in bytes.
const READ_BYTES: usize = 16 << 10;

/// Why the conversation with the worker is over.
pub enum End {
    /// The worker closed the socket, or is gone.
    Closed,
    /// The agent could not do its part; the worker is told.
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The connection to the worker.
pub struct Connection {
    socket: UnixStream,
    buffer: Buffer,
    /// Read, not yet taken as commands.
    incoming: Vec<u8>,
    /// To be written.
    outgoing: Vec<u8>,
    /// How much of `outgoing` is written already.
    written: usize,
}

impl Connection {
    /// Connects to the worker's socket at `path`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let socket = UnixStream::connect(path).naming("connect", path.display())?;
        socket
            .set_nonblocking(true)
            .naming("set up the connection", path.display())?;
        Ok(Self {
            socket,
            buffer: Buffer::take(READ_BYTES).naming("map memory", "for commands")?,
            incoming: Vec::with_capacity(4 * READ_BYTES),
            outgoing: Vec::with_capacity(4 * READ_BYTES),
            written: 0,
        })
    }

    /// The descriptor to poll, and for what.
    pub fn interest(&self) -> (RawFd, libc::c_short) {
        let write = if self.outgoing.is_empty() {
            0
        } else {
            libc::POLLOUT
        };
        (self.socket.as_raw_fd(), libc::POLLIN | write)
    }

    /// Whether more output may be produced.
    pub fn has_room(&self) -> bool {
        self.outgoing.len() - self.written < ROOM_BYTES
    }

    /// Queues `report`, and sends what the socket takes.
    pub fn send(&mut self, report: &Report) -> Result<(), End> {
        let frame = encode(report)
            .map_err(|error| Failure::new("encode a report", "to the worker", error))?;
        self.outgoing.extend_from_slice(&frame);
        self.flush()
    }

    /// Sends what the socket takes now.
    pub fn flush(&mut self) -> Result<(), End> {
        while self.written < self.outgoing.len() {
            match self.socket.write(&self.outgoing[self.written..]) {
                Ok(0) => return Err(End::Closed),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(End::Closed),
            }
        }
        // Moved together only when at least half of it is gone: a byte is copied once at most on the average.
        if self.written * 2 >= self.outgoing.len() {
            self.outgoing.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Sends everything, for at most `patience`: the last words before the agent exits.
    pub fn flush_all(&mut self, patience: Duration) {
        let end = sys::now() + patience;
        while self.flush().is_ok() && !self.outgoing.is_empty() {
            let left = end.saturating_sub(sys::now());
            let mut fds = [libc::pollfd {
                fd: self.socket.as_raw_fd(),
                events: libc::POLLOUT,
                revents: 0,
            }];
            if left.is_zero() || sys::poll(&mut fds, Some(left)).is_err() {
                return;
            }
        }
    }

    /// The next command, if one has come whole.
    pub fn next_command(&mut self) -> Result<Option<Command>, End> {
        loop {
            if let Some(command) = self.take_command()? {
                return Ok(Some(command));
            }
            let part = self.buffer.first(READ_BYTES);
            match self.socket.read(part) {
                Ok(0) => return Err(End::Closed),
                Ok(count) => self.incoming.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(closed_or_failed(&error)),
            }
        }
    }

    /// The first command in what was read, if it is whole.
    fn take_command(&mut self) -> Result<Option<Command>, Failure> {
        let unreadable = |error| Failure::new("read frame", "from the worker", error);
        let Some((prefix, rest)) = self.incoming.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = frame_length(*prefix).map_err(unreadable)?;
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let command = decode(payload).map_err(unreadable)?;
        self.incoming.drain(..prefix.len() + length);
        Ok(Some(command))
    }
}

/// A reset is the worker's death; anything else is worth a word.
fn closed_or_failed(error: &io::Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::Closed,
        _ => End::Failed(Failure::new("read frame", "from the worker", error)),
    }
}
