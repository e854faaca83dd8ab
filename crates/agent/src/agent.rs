//! The agent's loop: one thread that waits for the worker, for its processes and for the next limit, whichever comes first.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use envicutor_protocol::{CHUNK_BYTES, Command, Open, Report, Stage as Order, VERSION};

use crate::{
    cgroup::Cgroup,
    child::Handover,
    clean::clean,
    connection::{Connection, End},
    failure::{Failure, Naming},
    files,
    identity::Identity,
    kept::Kept,
    spawn,
    stage::{self, Stage},
    sys::{self, Reaping},
};

/// How long the worker is given to take the agent's last words.
const FAREWELL: Duration = Duration::from_secs(2);

/// Memory kept for a stage's reports, in bytes: what may wait for the worker, and a chunk or two.
const RESERVE_BYTES: usize = 512 << 10;

/// How many ended processes are taken before everything else has its turn again.
const REAPED_AT_A_TIME: usize = 64;

/// Where the agent works.
pub struct Places {
    /// The worker's socket.
    pub socket: PathBuf,
    /// The submission's directory.
    pub work_dir: PathBuf,
}

/// PID 1 of a container, connected to its worker.
pub struct Agent {
    connection: Connection,
    signals: OwnedFd,
    handover: &'static Handover,
    cgroup: Cgroup,
    work_dir: PathBuf,
    /// Known after `Open`.
    identity: Option<Identity>,
    stage: Option<Stage>,
    /// Whether ended processes may be left to take.
    reap_again: bool,
    /// Whether a stage has ever run: no file is taken after that.
    has_run: bool,
    /// What `Keep` kept.
    kept: Option<Kept>,
    /// Whether the work directory may be another than what was kept.
    is_altered: bool,
}

impl Agent {
    /// Sets up, connects, and says hello.
    pub fn connect(places: Places) -> Result<Self, Failure> {
        sys::forbid_dumps().naming("forbid dumps", "the agent")?;
        sys::reserve_memory(RESERVE_BYTES);
        sys::ignore(libc::SIGPIPE);
        sys::set_umask(0o022);
        let signals = sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT])
            .naming("await signals", "the agent")?;
        let handover = spawn::handover()?;
        let connection = Connection::open(&places.socket)?;
        Ok(Self {
            connection,
            signals,
            handover,
            cgroup: Cgroup::find(),
            work_dir: places.work_dir,
            identity: None,
            stage: None,
            reap_again: false,
            has_run: false,
            kept: None,
            is_altered: false,
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
        stage.exchange(now, &mut self.connection)?;
        stage.enforce(now, &self.cgroup)?;
        if let Some(stage) = self.stage.take_if(|stage| stage.is_done()) {
            let ended = stage.summary(&self.cgroup)?;
            self.connection.send(&Report::Ended(Box::new(ended)))?;
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Open(open) => self.open(&open)?,
            Command::File(file) => {
                let identity = self.opened("file")?;
                if self.has_run || self.kept.is_some() {
                    let expected = "files before `keep` and the first stage";
                    return Err(out_of_order("file", expected));
                }
                files::write(&file, &self.work_dir, identity)?;
            }
            Command::Keep => self.keep()?,
            Command::Stage(order) => self.start(*order)?,
            Command::Stdin(stdin) => {
                check_stdin(stdin.data.len())?;
                let wanted = match &mut self.stage {
                    Some(stage) => stage.give(stdin),
                    None => self.has_run,
                };
                if !wanted {
                    return Err(out_of_order("stdin", "it once for each `stdin_wanted`"));
                }
            }
            Command::Kill => {
                if let Some(stage) = &mut self.stage {
                    stage.kill(envicutor_protocol::Killed::Asked);
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, open: &Open) -> Result<(), End> {
        if self.identity.is_some() {
            return Err(out_of_order("open", "it once"));
        }
        let Some(identity) = Identity::new(open.uid, open.gid) else {
            let object = format!("uid {}, gid {}", open.uid, open.gid);
            let error = "expected a user and a group that are neither 0 nor 4294967295";
            return Err(Failure::new("open", object, error).into());
        };
        self.identity = Some(identity);
        Ok(())
    }

    fn opened(&self, command: &str) -> Result<Identity, End> {
        self.identity
            .ok_or_else(|| out_of_order(command, "`open` first"))
    }

    fn keep(&mut self) -> Result<(), End> {
        let identity = self.opened("keep")?;
        if self.stage.is_some() {
            return Err(out_of_order("keep", "it while no stage runs"));
        }
        // The one before goes first: there may be no room for both.
        self.kept = None;
        let bytes = match Kept::take(&self.work_dir, identity) {
            Ok(kept) => {
                self.is_altered = !kept.is_exact;
                Some(self.kept.insert(kept).bytes())
            }
            Err(error) if is_no_room(&error) => None,
            Err(error) => {
                let object = self.work_dir.display();
                return Err(Failure::new("keep the work directory", object, error).into());
            }
        };
        self.connection.send(&Report::Kept { bytes })?;
        Ok(())
    }

    /// Takes away what earlier stages have left, but for a work directory that nobody has kept. False where there is no room
    /// for what was kept.
    fn reset(&mut self, identity: Identity) -> Result<bool, Failure> {
        if self.has_run {
            clean(identity)?;
        }
        if let Some(kept) = self.kept.as_ref().filter(|_| self.is_altered) {
            match kept.lay_out() {
                Err(error) if is_no_room(&error) => return Ok(false),
                laid_out => laid_out.naming("lay out what was kept", self.work_dir.display())?,
            }
        }
        self.has_run = true;
        self.is_altered = true;
        Ok(true)
    }

    fn start(&mut self, order: Order) -> Result<(), End> {
        let identity = self.opened("stage")?;
        if self.stage.is_some() {
            return Err(out_of_order(
                "stage",
                "it after the `ended` of the one before",
            ));
        }
        if order.argv.is_empty() {
            return Err(
                Failure::new("read command", "stage", "expected an argument vector").into(),
            );
        }
        check_stdin(order.stdin.data.len())?;
        if !self.reset(identity)? {
            self.connection
                .send(&Report::Ended(Box::new(stage::out_of_memory())))?;
            return Ok(());
        }
        let stage = Stage::start(order, identity, &self.work_dir, &self.cgroup, self.handover)?;
        let executed = stage.was_executed();
        self.stage = Some(stage);
        if executed {
            self.connection.send(&Report::Started)?;
        }
        // Signals and output that are there already are found by the next turn's poll.
        Ok(())
    }
}

/// Whether a step failed for want of memory or of disk in memory: a submission's doing.
fn is_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOSPC))
}

fn out_of_order(command: &str, expected: &str) -> End {
    let error = format!("it came out of order, expected {expected}");
    Failure::new("obey", command, error).into()
}

fn check_stdin(bytes: usize) -> Result<(), End> {
    if bytes <= CHUNK_BYTES {
        return Ok(());
    }
    let error = format!("{bytes} bytes came in one part, expected at most {CHUNK_BYTES}");
    Err(Failure::new("read command", "stdin", error).into())
}
