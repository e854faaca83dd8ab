//! A Docker Engine of a test's own, which can be restarted, stopped and filled up. In a network namespace of its own: beside another
//! one, an Engine without a bridge would delete that one's.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{
    container_bed,
    fleet::{self, eventually, slowly},
    site::{LONG, Site, micros, worker::Builder},
};

/// How long a worker waits for a call of this Engine.
const CALL: Duration = Duration::from_secs(3);

/// A running Engine with the tests' image.
pub struct Engine {
    daemon: Option<Child>,
    directory: tempfile::TempDir,
    /// What is mounted, to be unmounted.
    mount: Option<PathBuf>,
}

impl Engine {
    pub async fn start() -> Self {
        Self::start_on(None).await
    }

    /// The same with its data on a file system in memory of so many MiB.
    pub async fn start_small(mebibytes: u32) -> Self {
        Self::start_on(Some(mebibytes)).await
    }

    async fn start_on(mebibytes: Option<u32>) -> Self {
        let directory = tempfile::Builder::new().prefix("engine-").tempdir();
        let directory = directory.expect("a temporary directory");
        let mut engine = Self {
            daemon: None,
            directory,
            mount: None,
        };
        std::fs::create_dir(engine.data()).expect("made");
        if let Some(mebibytes) = mebibytes {
            mount_small(&engine.data(), mebibytes, None).await;
            engine.mount = Some(engine.data());
        }
        let config = json!({
            "data-root": engine.data(),
            "exec-root": engine.path("run"),
            "pidfile": engine.path("pid"),
            "hosts": [engine.host()],
            "bridge": "none",
            "iptables": false,
        });
        std::fs::write(engine.path("daemon.json"), config.to_string()).expect("written");
        engine.up().await;
        let host = engine.host();
        let docker = envicutor::docker::connect(Some(&host), micros(slowly(LONG)));
        let docker = docker.await.expect("it answers");
        container_bed::image(&docker, container_bed::IMAGE, &[]).await;
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Starts the daemon, and waits until it answers.
    pub async fn up(&mut self) {
        let log = std::fs::File::create(self.path("log")).expect("its log can be made");
        let daemon = Command::new("unshare")
            .args(["--net", "dockerd", "--config-file"])
            .arg(self.path("daemon.json"))
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.daemon = Some(daemon.expect("dockerd starts"));
        eventually("the Engine answers", LONG, || async {
            let version = self.command(&["version"]).output().await;
            version.expect("docker runs").status.success()
        })
        .await;
    }

    /// Ends the daemon, and with it every container.
    pub async fn down(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        fleet::signal(&daemon, "TERM").await;
        let ended = timeout(slowly(LONG), daemon.wait()).await;
        ended.expect("it ends in time").expect("waited");
    }

    /// Stops the daemon (SIGSTOP), or lets it go on (SIGCONT).
    pub async fn signal(&self, name: &str) {
        fleet::signal(self.daemon.as_ref().expect("it runs"), name).await;
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(arguments);
        command
    }

    /// A worker of this Engine.
    pub fn worker(&self, site: &Site, name: &str) -> Builder {
        site.worker(name)
            .env("CONTAINER__DOCKER_HOST", self.host())
            .env("CONTAINER__CALL_TIMEOUT_US", slowly(CALL).as_micros())
            .env("CONTAINER__START_TIMEOUT_US", slowly(LONG).as_micros())
    }

    /// Deletes a volume, and every container that is in its way.
    pub async fn delete_volume(&self, volume: &str) {
        eventually("the volume is deleted", LONG, || async {
            let listed = self.command(&["ps", "--all", "--quiet"]).output().await;
            let listed = listed.expect("docker runs").stdout;
            for container in String::from_utf8_lossy(&listed).lines() {
                let removed = self.command(&["rm", "--force", container]).output();
                removed.await.expect("docker runs");
            }
            let removed = self.command(&["volume", "rm", volume]).output().await;
            removed.expect("docker runs").status.success()
        })
        .await;
    }

    /// Holds that no container is left, and ends the daemon.
    pub async fn end(mut self) {
        eventually("the Engine has no container", LONG, || async {
            let listed = self.command(&["ps", "--all", "--quiet"]).output().await;
            let listed = listed.expect("docker runs");
            assert!(listed.status.success(), "docker ps failed");
            listed.stdout.is_empty()
        })
        .await;
        self.down().await;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let pid = daemon.id().map(|pid| pid.to_string()).unwrap_or_default();
            for signal in ["CONT", "TERM"] {
                let _ = std::process::Command::new("kill")
                    .args(["-s", signal, &pid])
                    .status();
            }
            // Its containerd ends with it, if it is let end.
            for _ in 0..100 {
                if !matches!(daemon.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        if let Some(mount) = &self.mount {
            let _ = std::process::Command::new("umount").arg(mount).status();
        }
    }
}

/// Mounts a file system in memory of so many MiB, and so many files.
pub async fn mount_small(path: &Path, mebibytes: u32, files: Option<u32>) {
    let files = files.map_or_else(String::new, |files| format!(",nr_inodes={files}"));
    let options = format!("size={mebibytes}m{files}");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
        .arg(path)
        .status()
        .await
        .expect("mount runs");
    assert!(
        mounted.success(),
        "a small file system cannot be mounted: these tests need root"
    );
}
