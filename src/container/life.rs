//! The life of a container in its worker's hands: files are laid out, stages run, it is destroyed. It serves one submission,
//! and a container whose stage was not seen to its end runs nothing any more.

use std::time::Duration;

use envicutor_protocol::{
    CHUNK_BYTES, Command, Ended, Exit, File, Killed, MemoryFrom, Open, Stage, Stdin, Stream,
    Touched,
};
use tokio::time::timeout;

use super::{
    ContainerError,
    engine::Engine,
    options::{self, Allowance},
    removal::Occupancy,
    session::Session,
};
use crate::submission::{
    limits::Limits,
    plan::{PlannedFile, StagePlan},
    result::Start,
    units::{ByteSize, Micros},
};

/// How long past a stage's wall time its end may be reported: the agent starts it, kills it, and reaps what it left. After
/// this the agent has failed.
const GRACE: Duration = Duration::from_secs(15);

/// A work directory of up to this many bytes is kept within the container's overhead.
const SMALL_BYTES: u64 = 1 << 20;

/// What killed a program that the worker says was killed.
const SIGKILL: i32 = 9;

/// A started container with its agent. Dropped, it is destroyed.
pub struct Container {
    /// First: the agent ends everything when its socket closes, before the Engine is asked to.
    session: Session,
    occupancy: Occupancy,
    engine: Engine,
    allowance: Allowance,
    overhead: ByteSize,
    start: Start,
    phase: Phase,
}

/// What may be done with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Files may be laid out.
    Fresh,
    /// Stages may run.
    Open,
    /// Something is under way, or was not seen to its end.
    Busy,
}

/// What is seen of a stage while it runs.
#[derive(Debug)]
pub enum Observed<'a> {
    /// Its program was executed.
    Started,
    /// It wrote something.
    Output {
        /// To which stream.
        stream: Stream,
        /// How much it had written to that stream before.
        offset_bytes: u64,
        /// What it wrote.
        data: &'a [u8],
    },
}

/// A stage that is over.
#[derive(Debug)]
pub struct Finished {
    /// How it went.
    pub ended: Ended,
    /// What it wrote, at most its limit.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error, at most its limit.
    pub stderr: Vec<u8>,
}

impl Container {
    pub(super) fn new(
        session: Session,
        occupancy: Occupancy,
        engine: Engine,
        allowance: Allowance,
        overhead: ByteSize,
    ) -> Self {
        Self {
            session,
            occupancy,
            engine,
            allowance,
            overhead,
            start: Start::Cold,
            phase: Phase::Fresh,
        }
    }

    /// Whether it waited in the pool.
    pub fn start(&self) -> Start {
        self.start
    }

    /// Its name at the Docker Engine.
    pub fn name(&self) -> &str {
        self.occupancy.name()
    }

    /// Marks it as one that waited.
    pub(super) fn pooled(mut self) -> Self {
        self.start = Start::Pooled;
        self
    }

    /// Whether it can serve: its agent is connected and silent.
    pub(super) fn is_well(&self) -> bool {
        self.phase == Phase::Fresh && self.session.is_quiet()
    }

    /// Writes `files` to the work directory. Once, before the first stage.
    pub async fn lay_out(&mut self, files: &[PlannedFile]) -> Result<(), ContainerError> {
        self.enter(Phase::Fresh, "files")?;
        let uid = self.occupancy.uid();
        self.tell(&Command::Open(Open { uid, gid: uid })).await?;
        for file in files {
            self.write(file).await?;
        }
        self.phase = Phase::Open;
        Ok(())
    }

    async fn write(&mut self, file: &PlannedFile) -> Result<(), ContainerError> {
        let (first, mut rest) = file.data.split_at(file.data.len().min(CHUNK_BYTES));
        self.tell(&part(file, false, first)).await?;
        while !rest.is_empty() {
            let (next, after) = rest.split_at(rest.len().min(CHUNK_BYTES));
            self.tell(&part(file, true, next)).await?;
            rest = after;
        }
        Ok(())
    }

    async fn tell(&mut self, command: &Command) -> Result<(), ContainerError> {
        let waited = self.engine.call_timeout();
        timeout(waited, self.session.tell(command))
            .await
            .map_err(|_| ContainerError::AgentOverdue {
                doing: "take the files",
                waited,
            })?
    }

    /// Runs `stage`, for at most `wall_cap` of wall time (what is left to the submission), and shows what happens meanwhile to
    /// `observe`.
    ///
    /// A future that is dropped leaves a container that can only be destroyed.
    pub async fn run(
        &mut self,
        stage: &StagePlan,
        wall_cap: Duration,
        observe: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<Finished, ContainerError> {
        self.enter(Phase::Open, "a stage")?;
        if let Some(in_use) = self.fit(&stage.limits).await? {
            self.phase = Phase::Open;
            return Ok(out_of_memory(in_use));
        }
        let wall = stage.limits.wall_time_us.duration().min(wall_cap);
        let order = order(stage, wall);
        let waited = wall.saturating_add(GRACE);
        let finished = timeout(waited, self.session.run(order, &stage.stdin, observe))
            .await
            .map_err(|_| ContainerError::AgentOverdue {
                doing: "end the stage",
                waited,
            })??;
        self.phase = Phase::Open;
        Ok(finished)
    }

    /// What the work directory holds now is what every later stage finds, whatever the stages between do to it. What this
    /// takes of memory comes on top of the stages' limits; `room` is the most that it may be. False where it is more: then
    /// nothing is kept.
    pub async fn keep(&mut self, room: ByteSize) -> Result<bool, ContainerError> {
        self.enter(Phase::Open, "a work directory to keep")?;
        if room.0 > SMALL_BYTES {
            let mut roomy = self.allowance;
            roomy.memory_bytes = roomy.memory_bytes.saturating_add(room.0);
            self.allow(roomy).await?;
        }
        let waited = self.engine.call_timeout();
        let kept = timeout(waited, self.session.keep()).await;
        let kept = kept.map_err(|_| ContainerError::AgentOverdue {
            doing: "keep the work directory",
            waited,
        })??;
        if let Some(bytes) = kept.filter(|bytes| *bytes > SMALL_BYTES) {
            self.overhead = ByteSize(self.overhead.0.saturating_add(bytes));
        }
        self.phase = Phase::Open;
        Ok(kept.is_some())
    }

    /// Destroys it, in the background: `Containers::close` waits for that.
    pub async fn destroy(self) {
        let Self {
            session, occupancy, ..
        } = self;
        session.close().await;
        drop(occupancy);
    }

    /// Begins what is allowed in `phase`. Whoever ends well leaves the next phase behind.
    fn enter(&mut self, phase: Phase, what: &'static str) -> Result<(), ContainerError> {
        if self.phase != phase {
            let state = match self.phase {
                Phase::Fresh => "not open yet",
                Phase::Open => "open already",
                Phase::Busy => "used up",
            };
            return Err(ContainerError::Misused { what, state });
        }
        self.phase = Phase::Busy;
        Ok(())
    }

    /// Gives the container what a stage with `limits` may use. Where earlier stages left more in memory (their files) than
    /// that, it says how much: the stage is over its limit before it begins, and lowering it would make the kernel kill
    /// whatever it finds, the agent included.
    async fn fit(&mut self, limits: &Limits) -> Result<Option<u64>, ContainerError> {
        let wanted = Allowance::of(limits, self.overhead);
        if wanted == self.allowance {
            return Ok(None);
        }
        let name = self.occupancy.name();
        if wanted.memory_bytes < self.allowance.memory_bytes {
            let in_use = self.engine.memory_in_use(name).await?;
            if in_use >= wanted.memory_bytes {
                return Ok(Some(in_use));
            }
        }
        self.allow(wanted).await?;
        Ok(None)
    }

    async fn allow(&mut self, allowance: Allowance) -> Result<(), ContainerError> {
        let name = self.occupancy.name();
        self.engine.update(name, options::update(allowance)).await?;
        self.allowance = allowance;
        Ok(())
    }
}

fn part(file: &PlannedFile, append: bool, data: &[u8]) -> Command {
    Command::File(File {
        path: file.path.clone(),
        executable: file.executable,
        append,
        data: data.to_vec(),
    })
}

/// What the agent is told of `stage`. Its input follows in parts.
fn order(stage: &StagePlan, wall: Duration) -> Stage {
    let limits = &stage.limits;
    Stage {
        argv: stage.argv.clone(),
        env: stage
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        limits: envicutor_protocol::Limits {
            cpu_time_us: limits.cpu_time_us.0,
            extra_time_us: limits.extra_time_us.0,
            // Zero is no limit that the protocol knows.
            wall_time_us: micros(wall).0.max(1),
            memory_bytes: limits.memory_bytes.0,
            stack_bytes: limits.stack_bytes.0,
            processes: limits.processes,
            open_files: limits.open_files,
            file_size_bytes: limits.file_size_bytes.0,
            output_bytes: limits.output_bytes.0,
        },
        stdin: Stdin {
            data: Vec::new(),
            last: true,
        },
    }
}

fn micros(duration: Duration) -> Micros {
    Micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// A stage that could not begin, because what was there before it is over its memory limit.
fn out_of_memory(in_use: u64) -> Finished {
    Finished {
        ended: Ended {
            exit: Exit::Signal(SIGKILL),
            killed: Some(Killed::Memory),
            touched: Touched {
                memory: true,
                ..Touched::default()
            },
            cpu_user_us: 0,
            cpu_system_us: 0,
            wall_us: 0,
            memory_peak_bytes: in_use,
            memory_from: MemoryFrom::Cgroup,
            processes_peak: 0,
        },
        stdout: Vec::new(),
        stderr: Vec::new(),
    }
}
