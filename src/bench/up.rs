//! The fleet that is measured: `envicutor up` as a process of its own, so that its CPU time is not ours.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::nats_server;

/// The fleet could not be had.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// It cannot be started, heard or waited for.
    #[error("the fleet to measure cannot be run: {0}")]
    Process(#[from] std::io::Error),
    /// It ended.
    #[error("the fleet to measure ended before it was ready; its log is in {0}")]
    Ended(PathBuf),
}

/// A fleet of one worker. Dropped, it is killed.
pub struct Up {
    child: Child,
    pid: u32,
    service: String,
    /// Open, or it could say nothing more.
    _lines: Lines<BufReader<ChildStdout>>,
}

impl Up {
    /// Starts it with these arguments before `up` and a worker of this id, and waits until it is ready. What it logs goes to
    /// the file `log`: a line for each submission.
    pub async fn start(
        arguments: &[OsString],
        worker_id: &str,
        slots: usize,
        log: &Path,
    ) -> Result<Self, UpError> {
        let ended = || UpError::Ended(log.to_owned());
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .args(["up", "--slots", &slots.to_string()])
            .env("ENVICUTOR__WORKER__ID", worker_id)
            .stdout(Stdio::piped())
            .stderr(File::create(log)?)
            .kill_on_drop(true)
            .spawn()?;
        let (pid, stdout) = child.id().zip(child.stdout.take()).ok_or_else(ended)?;
        let mut lines = BufReader::new(stdout).lines();
        let mut service = None;
        loop {
            let line = lines.next_line().await?.ok_or_else(ended)?;
            match line.split_once(' ') {
                Some(("service", url)) => service = Some(url.to_owned()),
                _ if line == "ready" => break,
                _ => {}
            }
        }
        Ok(Self {
            child,
            pid,
            service: service.ok_or_else(ended)?,
            _lines: lines,
        })
    }

    /// The worker's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where a service connects, password included.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Ends it in good order.
    pub async fn stop(mut self) -> Result<(), UpError> {
        nats_server::signal("TERM", self.pid);
        self.child.wait().await?;
        Ok(())
    }
}
