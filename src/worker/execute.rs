//! The stages of one submission in its container: lay out the files, compile, then each run, compared and judged.
//!
//! Everything that the submission does comes out as a verdict; an error here is ours.

use std::time::{Duration, Instant};

use envicutor_protocol::Exit;

use super::live::Live;
use crate::{
    container::{Container, ContainerError, Finished, Observed, Request},
    submission::{
        budget,
        compare::Compare,
        content::Output,
        event::{Happened, StageName},
        names::Digest,
        plan::{Plan, RunPlan, StagePlan},
        result::{Run, Verdict},
        units::ByteSize,
    },
};

/// What came of a submission's stages.
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) verdict: Verdict,
    pub(crate) compile: Option<Run>,
    pub(crate) runs: Vec<Run>,
}

/// The container that `plan` needs, of the runtime's `image`.
pub(crate) fn request(plan: &Plan, image: &Digest) -> Option<Request> {
    let first = plan.stages().next()?;
    Some(Request {
        image: image.to_string(),
        disk_bytes: plan.disk_bytes(),
        inodes: plan.inodes(),
        limits: first.limits.clone(),
    })
}

/// Runs all of `plan` in `container`.
pub(crate) async fn execute(
    plan: &Plan,
    container: &mut Container,
    live: &Live,
) -> Result<Executed, ContainerError> {
    let deadline = Instant::now() + plan.total_time_us.duration();
    container.lay_out(&plan.files).await?;
    let mut stages = Stages {
        container,
        live,
        deadline,
    };
    let mut compile = match &plan.compile {
        Some(stage) => Some(stages.compile(stage).await?),
        None => None,
    };
    let mut skip = compile
        .as_ref()
        .is_some_and(|compile| compile.verdict != Verdict::Ok);
    if !skip && plan.runs.len() > 1 && !stages.keep(plan).await? {
        // The build left more than can be kept beside it.
        if let Some(compile) = &mut compile {
            compile.verdict = Verdict::MemoryExceeded;
            compile.limits_hit.push("disk_bytes".to_owned());
        }
        skip = true;
    }
    let mut runs = Vec::with_capacity(plan.runs.len());
    for (index, planned) in plan.runs.iter().enumerate() {
        let run = if skip || stages.remaining().is_zero() {
            Run::skipped(planned.name.clone())
        } else {
            stages.run(index, planned, plan.compare).await?
        };
        skip |= plan.stop_on_failure && run.verdict != Verdict::Ok;
        runs.push(run);
        budget::trim(&mut runs);
    }
    Ok(Executed {
        verdict: Verdict::of_submission(compile.as_ref(), &runs),
        compile,
        runs,
    })
}

/// The container with the time that is left in it.
struct Stages<'a> {
    container: &'a mut Container,
    live: &'a Live,
    deadline: Instant,
}

impl Stages<'_> {
    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Has every run find what the build left, and nothing of the runs before it. False where that is too much.
    async fn keep(&mut self, plan: &Plan) -> Result<bool, ContainerError> {
        // Without a build there is nothing but the submission's own files, which fit the container's overhead.
        let room = plan
            .compile
            .as_ref()
            .map_or(ByteSize(0), |_| plan.disk_bytes());
        self.container.keep(room).await
    }

    async fn compile(&mut self, stage: &StagePlan) -> Result<Run, ContainerError> {
        let (finished, cut) = self.stage(StageName::Compile, stage).await?;
        Ok(self.ended(StageName::Compile, report(None, None, finished, stage, cut)))
    }

    async fn run(
        &mut self,
        index: usize,
        planned: &RunPlan,
        compare: Compare,
    ) -> Result<Run, ContainerError> {
        let name = StageName::Run { run: index };
        let (finished, cut) = self.stage(name, &planned.stage).await?;
        let answer = planned
            .expected
            .as_ref()
            .map(|expected| compare.holds(expected, &finished.stdout));
        Ok(self.ended(
            name,
            report(planned.name.clone(), answer, finished, &planned.stage, cut),
        ))
    }

    fn ended(&self, stage: StageName, run: Run) -> Run {
        self.live.tell(Happened::StageEnded {
            stage,
            verdict: run.verdict,
        });
        run
    }

    /// Runs a stage; also tells whether the time left for the whole submission is less than the stage's own wall limit.
    async fn stage(
        &mut self,
        name: StageName,
        stage: &StagePlan,
    ) -> Result<(Finished, bool), ContainerError> {
        let remaining = self.remaining().max(Duration::from_millis(1));
        let live = self.live;
        let mut observe = |observed: Observed<'_>| match observed {
            Observed::Started => live.tell(Happened::StageStarted { stage: name }),
            Observed::Output {
                stream,
                offset_bytes,
                data,
            } => live.output(name, stream, offset_bytes, data),
        };
        let finished = self.container.run(stage, remaining, &mut observe).await?;
        Ok((finished, remaining < stage.limits.wall_time_us.duration()))
    }
}

/// The report of a stage that ran. `cut`: its wall limit was the time left for the whole submission.
fn report(
    name: Option<String>,
    answer: Option<bool>,
    finished: Finished,
    stage: &StagePlan,
    cut: bool,
) -> Run {
    let Finished {
        ended,
        stdout,
        mut stderr,
    } = finished;
    if let Exit::NotExecuted { errno } = ended.exit {
        let program = stage.argv.first().map_or("", String::as_str);
        let why = std::io::Error::from_raw_os_error(errno);
        stderr.extend_from_slice(
            format!("envicutor: {program} cannot be executed: {why}\n").as_bytes(),
        );
    }
    let shown = |data: Vec<u8>| Output {
        size_bytes: ByteSize(data.len() as u64),
        truncated: ended.touched.output && data.len() as u64 >= stage.limits.output_bytes.0,
        data,
        blob: None,
    };
    let mut run = Run::ended(name, &ended, answer, shown(stdout), shown(stderr));
    if cut {
        for limit in run
            .limits_hit
            .iter_mut()
            .filter(|limit| *limit == "wall_time_us")
        {
            "total_time_us".clone_into(limit);
        }
    }
    run
}
