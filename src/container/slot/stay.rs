//! One submission in a slot. Everything that is known before the first stage goes to the agent in one write; no call of the
//! Docker Engine is on its way.

use std::{sync::Arc, time::Duration};

use envicutor_protocol::{Open, Origin};
use tokio::time::timeout;

use super::{
    life::{Bound, Ground, Slot},
    pool::SlotPool,
};
use crate::{
    container::{
        Collect, Collected, ContainerError, Feed, Finished, LaidOut, Observed, Pack, Packed,
        Refused, Unpack, Unpacked,
        orders::{self, GRACE},
        phase::Phase,
        roots::Roots,
        tools::Tools,
    },
    submission::{plan::StagePlan, result::Start},
};

/// A submission's stay in a slot. Dropped instead of ended, the slot is destroyed.
pub struct Stay {
    slot: Slot<Bound>,
    place: Place,
    phase: Phase,
    templates: Templates,
}

/// The most characters that are logged of why there is no template.
const MOST_TOLD: usize = 300;

/// What stages that could begin from a template did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Templates {
    /// There was none.
    Untried,
    /// All of them.
    AllWarm,
    /// Not all of them.
    NotAll,
}

impl Templates {
    fn count(self, warm: bool) -> Self {
        match (self, warm) {
            (Self::Untried | Self::AllWarm, true) => Self::AllWarm,
            _ => Self::NotAll,
        }
    }
}

/// Where a stay belongs.
pub(super) struct Place {
    pub(super) ground: Ground,
    pub(super) start: Start,
    /// The slot serves nobody after it.
    pub(super) fresh: bool,
    pub(super) pool: Arc<SlotPool>,
    pub(super) roots: Roots,
    /// Whether the configuration has templates.
    pub(super) templates: bool,
    pub(super) tools: Tools,
}

impl Stay {
    pub(super) fn new(slot: Slot<Bound>, place: Place) -> Self {
        Self {
            slot,
            place,
            phase: Phase::Fresh,
            templates: Templates::Untried,
        }
    }

    /// Whether the slot waited for it, and whether all of its stages so far that could begin from a template did.
    pub fn start(&self) -> Start {
        match (self.place.start, self.templates) {
            (Start::Pooled, Templates::AllWarm) => Start::Warm,
            (start, _) => start,
        }
    }

    /// The slot's name at the Docker Engine.
    pub fn name(&self) -> &str {
        self.slot.name()
    }

    /// Has `files` written to the work directory. Once, before the first stage.
    pub async fn lay_out(&mut self, files: &[LaidOut<'_>]) -> Result<(), ContainerError> {
        self.phase.enter(Phase::Fresh, "files")?;
        let open = Open::Root {
            name: self.place.ground.root.clone(),
            work: self.place.ground.work,
        };
        let patience = self.place.pool.call_timeout();
        orders::offer(&mut self.slot.session, open, files, patience).await?;
        self.phase = Phase::Open;
        Ok(())
    }

    /// Has `archive` unpacked into the work directory.
    pub(in crate::container) async fn unpack(
        &mut self,
        archive: Feed<'_>,
        how: &Unpack,
    ) -> Result<Result<Unpacked, Refused>, ContainerError> {
        self.phase.enter(Phase::Open, "an archive")?;
        let session = &mut self.slot.session;
        let unpacked = self.place.tools.unpack(session, archive, how).await?;
        self.phase = Phase::Open;
        Ok(unpacked)
    }

    /// Reads out the files of the work directory that match.
    pub(in crate::container) async fn collect(
        &mut self,
        what: &Collect,
    ) -> Result<Collected, ContainerError> {
        self.phase.enter(Phase::Open, "files to collect")?;
        let session = &mut self.slot.session;
        let collected = self.place.tools.collect(session, what).await?;
        self.phase = Phase::Open;
        Ok(collected)
    }

    /// Reads out the whole work directory.
    pub(in crate::container) async fn pack(
        &mut self,
        most: &Pack,
    ) -> Result<Result<Packed, Refused>, ContainerError> {
        self.phase.enter(Phase::Open, "a work directory to pack")?;
        let packed = self.place.tools.pack(&mut self.slot.session, most).await?;
        self.phase = Phase::Open;
        Ok(packed)
    }

    /// Runs `stage`, for at most `wall_cap` of wall time, and shows what happens meanwhile to `observe`.
    ///
    /// A future that is dropped leaves a slot that can only be destroyed.
    pub async fn run(
        &mut self,
        stage: &StagePlan,
        stdin: Feed<'_>,
        wall_cap: Duration,
        observe: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<Finished, ContainerError> {
        self.phase.enter(Phase::Open, "a stage")?;
        let wall = stage.limits.wall_time_us.duration().min(wall_cap);
        let may_be_warm = stage.template && self.place.templates;
        let order = orders::stage(stage, wall, may_be_warm);
        let waited = wall.saturating_add(GRACE);
        let finished = timeout(waited, self.slot.session.run(order, stdin, observe))
            .await
            .map_err(|_| ContainerError::AgentOverdue {
                doing: "end the stage",
                waited,
            })??;
        if stage.template {
            let origin = &finished.ended.origin;
            self.templates = self.templates.count(*origin == Origin::Template);
            if let Origin::NoTemplate(why) = origin {
                // It may name paths that the submission chose: escaped, and cut.
                let why: String = why.chars().take(MOST_TOLD).collect();
                tracing::info!(
                    ?why,
                    "a slot has no template of these programs: they start by exec"
                );
            }
        }
        self.phase = Phase::Open;
        Ok(finished)
    }

    /// What the work directory holds now is what every later stage finds. False where there is no room for it.
    pub async fn keep(&mut self) -> Result<bool, ContainerError> {
        self.phase.enter(Phase::Open, "a work directory to keep")?;
        let waited = self.place.pool.call_timeout();
        let kept = timeout(waited, self.slot.session.keep()).await;
        let kept = kept.map_err(|_| ContainerError::AgentOverdue {
            doing: "keep the work directory",
            waited,
        })??;
        self.phase = Phase::Open;
        Ok(kept.is_some())
    }

    /// Ends it, in the background: a slot that is as it was before goes back to the pool, any other is destroyed.
    pub fn end(self) {
        let Self {
            slot, place, phase, ..
        } = self;
        match phase {
            Phase::Fresh | Phase::Open if place.fresh => {
                slot.retire("it was for one submission").destroy();
            }
            Phase::Fresh => place.pool.put_back(slot),
            Phase::Open => place.pool.close_submission(slot),
            Phase::Busy => {
                // It may be the root that is not what it was.
                place.roots.forget(&place.ground.root);
                slot.retire("a submission was not seen to its end")
                    .destroy();
            }
        }
    }
}
