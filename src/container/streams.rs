//! What goes into a stage and what comes out of it, as the agent asks and tells: never more than was agreed on.

use std::io;

use envicutor_protocol::{CHUNK_BYTES, Ended, Report, Stdin, Stream};

use super::{
    ContainerError, Feed, Finished, Observed, Spool, Spools, feed::Parts, session::out_of_order,
};

/// A stage's standard input, in parts.
pub(super) struct Input<'a> {
    parts: Parts<'a>,
    /// The last part is still to come.
    pub(super) promised: bool,
}

impl<'a> Input<'a> {
    pub(super) fn of(feed: Feed<'a>) -> Self {
        Self {
            parts: Parts::of(feed),
            promised: true,
        }
    }

    /// The next part, once it is wanted. It begins with `head`.
    pub(super) async fn next_part(&mut self, head: Vec<u8>) -> Result<Stdin, ContainerError> {
        let mut data = head;
        let room = CHUNK_BYTES.saturating_sub(data.len());
        let part = self.parts.next(room).await.map_err(unread)?;
        data.extend_from_slice(part);
        self.promised = !self.parts.is_over();
        Ok(Stdin {
            data,
            last: !self.promised,
        })
    }
}

/// What a stage has written so far.
pub(super) struct Outputs {
    started: bool,
    limit: u64,
    stdout: Spool,
    stderr: Spool,
}

impl Outputs {
    pub(super) fn new(limit: u64, spools: &Spools) -> Self {
        Self {
            started: false,
            limit,
            stdout: spools.spool(),
            stderr: spools.spool(),
        }
    }

    pub(super) fn start(
        &mut self,
        observe: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<(), ContainerError> {
        if self.started {
            return Err(out_of_order(&Report::Started, "it once"));
        }
        self.started = true;
        observe(Observed::Started);
        Ok(())
    }

    pub(super) async fn take(
        &mut self,
        stream: Stream,
        data: &[u8],
        observe: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<(), ContainerError> {
        let collected = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let offset_bytes = collected.len();
        let too_much =
            data.len() > CHUNK_BYTES || offset_bytes.saturating_add(data.len() as u64) > self.limit;
        if too_much || !self.started {
            return Err(ContainerError::Protocol(format!(
                "it sent {} bytes of {stream:?} after {offset_bytes}, expected at most {CHUNK_BYTES} at a time and {} in \
                 all, after started",
                data.len(),
                self.limit
            )));
        }
        collected.push(data).await.map_err(unspooled)?;
        observe(Observed::Output {
            stream,
            offset_bytes,
            data,
        });
        Ok(())
    }

    pub(super) fn finish(self, ended: Ended) -> Finished {
        Finished {
            ended,
            stdout: self.stdout,
            stderr: self.stderr,
        }
    }
}

/// What was to be streamed in could not be read.
pub(super) fn unread(source: io::Error) -> ContainerError {
    ContainerError::Feed { source }
}

/// What came out could not be put on the worker's disk.
pub(super) fn unspooled(source: io::Error) -> ContainerError {
    ContainerError::Spool { source }
}
