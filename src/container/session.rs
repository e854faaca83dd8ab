//! The worker's side of the agent protocol: frames over one unix socket.
//!
//! Reading never waits on writing nor the other way round, so that neither a program that does not read its input nor one
//! that floods its output can stall the conversation. Whatever the agent sends, memory is bounded: by a frame, and by what a
//! spool has in memory for each stream.

use std::io::ErrorKind;

use bytes::{Buf, BytesMut};
use envicutor_protocol::{
    CHUNK_BYTES, Command, Ended, Limits, MAX_FRAME_BYTES, Prepare, Report, Stage, Stdin, Task,
    Tool, VERSION, decode, encode, frame_length,
};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
};

use super::{
    ContainerError, Feed, Finished, Observed, Spools,
    streams::{Input, Outputs},
    tools::{Listener, Take},
};

/// What is offered waits for more until it is as much as this.
const BATCH_BYTES: usize = 256 << 10;

/// Room that is made for each read.
const READ_BYTES: usize = CHUNK_BYTES;

/// A conversation with an agent.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    /// Where outputs go.
    pub(super) spools: Spools,
    /// Read, not yet taken as reports: a frame at most, and what came with its end.
    incoming: BytesMut,
    /// To be written.
    outgoing: BytesMut,
}

impl Session {
    /// Waits for the agent's hello.
    pub(super) async fn greet(stream: UnixStream, spools: Spools) -> Result<Self, ContainerError> {
        let mut session = Self {
            stream,
            spools,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
        };
        match session.report("before its hello").await? {
            Report::Hello { version: VERSION } => Ok(session),
            Report::Hello { version } => Err(ContainerError::Protocol(format!(
                "it speaks version {version}, the worker {VERSION}. Restart the worker: its agent file is stale"
            ))),
            other => Err(out_of_order(&other, "a hello")),
        }
    }

    /// Whether the agent is there and has nothing to say, as it must be between stages.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let nothing = self.stream.try_read(&mut byte);
        self.incoming.is_empty()
            && nothing.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Sends `command` with what follows it, at the latest with the next that waits for an answer: one write and one wake of
    /// the agent for all. Whether so much waits that it is to be flushed first.
    pub(super) fn offer(&mut self, command: &Command) -> Result<bool, ContainerError> {
        self.queue(command)?;
        Ok(self.outgoing.len() >= BATCH_BYTES)
    }

    /// Waits until the socket has taken everything. Not for while a stage runs.
    pub(super) async fn flush(&mut self) -> Result<(), ContainerError> {
        while !self.outgoing.is_empty() {
            self.exchange("while it was given files").await?;
            if let Some(report) = self.next_report()? {
                return Err(out_of_order(&report, "nothing"));
            }
        }
        Ok(())
    }

    /// Has what all stages of a slot share made ready.
    pub(super) async fn prepare(&mut self, prepare: Prepare) -> Result<(), ContainerError> {
        self.queue(&Command::Prepare(prepare))?;
        match self.report("while it made the slot ready").await? {
            Report::Prepared => Ok(()),
            other => Err(out_of_order(&other, "prepared")),
        }
    }

    /// Ends the submission in a slot: what is not as it was before it, if anything.
    pub(super) async fn close_submission(&mut self) -> Result<Option<String>, ContainerError> {
        self.queue(&Command::Close)?;
        match self.report("while it cleared the slot").await? {
            Report::Closed { anomaly } => Ok(anomaly),
            other => Err(out_of_order(&other, "closed")),
        }
    }

    /// Has the work directory kept: the memory that this takes, in bytes, or `None` where there is no room.
    pub(super) async fn keep(&mut self) -> Result<Option<u64>, ContainerError> {
        self.queue(&Command::Keep)?;
        match self.report("while it kept the work directory").await? {
            Report::Kept { bytes } => Ok(bytes),
            other => Err(out_of_order(&other, "kept")),
        }
    }

    /// Runs `stage` with the standard input `stdin` (what the stage itself has of it is replaced), and collects what it
    /// writes.
    pub(super) async fn run(
        &mut self,
        mut stage: Stage,
        stdin: Feed<'_>,
        observe: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<Finished, ContainerError> {
        let mut input = Input::of(stdin);
        let mut outputs = Outputs::new(stage.limits.output_bytes, &self.spools);
        stage.stdin = input.next_part(Vec::new()).await?;
        self.queue(&Command::Stage(Box::new(stage)))?;
        loop {
            match self.report("while a stage ran").await? {
                Report::Started => outputs.start(observe)?,
                Report::Output { stream, data } => outputs.take(stream, &data, observe).await?,
                Report::StdinWanted if input.promised => {
                    let part = input.next_part(Vec::new()).await?;
                    self.queue(&Command::Stdin(part))?;
                }
                Report::Ended(ended) => return Ok(outputs.finish(*ended)),
                other => return Err(out_of_order(&other, "what a running stage has to say")),
            }
        }
    }

    /// Runs a tool for `task` with `feed` after it, and has `take` see what it says.
    pub(super) async fn tool(
        &mut self,
        limits: Limits,
        task: &Task,
        feed: Feed<'_>,
        take: &mut impl Take,
    ) -> Result<(Ended, Listener), ContainerError> {
        let mut input = Input::of(feed);
        let mut listener = Listener::new(limits.output_bytes);
        let stdin = self.begin_tool(task, &mut input).await?;
        self.queue(&Command::Tool(Box::new(Tool { limits, stdin })))?;
        loop {
            match self.report("while a tool ran").await? {
                Report::Started => {}
                Report::Output { stream, data } => {
                    let was_fine = listener.is_fine();
                    listener.hear(stream, &data, take).await?;
                    if was_fine && !listener.is_fine() {
                        self.queue(&Command::Kill)?;
                    }
                }
                Report::StdinWanted if input.promised => {
                    let part = input.next_part(Vec::new()).await?;
                    self.queue(&Command::Stdin(part))?;
                }
                Report::Ended(ended) => return Ok((*ended, listener)),
                other => return Err(out_of_order(&other, "what a running tool has to say")),
            }
        }
    }

    /// A tool's first input: the frame of its task, and as much of what follows as there is room for.
    async fn begin_tool(
        &self,
        task: &Task,
        input: &mut Input<'_>,
    ) -> Result<Stdin, ContainerError> {
        let head = encode(task).map_err(|error| ContainerError::Protocol(error.to_string()))?;
        if head.len() > CHUNK_BYTES {
            let size = head.len();
            return Err(ContainerError::Protocol(format!(
                "a tool's task takes {size} bytes, expected at most {CHUNK_BYTES}"
            )));
        }
        input.next_part(head).await
    }

    /// Closes the socket: the agent ends.
    pub(super) async fn close(mut self) {
        // An agent that is gone already has nothing to be told.
        let _ = self.stream.shutdown().await;
    }

    /// The next report. Meanwhile what is queued is written.
    async fn report(&mut self, meanwhile: &'static str) -> Result<Report, ContainerError> {
        loop {
            if let Some(report) = self.next_report()? {
                return Ok(report);
            }
            self.exchange(meanwhile).await?;
        }
    }

    fn queue(&mut self, command: &Command) -> Result<(), ContainerError> {
        let frame = encode(command).map_err(|error| ContainerError::Protocol(error.to_string()))?;
        self.outgoing.extend_from_slice(&frame);
        Ok(())
    }

    /// Waits until the socket can be read, or written while something is queued, and does what it can. Nothing is lost if
    /// the future is dropped.
    async fn exchange(&mut self, meanwhile: &'static str) -> Result<(), ContainerError> {
        let interest = if self.outgoing.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        let gone = |_| ContainerError::AgentGone(meanwhile);
        let ready = self.stream.ready(interest).await.map_err(gone)?;
        if ready.is_readable() {
            self.incoming.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.incoming) {
                Ok(0) => return Err(ContainerError::AgentGone(meanwhile)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(gone(error)),
            }
        }
        if ready.is_writable() && !self.outgoing.is_empty() {
            match self.stream.try_write(&self.outgoing) {
                Ok(count) => self.outgoing.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It is gone, but its last words may still be there to be read: reading finds the end.
                Err(_) => self.outgoing.clear(),
            }
        }
        Ok(())
    }

    /// The first report of what was read, if it is whole. An agent's failure is an error.
    fn next_report(&mut self) -> Result<Option<Report>, ContainerError> {
        let unreadable =
            |error: envicutor_protocol::FrameError| ContainerError::Protocol(error.to_string());
        let Some(prefix) = self.incoming.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = frame_length(*prefix).map_err(unreadable)?;
        let Some(payload) = self.incoming[prefix.len()..].get(..length) else {
            return Ok(None);
        };
        let report = decode(payload).map_err(unreadable)?;
        self.incoming.advance(size_of::<u32>() + length);
        match report {
            Report::Failed {
                step,
                object,
                error,
            } => Err(ContainerError::AgentFailed {
                step,
                object,
                error,
            }),
            report => Ok(Some(report)),
        }
    }
}

/// The name of a report that came where something else was expected. Never its content: that may be large, and a program's.
pub(super) fn out_of_order(report: &Report, expected: &str) -> ContainerError {
    let name = match report {
        Report::Hello { .. } => "hello",
        Report::Prepared => "prepared",
        Report::Closed { .. } => "closed",
        Report::Kept { .. } => "kept",
        Report::Started => "started",
        Report::Output { .. } => "output",
        Report::StdinWanted => "stdin_wanted",
        Report::Ended(_) => "ended",
        Report::Failed { .. } => "failed",
    };
    ContainerError::Protocol(format!("it sent {name}, expected {expected}"))
}

// A frame and a read beyond it is the most that `incoming` holds.
const _: () = assert!(MAX_FRAME_BYTES <= 1 << 20);

#[cfg(test)]
mod tests;
