//! The worker's side of the agent protocol: frames over one unix socket.
//!
//! Reading never waits on writing nor the other way round, so that neither a program that does not read its input nor one
//! that floods its output can stall the conversation. Whatever the agent sends, memory is bounded: by a frame, and by the
//! stage's `output_bytes` for each stream.

use std::io::ErrorKind;

use bytes::{Buf, BytesMut};
use envicutor_protocol::{
    CHUNK_BYTES, Command, Ended, MAX_FRAME_BYTES, Report, Stage, Stdin, Stream, VERSION, decode,
    encode, frame_length,
};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
};

use super::{ContainerError, Finished, Observed};

/// Room that is made for each read.
const READ_BYTES: usize = CHUNK_BYTES;

/// A conversation with an agent.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    /// Read, not yet taken as reports: a frame at most, and what came with its end.
    incoming: BytesMut,
    /// To be written.
    outgoing: BytesMut,
}

impl Session {
    /// Waits for the agent's hello.
    pub(super) async fn greet(stream: UnixStream) -> Result<Self, ContainerError> {
        let mut session = Self {
            stream,
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

    /// Sends `command`, and waits until the socket has taken it. Not for while a stage runs.
    pub(super) async fn tell(&mut self, command: &Command) -> Result<(), ContainerError> {
        self.queue(command)?;
        while !self.outgoing.is_empty() {
            self.exchange("while it was given files").await?;
            if let Some(report) = self.next_report()? {
                return Err(out_of_order(&report, "nothing"));
            }
        }
        Ok(())
    }

    /// Has the work directory kept: the memory that this takes, in bytes, or `None` where there is no room.
    pub(super) async fn keep(&mut self) -> Result<Option<u64>, ContainerError> {
        self.tell(&Command::Keep).await?;
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
        stdin: &[u8],
        observe: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<Finished, ContainerError> {
        let mut input = Input {
            rest: stdin,
            promised: true,
        };
        let mut outputs = Outputs::new(stage.limits.output_bytes);
        stage.stdin = input.next_part();
        self.queue(&Command::Stage(Box::new(stage)))?;
        loop {
            match self.report("while a stage ran").await? {
                Report::Started => outputs.start(observe)?,
                Report::Output { stream, data } => outputs.take(stream, &data, observe)?,
                Report::StdinWanted if input.promised => {
                    let part = input.next_part();
                    self.queue(&Command::Stdin(part))?;
                }
                Report::Ended(ended) => return Ok(outputs.finish(*ended)),
                other => return Err(out_of_order(&other, "what a running stage has to say")),
            }
        }
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
fn out_of_order(report: &Report, expected: &str) -> ContainerError {
    let name = match report {
        Report::Hello { .. } => "hello",
        Report::Kept { .. } => "kept",
        Report::Started => "started",
        Report::Output { .. } => "output",
        Report::StdinWanted => "stdin_wanted",
        Report::Ended(_) => "ended",
        Report::Failed { .. } => "failed",
    };
    ContainerError::Protocol(format!("it sent {name}, expected {expected}"))
}

/// A stage's standard input, in parts.
struct Input<'a> {
    rest: &'a [u8],
    /// The last part is still to come.
    promised: bool,
}

impl Input<'_> {
    fn next_part(&mut self) -> Stdin {
        let (part, rest) = self.rest.split_at(self.rest.len().min(CHUNK_BYTES));
        self.rest = rest;
        self.promised = !rest.is_empty();
        Stdin {
            data: part.to_vec(),
            last: !self.promised,
        }
    }
}

/// What a stage has written so far.
struct Outputs {
    started: bool,
    limit: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Outputs {
    fn new(limit: u64) -> Self {
        Self {
            started: false,
            limit,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    fn start(
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

    fn take(
        &mut self,
        stream: Stream,
        data: &[u8],
        observe: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<(), ContainerError> {
        let collected = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let offset_bytes = collected.len() as u64;
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
        collected.extend_from_slice(data);
        observe(Observed::Output {
            stream,
            offset_bytes,
            data,
        });
        Ok(())
    }

    fn finish(self, ended: Ended) -> Finished {
        Finished {
            ended,
            stdout: self.stdout,
            stderr: self.stderr,
        }
    }
}

// A frame and a read beyond it is the most that `incoming` holds.
const _: () = assert!(MAX_FRAME_BYTES <= 1 << 20);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use envicutor_protocol::{Exit, Limits, MemoryFrom, Touched};
    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;

    const OUTPUT_BYTES: u64 = 100_000;

    /// An agent that does what the test says.
    struct Agent(UnixStream);

    impl Agent {
        async fn send(&mut self, report: &Report) {
            let frame = encode(report).expect("encodes");
            self.0.write_all(&frame).await.expect("sent");
        }

        async fn receive(&mut self) -> Command {
            let mut prefix = [0; 4];
            self.0.read_exact(&mut prefix).await.expect("a length");
            let mut payload = vec![0; frame_length(prefix).expect("in bounds")];
            self.0.read_exact(&mut payload).await.expect("a payload");
            decode(&payload).expect("a command")
        }
    }

    async fn greeted() -> (Session, Agent) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut agent = Agent(theirs);
        agent.send(&Report::Hello { version: VERSION }).await;
        (Session::greet(ours).await.expect("greeted"), agent)
    }

    fn stage() -> Stage {
        Stage {
            argv: vec!["true".to_owned()],
            env: Vec::new(),
            limits: Limits {
                cpu_time_us: 1,
                extra_time_us: 0,
                wall_time_us: 1,
                memory_bytes: 1,
                stack_bytes: 1,
                processes: 1,
                open_files: 1,
                file_size_bytes: 1,
                output_bytes: OUTPUT_BYTES,
            },
            stdin: Stdin {
                data: Vec::new(),
                last: true,
            },
        }
    }

    fn ended() -> Report {
        Report::Ended(Box::new(Ended {
            exit: Exit::Code(0),
            killed: None,
            touched: Touched::default(),
            cpu_user_us: 1,
            cpu_system_us: 1,
            wall_us: 1,
            memory_peak_bytes: 1,
            memory_from: MemoryFrom::Rusage,
            processes_peak: 1,
        }))
    }

    fn output(data: &[u8]) -> Report {
        Report::Output {
            stream: Stream::Stdout,
            data: data.to_vec(),
        }
    }

    async fn run(session: &mut Session, stdin: &[u8]) -> Result<Finished, ContainerError> {
        let mut ignore = |_: Observed<'_>| {};
        let run = session.run(stage(), stdin, &mut ignore);
        timeout(Duration::from_secs(10), run)
            .await
            .expect("in time")
    }

    #[tokio::test]
    async fn another_version_is_refused() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        Agent(theirs).send(&Report::Hello { version: 99 }).await;
        let error = Session::greet(ours).await.expect_err("refused").to_string();
        assert!(error.contains("version 99"), "{error}");
    }

    #[tokio::test]
    async fn input_is_fed_when_it_is_wanted() {
        let (mut session, mut agent) = greeted().await;
        let stdin: Vec<u8> = (0..=255).cycle().take(CHUNK_BYTES * 2 + 5).collect();
        let play = async {
            let Command::Stage(stage) = agent.receive().await else {
                panic!("no stage")
            };
            let (mut fed, mut last) = (stage.stdin.data, stage.stdin.last);
            while !last {
                agent.send(&Report::StdinWanted).await;
                let Command::Stdin(part) = agent.receive().await else {
                    panic!("no input")
                };
                fed.extend(part.data);
                last = part.last;
            }
            agent.send(&ended()).await;
            fed
        };
        let (finished, fed) = tokio::join!(run(&mut session, &stdin), play);
        finished.expect("finished");
        assert_eq!(fed, stdin);
    }

    #[tokio::test]
    async fn more_input_wanted_than_there_is_breaks_the_protocol() {
        let (mut session, mut agent) = greeted().await;
        agent.send(&Report::StdinWanted).await;
        let error = run(&mut session, b"").await.expect_err("refused");
        assert!(matches!(error, ContainerError::Protocol(_)), "{error}");
    }

    #[tokio::test]
    async fn more_output_than_allowed_breaks_the_protocol() {
        let (mut session, mut agent) = greeted().await;
        agent.send(&Report::Started).await;
        agent.send(&output(&vec![0; CHUNK_BYTES])).await;
        agent.send(&output(&vec![0; CHUNK_BYTES])).await;
        let error = run(&mut session, b"").await.expect_err("refused");
        assert!(matches!(error, ContainerError::Protocol(_)), "{error}");
    }

    #[tokio::test]
    async fn a_frame_out_of_bounds_is_refused_before_it_has_come() {
        let (mut session, mut agent) = greeted().await;
        agent.0.write_all(&[0xff; 4]).await.expect("sent");
        let error = run(&mut session, b"").await.expect_err("refused");
        assert!(matches!(error, ContainerError::Protocol(_)), "{error}");
    }

    #[tokio::test]
    async fn reports_are_read_while_the_agent_reads_nothing() {
        let (mut session, mut agent) = greeted().await;
        let mut huge = stage();
        // More than the socket takes.
        huge.argv = vec!["x".repeat(900 << 10)];
        agent.send(&Report::Started).await;
        agent.send(&output(b"hello")).await;
        agent.send(&ended()).await;
        let mut ignore = |_: Observed<'_>| {};
        let run = session.run(huge, b"", &mut ignore);
        let finished = timeout(Duration::from_secs(10), run)
            .await
            .expect("reading does not wait on writing")
            .expect("finished");
        assert_eq!(finished.stdout, b"hello");
    }

    #[tokio::test]
    async fn the_last_words_of_an_agent_are_heard() {
        let (mut session, mut agent) = greeted().await;
        agent
            .send(&Report::Failed {
                step: "fork".to_owned(),
                object: "true".to_owned(),
                error: "no memory".to_owned(),
            })
            .await;
        drop(agent);
        let error = run(&mut session, b"").await.expect_err("failed");
        assert!(
            matches!(error, ContainerError::AgentFailed { .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_agent_that_is_gone_is_noticed() {
        let (mut session, agent) = greeted().await;
        assert!(session.is_quiet());
        drop(agent);
        session.stream.readable().await.expect("closed");
        assert!(!session.is_quiet());
        let error = run(&mut session, b"").await.expect_err("gone");
        assert!(matches!(error, ContainerError::AgentGone(_)), "{error}");
    }

    #[tokio::test]
    async fn the_observer_sees_everything_in_order_with_its_offset() {
        let (mut session, mut agent) = greeted().await;
        agent.send(&Report::Started).await;
        agent.send(&output(b"ab")).await;
        agent.send(&output(b"c")).await;
        agent.send(&ended()).await;
        let mut seen = Vec::new();
        session
            .run(stage(), b"", &mut |observed| {
                seen.push(match observed {
                    Observed::Started => "started".to_owned(),
                    Observed::Output {
                        offset_bytes, data, ..
                    } => format!("{offset_bytes}:{}", data.escape_ascii()),
                });
            })
            .await
            .expect("finished");
        assert_eq!(seen, ["started", "0:ab", "2:c"]);
    }
}
