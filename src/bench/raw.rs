//! The yardstick: fork and exec of a root file system's interpreter, with nothing around it.
//!
//! It runs in a process of its own (a hidden command of the program), which changes its root once and then starts the job
//! again and again: what is measured is the start, the run and the end of the job alone.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::Measured;

/// What a raw run does; it travels to the process as JSON on its standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RawRun {
    /// The root file system.
    pub root: PathBuf,
    /// The work directory in it.
    pub work_dir: PathBuf,
    /// The job's argument vector.
    pub argv: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its standard input.
    pub stdin: String,
    /// What it must print.
    pub expected: String,
    /// How often.
    pub jobs: usize,
    /// How many at a time.
    pub at_a_time: usize,
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
    /// A job.
    #[error("the job {program} failed: {problem}")]
    Job {
        /// What was started.
        program: String,
        /// What went wrong.
        problem: String,
    },
}

/// Changes the root and runs the jobs. The process is good for nothing else afterwards.
pub fn run(raw: &RawRun) -> Result<Measured, RawError> {
    let chroot = |root: &Path| {
        std::os::unix::fs::chroot(root).and_then(|()| std::env::set_current_dir(&raw.work_dir))
    };
    chroot(&raw.root).map_err(|source| RawError::Chroot {
        root: raw.root.clone(),
        source,
    })?;
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let times = std::thread::scope(|scope| {
        let take = || take_jobs(raw, &next);
        let threads: Vec<_> = (0..raw.at_a_time).map(|_| scope.spawn(take)).collect();
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    Ok(Measured::new(
        began.elapsed(),
        times.into_iter().flatten().collect(),
    ))
}

/// Runs jobs until all are taken.
fn take_jobs(raw: &RawRun, next: &AtomicUsize) -> Result<Vec<Duration>, RawError> {
    let mut times = Vec::new();
    while next.fetch_add(1, Ordering::Relaxed) < raw.jobs {
        let began = Instant::now();
        job(raw).map_err(|problem| RawError::Job {
            program: raw.argv[0].clone(),
            problem,
        })?;
        times.push(began.elapsed());
    }
    Ok(times)
}

fn job(raw: &RawRun) -> Result<(), String> {
    let mut child = Command::new(&raw.argv[0])
        .args(&raw.argv[1..])
        .env_clear()
        .envs(raw.env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut printed = String::new();
    let spoken = (|| {
        stdin.map_or(Ok(()), |mut stdin| stdin.write_all(raw.stdin.as_bytes()))?;
        stdout.map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut printed))
    })();
    let status = child.wait().map_err(|error| error.to_string())?;
    spoken.map_err(|error| error.to_string())?;
    if status.success() && printed == raw.expected {
        Ok(())
    } else {
        Err(format!("{status}, it printed {printed:?}"))
    }
}
