//! The yardstick: fork and exec in a root file system, with nothing around it.
//!
//! It runs in a process of its own (a hidden command of the program), which changes its root once and then starts the job
//! again and again, in a series or each time that it is asked: what is measured is the start, the run and the end of the job
//! alone. It has its commands, environment and input from the plan that a worker would make of the same submission, and is as
//! fast as the standard library can be (vfork).

use std::{
    io::{BufRead, Read as _, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use envicutor_protocol::WORK_DIR;
use serde::{Deserialize, Serialize};

use super::series::{Length, Series};
use crate::submission::plan::{Plan, Source, StagePlan};

/// What a raw run does; it travels to the process as JSON in the first line of its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RawRun {
    root: PathBuf,
    files: Vec<(String, Vec<u8>)>,
    /// What a job consists of, one after the other.
    steps: Vec<Step>,
    /// What the last step must print.
    expected: Vec<u8>,
    pace: Pace,
}

/// When jobs begin.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Pace {
    /// One after the other, with some of them under way. What was measured is printed as a [`Series`].
    Series {
        /// When it ends.
        length: Length,
        /// Jobs under way.
        at_a_time: usize,
    },
    /// One for each further line of standard input, answered with a line that has the time it took, in nanoseconds.
    Asked,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    stdin: Vec<u8>,
}

/// Why the yardstick could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// The change of root.
    #[error(
        "the root cannot be changed to {root}: {source}. `envicutor bench` compares with chroot and needs root's rights"
    )]
    Chroot {
        /// Where to.
        root: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A work directory.
    #[error("the work directory {dir} cannot be made: {source}")]
    WorkDir {
        /// Which.
        dir: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A job.
    #[error("the job {program} failed: {problem}")]
    Job {
        /// What was started.
        program: String,
        /// What went wrong.
        problem: String,
    },
    /// What was measured cannot be told.
    #[error("what was measured cannot be told: {0}")]
    Tell(#[from] std::io::Error),
}

impl RawRun {
    /// The stages of `plan` in `root`.
    pub fn of(plan: &Plan, root: &Path, pace: Pace) -> Self {
        let files = plan.files.iter();
        let inline = |source: &Source| source.inline().unwrap_or_default().to_vec();
        let expected = plan.runs.last().and_then(|run| run.expected.as_ref());
        Self {
            root: root.to_owned(),
            files: files
                .map(|file| (file.path.clone(), inline(&file.data)))
                .collect(),
            steps: plan.stages().map(Step::of).collect(),
            expected: expected.map(inline).unwrap_or_default(),
            pace,
        }
    }

    /// Changes the root, runs the jobs and tells what was measured. The process is good for nothing else afterwards.
    pub fn run(&self, requests: impl BufRead, mut told: impl Write) -> Result<(), RawError> {
        let changed = std::os::unix::fs::chroot(&self.root);
        let changed = changed.and_then(|()| std::env::set_current_dir(WORK_DIR));
        changed.map_err(|source| RawError::Chroot {
            root: self.root.clone(),
            source,
        })?;
        match self.pace {
            Pace::Series { length, at_a_time } => {
                let series = self.series(length, at_a_time)?;
                let series = serde_json::to_string(&series).map_err(std::io::Error::from)?;
                writeln!(told, "{series}")?;
            }
            Pace::Asked => {
                let dir = self.work_dir(0)?;
                for request in requests.lines() {
                    request?;
                    writeln!(told, "{}", self.job(&dir)?.as_nanos())?;
                    told.flush()?;
                }
            }
        }
        Ok(())
    }

    fn series(&self, length: Length, at_a_time: usize) -> Result<Series, RawError> {
        let dirs: Vec<_> = (0..at_a_time)
            .map(|place| self.work_dir(place))
            .collect::<Result<_, _>>()?;
        let taken = AtomicUsize::new(0);
        let began = Instant::now();
        let times = std::thread::scope(|scope| {
            let threads: Vec<_> = dirs
                .iter()
                .map(|dir| {
                    scope.spawn(|| {
                        let goes_on =
                            || length.goes_on(began, taken.fetch_add(1, Ordering::Relaxed));
                        self.take_jobs(dir, goes_on)
                    })
                })
                .collect();
            let joined = threads.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect::<Result<Vec<_>, _>>()
        })?;
        Ok(Series {
            elapsed: began.elapsed(),
            times: times.into_iter().flatten().collect(),
        })
    }

    /// A directory for the jobs of one thread, with the files.
    fn work_dir(&self, place: usize) -> Result<PathBuf, RawError> {
        let dir = Path::new(WORK_DIR).join(place.to_string());
        let lay_out = || {
            std::fs::create_dir_all(&dir)?;
            self.files
                .iter()
                .try_for_each(|(path, data)| std::fs::write(dir.join(path), data))
        };
        match lay_out() {
            Ok(()) => Ok(dir),
            Err(source) => Err(RawError::WorkDir { dir, source }),
        }
    }

    /// Runs jobs for as long as it `goes_on`.
    fn take_jobs(&self, dir: &Path, goes_on: impl Fn() -> bool) -> Result<Vec<Duration>, RawError> {
        std::iter::from_fn(|| goes_on().then(|| self.job(dir))).collect()
    }

    /// Runs a job; returns how long it took.
    fn job(&self, dir: &Path) -> Result<Duration, RawError> {
        let failed = |step: &Step, problem| RawError::Job {
            program: step.argv[0].clone(),
            problem,
        };
        let started = Instant::now();
        for (number, step) in self.steps.iter().enumerate() {
            let printed = step.run(dir).map_err(|problem| failed(step, problem))?;
            if number + 1 == self.steps.len() && printed != self.expected {
                let printed = String::from_utf8_lossy(&printed);
                return Err(failed(step, format!("it printed {printed:?}")));
            }
        }
        Ok(started.elapsed())
    }
}

impl Step {
    fn of(stage: &StagePlan) -> Self {
        Self {
            argv: stage.argv.clone(),
            env: stage.env.as_ref().clone().into_iter().collect(),
            stdin: stage.stdin.inline().unwrap_or_default().to_vec(),
        }
    }

    /// Runs it to its end; returns what it printed.
    fn run(&self, dir: &Path) -> Result<Vec<u8>, String> {
        let mut child = Command::new(&self.argv[0])
            .args(&self.argv[1..])
            .env_clear()
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut printed = Vec::new();
        let spoken = (|| {
            stdin.map_or(Ok(()), |mut stdin| stdin.write_all(&self.stdin))?;
            stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut printed))
        })();
        let status = child.wait().map_err(|error| error.to_string())?;
        spoken.map_err(|error| error.to_string())?;
        if status.success() {
            Ok(printed)
        } else {
            Err(status.to_string())
        }
    }
}
