//! The process that fork and exec are measured in: it changes its root, which this one must not.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::{RAW_COMMAND, raw::RawRun, series::Series};

/// Why fork and exec could not be measured. What went wrong in the process itself it has told on standard error.
#[derive(Debug, thiserror::Error)]
pub enum YardstickError {
    /// The process cannot be started or spoken to.
    #[error("fork and exec could not be measured: {0}")]
    Io(#[from] std::io::Error),
    /// What it is told, or told.
    #[error("fork and exec could not be measured: {0}")]
    Json(#[from] serde_json::Error),
    /// It ended before it had told what was asked for.
    #[error("fork and exec could not be measured: the process for it ended with {0}")]
    Ended(std::process::ExitStatus),
    /// It answered with something else.
    #[error("fork and exec could not be measured: expected a job's nanoseconds, got {0:?}")]
    Answer(String),
}

/// A process that runs a job by fork and exec each time that it is asked. It ends with this value.
pub struct Yardstick {
    process: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Yardstick {
    /// Starts the process, with a `run` whose pace it is to be asked.
    pub async fn start(run: &RawRun) -> Result<Self, YardstickError> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(RAW_COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let piped = process.stdin.take().zip(process.stdout.take());
        let (mut requests, stdout) =
            piped.ok_or(std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        let mut order = serde_json::to_vec(run)?;
        order.push(b'\n');
        requests.write_all(&order).await?;
        Ok(Self {
            process,
            requests,
            answers: BufReader::new(stdout).lines(),
        })
    }

    /// Runs a job; returns how long it took.
    pub async fn job(&mut self) -> Result<Duration, YardstickError> {
        // Where the process has ended, the answer that is missing tells more.
        let _ = self.requests.write_all(b"\n").await;
        let answer = self.answer().await?;
        let nanoseconds = answer.parse();
        nanoseconds.map_or(Err(YardstickError::Answer(answer)), |nanoseconds| {
            Ok(Duration::from_nanos(nanoseconds))
        })
    }

    async fn answer(&mut self) -> Result<String, YardstickError> {
        match self.answers.next_line().await? {
            Some(answer) => Ok(answer),
            None => Err(YardstickError::Ended(self.process.wait().await?)),
        }
    }
}

/// Takes a series, with a `run` whose pace that is.
pub async fn series(run: &RawRun) -> Result<Series, YardstickError> {
    let mut yardstick = Yardstick::start(run).await?;
    let series = yardstick.answer().await?;
    Ok(serde_json::from_str(&series)?)
}
