//! The stages of one submission in its sandbox: lay out the files, compile, then each run, compared and judged; then what is to be
//! kept of its work directory is collected.
//!
//! Everything that the submission does comes out as a verdict, what its archive does as a refusal; a [`Fault`] is ours.

use std::time::{Duration, Instant};

use envicutor_protocol::Exit;
use futures_util::future::BoxFuture;

use super::{
    compilations::Compilations,
    compile_cache::{self, Entry},
    live::Live,
    outputs::Outlet,
    stage::{Staged, Unstaged},
    trouble::Trouble,
};
use crate::{
    container::{
        Collect, ContainerError, Faith, Feed, Finished, Format, LaidOut, Observed, Pack, Packed,
        Refused, Request, Sandbox, Spool, Unpack,
    },
    submission::{
        archive::ArchiveFormat,
        collect::{CollectError, Collected},
        compare::Compare,
        event::{Happened, StageName},
        names::{Digest, Tenant},
        plan::{CollectPlan, Plan, PlannedFile, RunPlan, StagePlan},
        result::{Run, Verdict},
        units::ByteSize,
    },
};

/// What came of a submission.
#[derive(Debug)]
pub(crate) enum Came {
    /// Its stages ran.
    Executed(Box<Executed>),
    /// Its archive cannot be unpacked: why.
    Refused(String),
}

/// What came of a submission's stages.
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) verdict: Verdict,
    pub(crate) compile: Option<Run>,
    pub(crate) runs: Vec<Run>,
    pub(crate) collected: Vec<Collected>,
    pub(crate) collect_errors: Vec<CollectError>,
    /// A build that is to be kept.
    pub(crate) built: Option<Built>,
}

/// A build that may stand for later ones.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) run: Run,
    /// The work directory that it left, where it went well.
    pub(crate) packed: Option<Packed>,
}

/// A failure of ours.
pub(crate) enum Fault {
    /// Of the sandbox, the store, this machine.
    Trouble(Trouble),
    /// What an earlier build left cannot be unpacked: it is to be built again.
    Build(Refused),
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<ContainerError> for Fault {
    fn from(error: ContainerError) -> Self {
        Self::Trouble(Trouble::container("run", &error))
    }
}

impl From<Unstaged> for Fault {
    fn from(error: Unstaged) -> Self {
        Self::Trouble(Trouble::bug(&error.to_string()))
    }
}

/// The sandbox that `plan` of `tenant` needs, with the runtime's `image`; `fresh`: that nobody had, nor has after it.
pub(crate) fn request(
    plan: &Plan,
    tenant: &Tenant,
    image: &Digest,
    fresh: bool,
) -> Option<Request> {
    let first = plan.stages().next()?;
    Some(Request {
        tenant: tenant.clone(),
        image: image.to_string(),
        disk_bytes: plan.disk_bytes(),
        inodes: plan.inodes(),
        limits: first.limits.clone(),
        fresh,
    })
}

/// What a submission is run with.
pub(crate) struct Means<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) staged: &'a Staged,
    pub(crate) outlet: Outlet<'a>,
    pub(crate) live: &'a Live,
    /// The most that a build may leave for later ones.
    pub(crate) most_packed: ByteSize,
    pub(crate) compilations: &'a Compilations,
}

impl Means<'_> {
    /// What comes of a build that failed before: no sandbox is needed to say it again.
    pub(crate) fn failed_before(&self) -> Option<Came> {
        let failed = |build: &&Entry| build.run.verdict != Verdict::Ok;
        let build = self.staged.build.as_ref().filter(failed)?;
        let compile = self.built_before(build);
        let names = self.plan.runs.iter().map(|run| run.name.clone());
        let runs: Vec<_> = names.map(Run::skipped).collect();
        Some(Came::executed(Some(compile), runs))
    }

    /// Runs all of the plan in `sandbox`.
    pub(crate) fn execute<'s>(
        &'s self,
        sandbox: &'s mut Sandbox,
    ) -> BoxFuture<'s, Result<Came, Fault>> {
        Box::pin(self.execute_in(sandbox))
    }

    async fn execute_in(&self, sandbox: &mut Sandbox) -> Result<Came, Fault> {
        let begun = self.lay_out(sandbox).await?;
        let mut compile = match begun {
            Ok(compile) => compile,
            Err(refused) => return Ok(Came::Refused(refused.to_string())),
        };
        let is_to_be_compiled = self.plan.compile.is_some() && compile.is_none();
        let turn = if is_to_be_compiled {
            self.compilations.turn().await
        } else {
            None
        };
        let mut stages = Stages {
            sandbox,
            means: self,
            deadline: Instant::now() + self.plan.total_time_us.duration(),
        };
        let mut built = None;
        if let (Some(stage), None) = (&self.plan.compile, &compile) {
            let (run, was_executed) = stages.compile(stage).await?;
            drop(turn);
            built = stages.built(&run, was_executed).await?;
            compile = Some(run);
        }
        let runs = stages.runs(&mut compile).await?;
        let collected = stages.collect(&runs).await?;
        let mut came = Came::executed(compile, runs);
        if let Came::Executed(executed) = &mut came {
            (executed.collected, executed.collect_errors) = collected;
            executed.built = built;
        }
        Ok(came)
    }

    /// Fills the work directory: with what an earlier build left, which is the compile stage then, or with the files and the archive.
    async fn lay_out(&self, sandbox: &mut Sandbox) -> Result<Result<Option<Run>, Refused>, Fault> {
        let plan = self.plan;
        let built = self.staged.build.as_ref();
        if let Some((build, artifact)) = built.and_then(|it| Some((it, it.artifact.as_ref()?))) {
            sandbox.lay_out(&[]).await?;
            let how = self.unpack(Format::Tar, 0, Faith::Packed);
            let artifact = self.staged.blob(artifact)?;
            let unpacked = sandbox.unpack(artifact, &how).await?;
            unpacked.map_err(Fault::Build)?;
            return Ok(Ok(Some(self.built_before(build))));
        }
        let files = plan.files.iter().map(|file| {
            Ok(LaidOut {
                path: &file.path,
                executable: file.executable,
                data: self.staged.feed(&file.data)?,
            })
        });
        let files: Vec<_> = files.collect::<Result<_, Unstaged>>()?;
        sandbox.lay_out(&files).await?;
        let Some(archive) = &plan.archive else {
            return Ok(Ok(None));
        };
        let how = self.unpack(
            format(archive.format),
            archive.strip_components,
            Faith::Plain,
        );
        let packed = self.staged.feed(&archive.source)?;
        let unpacked = sandbox.unpack(packed, &how).await?;
        Ok(unpacked.map(|_| None))
    }

    fn unpack(&self, format: Format, strip_components: u32, faith: Faith) -> Unpack {
        Unpack {
            format,
            strip_components,
            faith,
            entries: self.plan.inodes(),
            bytes: self.plan.disk_bytes(),
        }
    }

    /// The compile stage as an earlier one that stands for it.
    fn built_before(&self, build: &Entry) -> Run {
        let stage = StageName::Compile;
        self.live.tell(Happened::StageStarted { stage });
        let run = Run {
            cached: Some(true),
            ..build.run.clone()
        };
        let verdict = run.verdict;
        self.live.tell(Happened::StageEnded { stage, verdict });
        run
    }
}

impl Came {
    fn executed(compile: Option<Run>, runs: Vec<Run>) -> Self {
        Self::Executed(Box::new(Executed {
            verdict: Verdict::of_submission(compile.as_ref(), &runs),
            compile,
            runs,
            collected: Vec::new(),
            collect_errors: Vec::new(),
            built: None,
        }))
    }
}

/// The sandbox with the time that is left in it.
struct Stages<'a> {
    sandbox: &'a mut Sandbox,
    means: &'a Means<'a>,
    deadline: Instant,
}

impl Stages<'_> {
    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    async fn compile(&mut self, stage: &StagePlan) -> Result<(Run, bool), Fault> {
        let stdin = self.means.staged.feed(&stage.stdin)?;
        let (finished, cut) = self.stage(StageName::Compile, stage, stdin).await?;
        let was_executed = !matches!(finished.ended.exit, Exit::NotExecuted { .. });
        let mut run = self.report(None, None, finished, stage, cut).await?;
        run.cached = Some(false);
        Ok((self.ended(StageName::Compile, run), was_executed))
    }

    /// What is to be kept of a build for later ones, if anything is.
    async fn built(&mut self, run: &Run, was_executed: bool) -> Result<Option<Built>, Fault> {
        let Means {
            plan,
            staged,
            most_packed,
            ..
        } = self.means;
        if staged.key.is_none() || !compile_cache::may_be_kept(run, was_executed) {
            return Ok(None);
        }
        let run = run.clone();
        if run.verdict != Verdict::Ok {
            return Ok(Some(Built { run, packed: None }));
        }
        let own = plan.files.iter().map(|file| file.data.size_bytes().0);
        if own.fold(0, u64::saturating_add) > most_packed.0 {
            return Ok(None);
        }
        let most = Pack {
            entries: plan.inodes(),
            bytes: *most_packed,
        };
        // What is over a bound is built each time.
        let packed = self.sandbox.pack(&most).await?.ok();
        Ok(packed.map(|packed| Built {
            run,
            packed: Some(packed),
        }))
    }

    /// The runs, each of which finds what the build left.
    async fn runs(&mut self, compile: &mut Option<Run>) -> Result<Vec<Run>, Fault> {
        let plan = self.means.plan;
        let failed = |compile: &Run| compile.verdict != Verdict::Ok;
        let mut skip = compile.as_ref().is_some_and(failed);
        if !skip && plan.runs.len() > 1 && !self.sandbox.keep(plan.kept_bytes()).await? {
            // The build left more than can be kept beside it.
            if let Some(compile) = compile {
                compile.verdict = Verdict::MemoryExceeded;
                compile.limits_hit.push("disk_bytes".to_owned());
            }
            skip = true;
        }
        let mut runs = Vec::with_capacity(plan.runs.len());
        for (index, planned) in plan.runs.iter().enumerate() {
            let run = if skip || self.remaining().is_zero() {
                Run::skipped(planned.name.clone())
            } else {
                self.run(index, planned, plan.compare).await?
            };
            skip |= plan.stop_on_failure && run.verdict != Verdict::Ok;
            runs.push(run);
            self.means.outlet.trim(&mut runs).await?;
        }
        Ok(runs)
    }

    async fn run(
        &mut self,
        index: usize,
        planned: &RunPlan,
        compare: Compare,
    ) -> Result<Run, Fault> {
        let name = StageName::Run { run: index };
        let stdin = self.means.staged.feed(&planned.stage.stdin)?;
        let (finished, cut) = self.stage(name, &planned.stage, stdin).await?;
        let answer = match &planned.expected {
            Some(expected) => {
                let expected = self.means.staged.feed(expected)?;
                let holds = finished.stdout.holds(compare, expected).await;
                Some(holds.map_err(|source| ContainerError::Spool { source })?)
            }
            None => None,
        };
        let test = planned.name.clone();
        let run = self.report(test, answer, finished, &planned.stage, cut);
        let run = run.await?;
        Ok(self.ended(name, run))
    }

    fn ended(&self, stage: StageName, run: Run) -> Run {
        let verdict = run.verdict;
        self.means
            .live
            .tell(Happened::StageEnded { stage, verdict });
        run
    }

    /// Runs a stage; also tells whether the time left for the whole submission is less than the stage's own wall limit.
    async fn stage(
        &mut self,
        name: StageName,
        stage: &StagePlan,
        stdin: Feed<'_>,
    ) -> Result<(Finished, bool), Fault> {
        let remaining = self.remaining().max(Duration::from_millis(1));
        let live = self.means.live;
        let mut observe = |observed: Observed<'_>| match observed {
            Observed::Started => live.tell(Happened::StageStarted { stage: name }),
            Observed::Output {
                stream,
                offset_bytes,
                data,
            } => live.output(name, stream, offset_bytes, data),
        };
        let ran = self.sandbox.run(stage, stdin, remaining, &mut observe);
        let finished = ran.await?;
        Ok((finished, remaining < stage.limits.wall_time_us.duration()))
    }

    /// The report of a stage that ran. `cut`: its wall limit was the time left for the whole submission.
    async fn report(
        &self,
        name: Option<String>,
        answer: Option<bool>,
        finished: Finished,
        stage: &StagePlan,
        cut: bool,
    ) -> Result<Run, Fault> {
        let Finished {
            ended,
            stdout,
            mut stderr,
        } = finished;
        if let Exit::NotExecuted { errno } = ended.exit {
            let program = stage.argv.first().map_or("", String::as_str);
            let why = std::io::Error::from_raw_os_error(errno);
            let line = format!("envicutor: {program} cannot be executed: {why}\n");
            let pushed = stderr.push(line.as_bytes()).await;
            pushed.map_err(|source| ContainerError::Spool { source })?;
        }
        let output_bytes = stage.limits.output_bytes.0;
        let more = |spool: &Spool| ended.touched.output && spool.len() >= output_bytes;
        let outlet = self.means.outlet;
        let (more_stdout, more_stderr) = (more(&stdout), more(&stderr));
        let stdout = outlet.show(&stdout, more_stdout).await?;
        let stderr = outlet.show(&stderr, more_stderr).await?;
        let mut run = Run::ended(name, &ended, answer, stdout, stderr);
        if cut {
            for limit in run
                .limits_hit
                .iter_mut()
                .filter(|limit| *limit == "wall_time_us")
            {
                "total_time_us".clone_into(limit);
            }
        }
        Ok(run)
    }

    /// What is kept of the work directory, as the last run left it.
    async fn collect(
        &mut self,
        runs: &[Run],
    ) -> Result<(Vec<Collected>, Vec<CollectError>), Fault> {
        let none_ran = runs.iter().all(|run| run.verdict == Verdict::Skipped);
        let Some(wanted) = self.means.plan.collect.as_ref().filter(|_| !none_ran) else {
            return Ok((Vec::new(), Vec::new()));
        };
        let CollectPlan {
            patterns,
            max_files,
            max_bytes,
        } = wanted;
        let what = Collect {
            patterns: patterns.clone(),
            max_files: *max_files,
            max_bytes: *max_bytes,
            entries: self.means.plan.inodes(),
        };
        let collected = self.sandbox.collect(&what).await?;
        let stored = self.means.outlet.collect(&collected);
        Ok(stored.await?)
    }
}

fn format(format: ArchiveFormat) -> Format {
    match format {
        ArchiveFormat::Tar => Format::Tar,
        ArchiveFormat::TarGz => Format::TarGz,
        ArchiveFormat::TarZst => Format::TarZst,
        ArchiveFormat::Zip => Format::Zip,
    }
}

/// What is laid out of `files` that are in the plan itself.
pub(crate) fn laid_out(files: &[PlannedFile]) -> Vec<LaidOut<'_>> {
    let laid_out = files.iter().filter_map(|file| {
        Some(LaidOut {
            path: &file.path,
            executable: file.executable,
            data: Feed::Slice(file.data.inline()?),
        })
    });
    laid_out.collect()
}
