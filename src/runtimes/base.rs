//! The base image under every runtime: the configured one where Docker has it or a registry gives it, else one that is
//! bootstrapped from Debian's packages. Once there is one, no registry is asked again.

use std::{path::Path, process::Stdio, time::Duration};

use bollard::{
    Docker, body_try_stream,
    query_parameters::{CreateImageOptions, CreateImageOptionsBuilder},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

use super::{
    error::{RuntimeError, engine, is_missing},
    lock::Lock,
    progress::{Listener, Log},
};
use crate::config;

/// What bootstraps the root file system.
const BOOTSTRAP: &str = include_str!("bootstrap.sh");
/// The repository of bootstrapped bases; the tag is the suite.
const REPOSITORY: &str = "envicutor-base";
/// How long a registry may take to answer at all, before the base is bootstrapped instead.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(20);
/// How much of an archive is sent at a time.
const CHUNK: usize = 256 << 10;

/// Where the base image comes from.
#[derive(Debug, Clone)]
pub(super) struct Base {
    image: String,
    /// What is bootstrapped where the image cannot be had; of another image than the configured one nothing is.
    suite: Option<String>,
    timeout: Duration,
}

impl Base {
    pub(super) fn new(config: &config::Runtimes) -> Self {
        Self {
            image: config.base_image.clone(),
            suite: Some(config.suite.clone()),
            timeout: config.prepare_timeout_us.duration(),
        }
    }

    /// The image that a definition names instead.
    pub(super) fn other(&self, image: &str) -> Self {
        Self {
            image: image.to_owned(),
            suite: None,
            timeout: self.timeout,
        }
    }

    /// What names it in a digest, whether it was pulled or bootstrapped.
    pub(super) fn spec(&self) -> String {
        match &self.suite {
            Some(suite) => format!("{} {suite}", self.image),
            None => self.image.clone(),
        }
    }

    /// The id of the base image that is there.
    pub(super) async fn find(&self, docker: &Docker) -> Result<Option<String>, RuntimeError> {
        for name in std::iter::once(self.image.clone()).chain(self.suite.as_deref().map(tag)) {
            if let Some(id) = image_id(docker, &name).await? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The id of the base image, which is made when it is not there.
    pub(super) async fn prepare(
        &self,
        docker: &Docker,
        work_dir: &Path,
        listener: Listener<'_>,
    ) -> Result<String, RuntimeError> {
        if let Some(id) = self.find(docker).await? {
            return Ok(id);
        }
        let mut log = Log::new(listener);
        let lock = Lock::take(work_dir, "base image", self.timeout, &mut log).await?;
        if let Some(id) = self.find(docker).await? {
            return Ok(id);
        }
        let docker = docker.clone().with_timeout(self.timeout);
        let made = tokio::time::timeout(self.timeout, async {
            self.pull(&docker, &mut log).await;
            match image_id(&docker, &self.image).await? {
                Some(id) => Ok(id),
                None => match &self.suite {
                    Some(suite) => {
                        self.bootstrap(&docker, suite, work_dir, &lock, &mut log)
                            .await
                    }
                    None => Err(RuntimeError::Image {
                        image: self.image.clone(),
                        problem: "the Docker Engine does not have it, and no registry gives it"
                            .to_owned(),
                    }),
                },
            }
        });
        let made = made.await;
        made.unwrap_or_else(|_| {
            Err(RuntimeError::Timeout {
                what: "the base image".to_owned(),
                after: self.timeout,
                log: log.tail(),
            })
        })
    }

    /// Pulls the configured image. That it cannot be pulled is told, and no error: the next way is tried.
    async fn pull(&self, docker: &Docker, log: &mut Log<'_>) {
        log.step(format!("base image: pulling {}", self.image));
        let (name, tag) = match self.image.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') && !name.contains('@') => (name, Some(tag)),
            _ => (self.image.as_str(), None),
        };
        let options = CreateImageOptions {
            from_image: Some(name.to_owned()),
            // Without a tag the Engine would pull every one; a digest stands in the name.
            tag: tag
                .or((!name.contains('@')).then_some("latest"))
                .map(str::to_owned),
            ..CreateImageOptions::default()
        };
        let mut answers = std::pin::pin!(docker.create_image(Some(options), None, None));
        let mut limit = REGISTRY_TIMEOUT;
        loop {
            match tokio::time::timeout(limit, answers.next()).await {
                Ok(Some(Ok(answer))) => log.line(&answer.status.unwrap_or_default()),
                Ok(Some(Err(error))) => {
                    log.step(format!("base image: it cannot be pulled ({error})"));
                    return;
                }
                Ok(None) => return,
                Err(_) => {
                    log.step("base image: no registry answers");
                    return;
                }
            }
            // The registry is there; from here on the whole preparation's timeout bounds the pull.
            limit = self.timeout;
        }
    }

    /// Makes the image from Debian's packages and imports it.
    async fn bootstrap(
        &self,
        docker: &Docker,
        suite: &str,
        work_dir: &Path,
        lock: &Lock,
        log: &mut Log<'_>,
    ) -> Result<String, RuntimeError> {
        log.step(format!(
            "base image: bootstrapping Debian {suite} from this machine's apt sources"
        ));
        let scratch = Scratch::make(work_dir)?;
        let imported = async {
            self.debootstrap(&scratch, suite, lock, log).await?;
            // A process with another working directory may have been faster.
            if self.find(docker).await?.is_some() {
                return Ok(());
            }
            log.step("base image: importing");
            self.import(docker, suite, &scratch).await
        };
        let imported = imported.await;
        scratch.remove().await;
        imported?;
        match self.find(docker).await? {
            Some(id) => {
                log.step("base image: ready");
                Ok(id)
            }
            None => Err(self.failure("it vanished right after its import", log)),
        }
    }

    async fn debootstrap(
        &self,
        scratch: &Scratch,
        suite: &str,
        lock: &Lock,
        log: &mut Log<'_>,
    ) -> Result<(), RuntimeError> {
        let script = scratch.write("bootstrap.sh", BOOTSTRAP)?;
        let child = Command::new("bash")
            .arg(&script)
            .env("SUITE", suite)
            .env("WORK", scratch.path())
            // The child holds the lock too: a killed worker's successor waits until these processes are gone.
            .stdin(Stdio::from(lock.shared()?))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|error| self.failure(&format!("bash: {error}"), log))?;
        let mut stage = "";
        let mut problem = None;
        let mut lines = child
            .stdout
            .take()
            .map(|out| BufReader::new(out).split(b'\n'));
        while let Some(lines) = &mut lines {
            let Ok(Some(line)) = lines.next_segment().await else {
                break;
            };
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(step) = line.strip_prefix("step: ") {
                log.step(step);
            } else if let Some(error) = line.strip_prefix("error: ") {
                problem = Some(error.to_owned());
            } else {
                if let Some(next) = stage_of(&line).filter(|next| *next != stage) {
                    stage = next;
                    log.step(format!("base image: {stage}"));
                }
                log.line(&line);
            }
        }
        let status = child.wait().await;
        if status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            return Ok(());
        }
        let ended = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Err(self.failure(&problem.unwrap_or(ended), log))
    }

    /// Streams the root file system into an image with the suite's tag. An archive that breaks off makes no image.
    async fn import(
        &self,
        docker: &Docker,
        suite: &str,
        scratch: &Scratch,
    ) -> Result<(), RuntimeError> {
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(REPOSITORY)
            .tag(suite)
            .changes(vec![format!("LABEL envicutor.suite={suite}")])
            .build();
        let tar = Command::new("tar")
            .args(["--create", "--numeric-owner", "--sort=name", "--directory"])
            .arg(scratch.path().join("root"))
            .args([
                "--exclude=./dev/*",
                "--exclude=./proc/*",
                "--exclude=./sys/*",
                ".",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| RuntimeError::WorkDir {
                path: scratch.path().to_owned(),
                source,
            })?;
        let body = body_try_stream(archive(tar));
        let mut answers = std::pin::pin!(docker.create_image(Some(options), Some(body), None));
        while let Some(answer) = answers.next().await {
            answer.map_err(engine("import the base image"))?;
        }
        Ok(())
    }

    fn failure(&self, problem: &str, log: &Log<'_>) -> RuntimeError {
        RuntimeError::Base {
            image: self.image.clone(),
            problem: problem.to_owned(),
            log: log.tail(),
        }
    }
}

/// The name of the bootstrapped base of a suite.
fn tag(suite: &str) -> String {
    format!("{REPOSITORY}:{suite}")
}

/// The id of the image with this name, where there is one.
async fn image_id(docker: &Docker, name: &str) -> Result<Option<String>, RuntimeError> {
    match docker.inspect_image(name).await {
        Ok(image) => Ok(image.id),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(engine("look for the base image")(error)),
    }
}

/// What `tar` writes, and an error at its end where it failed.
fn archive(tar: Child) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    stream::try_unfold(tar, |mut tar| async {
        let mut chunk = Vec::with_capacity(CHUNK);
        if let Some(out) = &mut tar.stdout {
            out.read_buf(&mut chunk).await?;
        }
        if !chunk.is_empty() {
            return Ok(Some((Bytes::from(chunk), tar)));
        }
        let status = tar.wait().await?;
        if status.success() {
            Ok(None)
        } else {
            Err(std::io::Error::other(format!("tar ended with {status}")))
        }
    })
}

/// The part of debootstrap's work that a line of its log belongs to.
fn stage_of(line: &str) -> Option<&'static str> {
    let words = line.strip_prefix("I: ")?;
    match words.split_whitespace().next()? {
        "Retrieving" => Some("fetching packages"),
        "Extracting" => Some("unpacking the core"),
        "Unpacking" | "Configuring" => Some("installing packages"),
        _ => None,
    }
}

/// The directory that a bootstrap works in. One at a time, under the lock: what an earlier one left goes first.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn make(work_dir: &Path) -> Result<Self, RuntimeError> {
        let path = work_dir.join("bootstrap");
        let failed = |source| RuntimeError::WorkDir {
            path: path.clone(),
            source,
        };
        remove_tree(&path).map_err(failed)?;
        std::fs::create_dir_all(&path).map_err(failed)?;
        Ok(Self(path.canonicalize().map_err(failed)?))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn write(&self, name: &str, text: &str) -> Result<std::path::PathBuf, RuntimeError> {
        let path = self.0.join(name);
        std::fs::write(&path, text).map_err(|source| RuntimeError::WorkDir {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    /// Removes it without holding up the other tasks.
    async fn remove(self) {
        // A task that cannot be joined has panicked; there is nothing to undo then.
        let _ = tokio::task::spawn_blocking(|| drop(self)).await;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The processes of a bootstrap that was given up are being killed while this runs.
        for _ in 0..50 {
            if remove_tree(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        tracing::warn!(
            "{} could not be removed; the next bootstrap tries again",
            self.0.display()
        );
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debootstrap_goes_through_three_stages() {
        assert_eq!(
            stage_of("I: Retrieving libc6 2.36-9"),
            Some("fetching packages")
        );
        assert_eq!(
            stage_of("I: Extracting libc6..."),
            Some("unpacking the core")
        );
        assert_eq!(
            stage_of("I: Configuring apt..."),
            Some("installing packages")
        );
        assert_eq!(stage_of("I: Base system installed successfully."), None);
        assert_eq!(stage_of("Get:1 something"), None);
    }

    /// The processes of this machine that were started with `text` in their command or environment.
    fn processes_with(text: &str) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").expect("there");
        let paths = processes.flatten().map(|entry| entry.path());
        paths
            .filter(|path| {
                let holds = |file| {
                    let bytes = std::fs::read(path.join(file)).unwrap_or_default();
                    String::from_utf8_lossy(&bytes).contains(text)
                };
                holds("cmdline") || holds("environ")
            })
            .map(|path| path.display().to_string())
            .collect()
    }

    #[tokio::test]
    async fn a_bootstrap_that_is_given_up_leaves_no_process_no_mount_and_no_file() {
        let work = tempfile::tempdir().expect("a directory");
        let base = Base::new(&config::Runtimes::default());
        let mut log = Log::new(&|_| ());
        let lock = Lock::take(work.path(), "base image", Duration::ZERO, &mut log).await;
        let lock = lock.expect("free");
        let scratch = Scratch::make(work.path()).expect("made");
        let path = scratch.path().to_owned();
        let given_up = tokio::time::timeout(Duration::from_secs(4), async {
            let scratch = scratch;
            base.debootstrap(&scratch, "bookworm", &lock, &mut log)
                .await
        });
        // Where there is no root or no mirror it failed before that; it may leave nothing either way.
        drop(given_up.await);
        assert!(!path.exists(), "its files");
        let text = path.display().to_string();
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !processes_with(&text).is_empty() {
            assert!(
                std::time::Instant::now() < deadline,
                "{:?}",
                processes_with(&text)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mounts = std::fs::read_to_string("/proc/mounts").expect("there");
        assert!(!mounts.contains(&text), "{mounts}");
        drop(lock);
        // A killed process closes its files a moment after its command line is gone.
        let mut log = Log::new(&|_| ());
        let free = Lock::take(work.path(), "base image", Duration::from_secs(5), &mut log).await;
        free.expect("the lock went with them");
    }
}
