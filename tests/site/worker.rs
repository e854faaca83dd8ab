//! A worker of a test: the real program, with a log of its own.

use std::{
    fmt::Display,
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::LONG;
use crate::fleet::{self, eventually, slowly};

/// A worker that is to be started.
pub struct Builder {
    id: String,
    command: Command,
    log: PathBuf,
}

/// A worker that was started. Dropped, it is killed.
pub struct Worker {
    pub id: String,
    child: Child,
    log: PathBuf,
}

impl Builder {
    pub fn new(id: String, data_dir: &Path) -> Self {
        let log = data_dir.join(format!("{id}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_envicutor-worker"));
        command
            .env("ENVICUTOR__DATA_DIR", data_dir)
            .env("ENVICUTOR__WORKER__ID", &id)
            .env("RUST_LOG", "envicutor=debug")
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .kill_on_drop(true);
        Self { id, command, log }
    }

    /// A key of the configuration, as the environment names it, without the prefix.
    pub fn env(mut self, key: &str, value: impl Display) -> Self {
        self.command
            .env(format!("ENVICUTOR__{key}"), value.to_string());
        self
    }

    /// Where it stops: see `src/fail_point.rs`.
    pub fn fail_point(mut self, plan: &str) -> Self {
        self.command.env("ENVICUTOR_FAIL_POINT", plan);
        self
    }

    /// A variable that is not its configuration.
    pub fn variable(mut self, name: &str, value: impl Display) -> Self {
        self.command.env(name, value.to_string());
        self
    }

    /// Starts it, and waits until it takes work.
    pub async fn start(self) -> Worker {
        let mut worker = self.spawn();
        worker.await_log("the worker is ready").await;
        worker
    }

    /// Starts it: what it does not live to be ready for.
    pub fn spawn(mut self) -> Worker {
        let log = File::create(&self.log).expect("its log can be made");
        let child = self.command.stderr(log).spawn();
        Worker {
            id: self.id,
            child: child.expect("envicutor-worker starts"),
            log: self.log,
        }
    }
}

impl Worker {
    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log says `what`.
    pub async fn await_log(&mut self, what: &str) {
        let said = timeout(slowly(LONG), async {
            while !self.log().contains(what) {
                let ended = self.child.try_wait().expect("it can be waited for");
                assert!(ended.is_none(), "it ended: {}", self.log());
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        assert!(said.await.is_ok(), "it never said {what:?}: {}", self.log());
    }

    /// Sends it a signal.
    pub async fn signal(&self, name: &str) {
        fleet::signal(&self.child, name).await;
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("SIGKILL is sent");
    }

    /// Waits until it dies by itself.
    pub async fn dies(mut self) {
        let status = self.ended().await;
        assert!(!status.success(), "it ended well: {}", self.log());
    }

    /// Waits until it has stopped itself: nothing of it goes on before it gets SIGCONT.
    pub async fn stops(&self) {
        let pid = self.child.id().expect("it runs");
        eventually("the worker has stopped", LONG, || async {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
            let after = stat.rsplit_once(')').expect("a command in parentheses").1;
            after.trim_start().starts_with('T')
        })
        .await;
    }

    /// Lets it finish what it runs, and checks that it ends well.
    pub async fn drain(mut self) {
        self.signal("TERM").await;
        let status = self.ended().await;
        assert!(status.success(), "it ended with {status}: {}", self.log());
    }

    /// Waits until it ends by itself, well.
    pub async fn ends(mut self) {
        let status = self.ended().await;
        assert!(status.success(), "it ended with {status}: {}", self.log());
    }

    async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(slowly(LONG), self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| {
            panic!(
                "it does not end: {}",
                std::fs::read_to_string(&self.log).unwrap_or_default()
            )
        });
        ended.expect("it can be waited for")
    }

    /// The containers that it runs now.
    pub async fn containers(&self) -> Vec<String> {
        fleet::containers_of(&self.id).await
    }
}
