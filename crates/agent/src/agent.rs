//! The agent's loop: one thread that waits for the worker, for its processes and for the next limit, whichever comes first.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use envicutor_protocol::{CHUNK_BYTES, Command, Report, Stage as Order, TOOL, Tool, VERSION};

use crate::{
    buffer::Buffer,
    connection::{Connection, End},
    failure::{Failure, Naming},
    processes,
    stage::{self, Stage},
    sys::{self, Reaping},
    wall::Wall,
    work::Work,
};

/// How long the worker is given to take the agent's last words.
const FAREWELL: Duration = Duration::from_secs(2);

/// Memory kept for a stage's reports, in bytes: what may wait for the worker, and a chunk or two.
const RESERVE_BYTES: usize = 512 << 10;

/// How many ended processes are taken before everything else has its turn again.
const REAPED_AT_A_TIME: usize = 64;

/// PID 1 of a container, connected to its worker.
pub struct Agent {
    connection: Connection,
    signals: OwnedFd,
    wall: Box<dyn Wall>,
    /// For what the stages write.
    buffer: Buffer,
    /// Known after `Open`.
    work: Option<Work>,
    stage: Option<Stage>,
    /// Whether ended processes may be left to take.
    reap_again: bool,
}

impl Agent {
    /// Sets up, connects to the worker at `socket`, and says hello.
    pub fn connect(
        socket: &Path,
        wall: impl FnOnce() -> Result<Box<dyn Wall>, Failure>,
    ) -> Result<Self, Failure> {
        sys::forbid_dumps().naming("forbid dumps", "the agent")?;
        processes::enter()?;
        sys::reserve_memory(RESERVE_BYTES);
        sys::ignore(libc::SIGPIPE);
        sys::set_umask(0o022);
        let signals = sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT])
            .naming("await signals", "the agent")?;
        let wall = wall()?;
        Ok(Self {
            connection: Connection::open(socket)?,
            signals,
            wall,
            buffer: Buffer::take(CHUNK_BYTES).naming("map memory", "for output")?,
            work: None,
            stage: None,
            reap_again: false,
        })
    }

    /// Serves the worker to the end, then kills everything.
    pub fn run(mut self) -> Result<(), Failure> {
        let end = self.serve();
        sys::kill_everyone();
        match end {
            End::Closed => Ok(()),
            End::Failed(failure) => {
                // Best effort: a worker that does not listen sees the socket close.
                let _ = self.connection.send(&failure.report());
                self.connection.flush_all(FAREWELL);
                Err(failure)
            }
        }
    }

    fn serve(&mut self) -> End {
        let mut turn = self.connection.send(&Report::Hello { version: VERSION });
        while turn.is_ok() {
            turn = self.turn();
        }
        turn.err().unwrap_or(End::Closed)
    }

    /// Waits for something to happen, and deals with everything that has.
    fn turn(&mut self) -> Result<(), End> {
        self.sleep()?;
        self.take_signals()?;
        self.reap()?;
        self.attend_stage()?;
        self.connection.flush()?;
        while let Some(command) = self.connection.next_command()? {
            self.obey(command)?;
        }
        Ok(())
    }

    /// Sleeps until a descriptor is ready or a limit wants a look; without a stage, until the worker speaks.
    fn sleep(&self) -> Result<(), Failure> {
        let now = sys::now();
        let (socket, socket_events) = self.connection.interest();
        let room = self.connection.has_room();
        let [input, output, errors] = match &self.stage {
            Some(stage) => stage.interests(now, room),
            None => [-1; 3],
        };
        let watch = |fd, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let mut fds = [
            watch(socket, socket_events),
            watch(self.signals.as_raw_fd(), libc::POLLIN),
            watch(input, libc::POLLOUT),
            watch(output, libc::POLLIN),
            watch(errors, libc::POLLIN),
        ];
        let timeout = if self.reap_again {
            Some(Duration::ZERO)
        } else {
            self.stage.as_ref().and_then(|it| it.longest_sleep(now))
        };
        sys::poll(&mut fds, timeout).naming("wait", "the worker and the stage")
    }

    /// A stop request (`docker stop`) ends the agent as the worker's death does; SIGCHLD only wakes.
    fn take_signals(&self) -> Result<(), End> {
        while let Some(signal) = sys::next_signal(&self.signals) {
            if signal != libc::SIGCHLD {
                return Err(End::Closed);
            }
        }
        Ok(())
    }

    /// Takes ended processes, the stages' own and the orphans that PID 1 inherits; only so many at a time: a stage may make
    /// them as fast as they are taken, and its limits must be looked at.
    fn reap(&mut self) -> Result<(), Failure> {
        self.reap_again = false;
        for _ in 0..REAPED_AT_A_TIME {
            match (
                sys::reap().naming("reap", "ended processes")?,
                &mut self.stage,
            ) {
                (Reaping::Found(reaped), Some(stage)) => stage.count(&reaped),
                (Reaping::Found(_), None) => {}
                (Reaping::NoneLeft, Some(stage)) => {
                    stage.all_reaped();
                    return Ok(());
                }
                (Reaping::AllLive, _) | (Reaping::NoneLeft, None) => return Ok(()),
            }
        }
        self.reap_again = true;
        Ok(())
    }

    fn attend_stage(&mut self) -> Result<(), End> {
        let Some(stage) = &mut self.stage else {
            return Ok(());
        };
        let now = sys::now();
        stage.exchange(now, &mut self.connection, &mut self.buffer)?;
        stage.enforce(now)?;
        if let Some(stage) = self.stage.take_if(|stage| stage.is_done()) {
            let ended = stage.summary()?;
            self.connection.send(&Report::Ended(Box::new(ended)))?;
            self.wall.make_ahead()?;
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Prepare(order) => {
                self.wall.prepare(&order)?;
                self.connection.send(&Report::Prepared)?;
            }
            Command::Open(open) => {
                if self.work.is_some() {
                    return Err(Failure::out_of_order("open", "it once").into());
                }
                self.work = Some(self.wall.open(&open)?);
            }
            Command::File(file) => self.idle("file")?.write(&file)?,
            Command::Keep => {
                let bytes = self.idle("keep")?.keep()?;
                self.connection.send(&Report::Kept { bytes })?;
            }
            Command::Stage(order) => self.start(*order)?,
            Command::Tool(tool) => self.start_tool(*tool)?,
            Command::Stdin(stdin) => {
                check_stdin(stdin.data.len())?;
                let wanted = match &mut self.stage {
                    Some(stage) => stage.give(stdin),
                    None => self.work.as_ref().is_some_and(Work::has_run),
                };
                if !wanted {
                    let expected = "it once for each `stdin_wanted`";
                    return Err(Failure::out_of_order("stdin", expected).into());
                }
            }
            Command::Kill => {
                if let Some(stage) = &mut self.stage {
                    stage.kill(envicutor_protocol::Killed::Asked);
                }
            }
            Command::Close => {
                self.idle("close")?;
                if let Some(work) = self.work.take() {
                    let anomaly = self.wall.close(work)?;
                    let is_well = anomaly.is_none();
                    self.connection.send(&Report::Closed { anomaly })?;
                    if is_well {
                        self.connection.flush()?;
                        self.wall.settle();
                    }
                }
            }
        }
        Ok(())
    }

    /// The work directory, for a `command` that comes after `open` and while no stage runs.
    fn idle(&mut self, command: &str) -> Result<&mut Work, Failure> {
        if self.stage.is_some() {
            return Err(Failure::out_of_order(command, "it while no stage runs"));
        }
        let expected = "`open` first";
        self.work
            .as_mut()
            .ok_or_else(|| Failure::out_of_order(command, expected))
    }

    fn start(&mut self, order: Order) -> Result<(), End> {
        if order.argv.is_empty() {
            return Err(
                Failure::new("read command", "stage", "expected an argument vector").into(),
            );
        }
        check_stdin(order.stdin.data.len())?;
        self.clean("stage")?;
        if !self.idle("stage")?.begin_stage()? {
            self.connection
                .send(&Report::Ended(Box::new(stage::out_of_memory())))?;
            return Ok(());
        }
        self.launch(order)
    }

    /// The agent's own program, in the place of a stage's.
    fn start_tool(&mut self, tool: Tool) -> Result<(), End> {
        check_stdin(tool.stdin.data.len())?;
        self.clean("tool")?;
        self.idle("tool")?.begin_tool();
        self.launch(Order {
            // Whatever root it is started in: until it is executed it is this very program.
            argv: vec!["/proc/self/exe".to_owned(), TOOL.to_owned()],
            env: Vec::new(),
            limits: tool.limits,
            stdin: tool.stdin,
            may_be_warm: false,
        })
    }

    /// Takes away what the stage before has left outside of the work directory, for a `command` that begins the next.
    fn clean(&mut self, command: &str) -> Result<(), Failure> {
        self.idle(command)?;
        match &self.work {
            Some(work) if work.has_run() => self.wall.clean(work),
            _ => Ok(()),
        }
    }

    fn launch(&mut self, order: Order) -> Result<(), End> {
        let Some(work) = &self.work else {
            return Ok(()); // Whoever calls this has looked.
        };
        let stage = Stage::start(order, &mut *self.wall, work)?;
        let executed = stage.was_executed();
        self.stage = Some(stage);
        if executed {
            self.connection.send(&Report::Started)?;
        }
        // Signals and output that are there already are found by the next turn's poll.
        Ok(())
    }
}

fn check_stdin(bytes: usize) -> Result<(), End> {
    if bytes <= CHUNK_BYTES {
        return Ok(());
    }
    let error = format!("{bytes} bytes came in one part, expected at most {CHUNK_BYTES}");
    Err(Failure::new("read command", "stdin", error).into())
}
