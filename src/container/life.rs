//! The life of a container in its worker's hands: files are laid out, stages run, it is destroyed. It serves one submission,
//! and a container whose stage was not seen to its end runs nothing any more.

use std::time::Duration;

use envicutor_protocol::{Ended, Exit, Killed, MemoryFrom, Open, Origin, Stream, Touched};
use tokio::time::timeout;

use super::{
    Collect, Collected, ContainerError, Feed, LaidOut, Pack, Packed, Refused, Spool, Spools,
    Unpack, Unpacked,
    engine::Engine,
    oci_runtime::Keeper,
    options::{self, Allowance},
    orders::{self, GRACE},
    phase::Phase,
    removal::Occupancy,
    session::Session,
    tools::Tools,
};
use crate::submission::{limits::Limits, plan::StagePlan, result::Start, units::ByteSize};

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
    keeper: Keeper,
    allowance: Allowance,
    overhead: ByteSize,
    start: Start,
    phase: Phase,
    tools: Tools,
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
    pub stdout: Spool,
    /// What it wrote to its standard error, at most its limit.
    pub stderr: Spool,
}

impl Container {
    pub(super) fn new(
        session: Session,
        occupancy: Occupancy,
        engine: Engine,
        keeper: Keeper,
        allowance: Allowance,
        overhead: ByteSize,
        tools: Tools,
    ) -> Self {
        Self {
            session,
            occupancy,
            engine,
            keeper,
            allowance,
            overhead,
            start: Start::Cold,
            phase: Phase::Fresh,
            tools,
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
    pub async fn lay_out(&mut self, files: &[LaidOut<'_>]) -> Result<(), ContainerError> {
        self.phase.enter(Phase::Fresh, "files")?;
        let bytes = files.iter().map(|it| it.data.size_bytes()).sum();
        self.make_room(bytes).await?;
        let uid = self.occupancy.uid();
        let open = Open::User { uid, gid: uid };
        let patience = self.engine.call_timeout();
        orders::offer(&mut self.session, open, files, patience).await?;
        // A stage may first need other limits: meanwhile the files are written.
        orders::flush(&mut self.session, patience).await?;
        self.hold(bytes);
        self.phase = Phase::Open;
        Ok(())
    }

    /// Has `archive` unpacked into the work directory.
    pub(super) async fn unpack(
        &mut self,
        archive: Feed<'_>,
        how: &Unpack,
    ) -> Result<Result<Unpacked, Refused>, ContainerError> {
        self.phase.enter(Phase::Open, "an archive")?;
        let tools = self.tools.clone();
        // No stage has run: what the first one may use is free.
        let need = self
            .overhead
            .0
            .saturating_add(tools.memory_to_unpack(&archive, how));
        self.make_room(need.saturating_sub(self.allowance.memory_bytes))
            .await?;
        let unpacked = tools.unpack(&mut self.session, archive, how).await?;
        if let Ok(unpacked) = &unpacked {
            self.hold(unpacked.bytes.0);
        }
        self.phase = Phase::Open;
        Ok(unpacked)
    }

    /// Reads out the files of the work directory that match.
    pub(super) async fn collect(&mut self, what: &Collect) -> Result<Collected, ContainerError> {
        self.phase.enter(Phase::Open, "files to collect")?;
        let tools = self.tools.clone();
        // Whatever the program has left of its memory.
        self.make_room(tools.own_memory()).await?;
        let collected = tools.collect(&mut self.session, what).await?;
        self.phase = Phase::Open;
        Ok(collected)
    }

    /// Reads out the whole work directory.
    pub(super) async fn pack(
        &mut self,
        most: &Pack,
    ) -> Result<Result<Packed, Refused>, ContainerError> {
        self.phase.enter(Phase::Open, "a work directory to pack")?;
        let tools = self.tools.clone();
        self.make_room(tools.own_memory()).await?;
        let packed = tools.pack(&mut self.session, most).await?;
        self.phase = Phase::Open;
        Ok(packed)
    }

    /// Gives the container room for `bytes` beside what it has room for.
    async fn make_room(&mut self, bytes: u64) -> Result<(), ContainerError> {
        if bytes <= SMALL_BYTES || self.keeper != Keeper::Cgroup {
            return Ok(());
        }
        let mut roomy = self.allowance;
        roomy.memory_bytes = roomy.memory_bytes.saturating_add(bytes);
        self.allow(roomy).await
    }

    /// What lies in the work directory without being a stage's doing takes this much from none.
    fn hold(&mut self, bytes: u64) {
        if bytes > SMALL_BYTES {
            self.overhead = ByteSize(self.overhead.0.saturating_add(bytes));
        }
    }

    /// Runs `stage`, for at most `wall_cap` of wall time (what is left to the submission), and shows what happens meanwhile to
    /// `observe`.
    ///
    /// A future that is dropped leaves a container that can only be destroyed.
    pub async fn run(
        &mut self,
        stage: &StagePlan,
        stdin: Feed<'_>,
        wall_cap: Duration,
        observe: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<Finished, ContainerError> {
        self.phase.enter(Phase::Open, "a stage")?;
        if let Some(in_use) = self.fit(&stage.limits).await? {
            self.phase = Phase::Open;
            return Ok(out_of_memory(in_use, &self.session.spools));
        }
        let wall = stage.limits.wall_time_us.duration().min(wall_cap);
        let order = orders::stage(stage, wall, false);
        let waited = wall.saturating_add(GRACE);
        let finished = timeout(waited, self.session.run(order, stdin, observe))
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
        self.phase.enter(Phase::Open, "a work directory to keep")?;
        self.make_room(room.0).await?;
        let waited = self.engine.call_timeout();
        let kept = timeout(waited, self.session.keep()).await;
        let kept = kept.map_err(|_| ContainerError::AgentOverdue {
            doing: "keep the work directory",
            waited,
        })??;
        self.hold(kept.unwrap_or_default());
        self.phase = Phase::Open;
        Ok(kept.is_some())
    }

    /// Destroys it, in the background: `Containers::close` waits for that.
    pub(super) async fn destroy(self) {
        let Self {
            session, occupancy, ..
        } = self;
        session.close().await;
        drop(occupancy);
    }

    /// Gives the container what a stage with `limits` may use. Where earlier stages left more in memory (their files) than
    /// that, it says how much: the stage is over its limit before it begins, and lowering it would make the kernel kill
    /// whatever it finds, the agent included.
    async fn fit(&mut self, limits: &Limits) -> Result<Option<u64>, ContainerError> {
        let wanted = self.keeper.allowance(limits, self.overhead);
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

/// A stage that could not begin, because what was there before it is over its memory limit.
fn out_of_memory(in_use: u64, spools: &Spools) -> Finished {
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
            origin: Origin::Exec,
        },
        stdout: spools.spool(),
        stderr: spools.spool(),
    }
}
