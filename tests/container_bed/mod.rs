//! Where containers are tested: the real Docker Engine, a small image, and a worker's directory. Its containers carry a host
//! label of this test alone, so that nobody else's are ever touched.
//!
//! `ENVICUTOR_TEST_SLOWNESS` is how many times slower than usual this machine is, for one that is emulated.

#![allow(clippy::unwrap_used, missing_docs)]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bollard::{
    Docker,
    models::ContainerSummary,
    query_parameters::{
        CreateImageOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        RemoveVolumeOptions,
    },
};
use envicutor::{
    config,
    container::{
        ContainerError, Containers, Feed, Finished, Identity, LaidOut, Observed, Request, Sandbox,
    },
    submission::{
        limits::Limits,
        names::Tenant,
        plan::StagePlan,
        units::{ByteSize, Micros},
    },
};
use envicutor_protocol::Ended;
use futures_util::StreamExt;

/// A small image with a shell.
pub const IMAGE: &str = "containertest-busybox";

/// More than anything here takes.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// How long this machine takes for what usually takes `time`.
pub fn slowly(time: Duration) -> Duration {
    let slowness = std::env::var("ENVICUTOR_TEST_SLOWNESS");
    time * slowness.map_or(1, |it| it.parse().expect("a number"))
}

pub fn slowly_us(micros: u64) -> Micros {
    Micros(u64::try_from(slowly(Duration::from_micros(micros)).as_micros()).unwrap())
}

/// The volume of the roots of all tests that need none of their own.
pub const VOLUME: &str = "containertest-runtimes";

/// A worker's containers.
pub struct Bed {
    pub containers: Containers,
    pub docker: Docker,
    pub image: String,
    pub host: String,
    pub root: tempfile::TempDir,
    /// Volumes of this test alone.
    pub volumes: Vec<String>,
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with slots instead of containers for one submission each.
    pub async fn of_slots(change: impl FnOnce(&mut config::Container)) -> Self {
        Self::with(|config| {
            config.isolation = config::IsolationChoice::Sandbox;
            config.pool_size = None;
            change(config);
        })
        .await
    }

    pub async fn with(change: impl FnOnce(&mut config::Container)) -> Self {
        let docker = docker().await;
        let image = image(&docker, IMAGE, &[]).await;
        let root = tempfile::tempdir().unwrap();
        let host = format!("test-{}", random());
        let containers = start(&docker, &host, &root.path().join("w1"), change)
            .await
            .unwrap();
        Self {
            containers,
            docker,
            image,
            host,
            root,
            volumes: Vec::new(),
        }
    }

    /// The same as [`Self::of_slots`] with an empty volume for roots.
    pub async fn of_roots(change: impl FnOnce(&mut config::Container)) -> Self {
        let volume = format!("containertest-{}", random());
        let mut bed = Self::of_slots(|config| {
            config.runtimes_volume.clone_from(&volume);
            change(config);
        })
        .await;
        bed.volumes.push(volume);
        bed
    }

    pub fn request(&self) -> Request {
        Request {
            tenant: Tenant::default_tenant(),
            image: self.image.clone(),
            disk_bytes: ByteSize(16 << 20),
            inodes: 100,
            limits: limits(),
            fresh: false,
        }
    }

    pub async fn take(&self) -> Sandbox {
        self.containers.take(&self.request()).await.unwrap()
    }

    /// A sandbox for another tenant.
    pub async fn take_for(&self, tenant: &str) -> Sandbox {
        let request = Request {
            tenant: tenant.parse().unwrap(),
            ..self.request()
        };
        self.containers.take(&request).await.unwrap()
    }

    /// A container whose work directory is open.
    pub async fn ready(&self) -> Sandbox {
        let mut container = self.take().await;
        container.lay_out(&[]).await.unwrap();
        container
    }

    pub async fn own(&self) -> Vec<ContainerSummary> {
        own(&self.docker, &self.host).await
    }

    /// Waits until there are `count` running containers.
    pub async fn await_running(&self, count: usize) -> Vec<ContainerSummary> {
        let began = Instant::now();
        loop {
            let found = self.own().await;
            let running = found
                .iter()
                .filter(|it| it.state == Some(bollard::models::ContainerSummaryStateEnum::RUNNING));
            if running.count() == count && found.len() == count {
                return found;
            }
            assert!(
                began.elapsed() < slowly(PATIENCE),
                "expected {count} running containers, found {:?}",
                found
                    .iter()
                    .map(|it| (&it.names, &it.state))
                    .collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn remove_by_hand(&self, name: &str) {
        remove(&self.docker, name).await;
    }

    /// Closes, and asserts that nothing is left.
    pub async fn end(self) {
        self.containers.close().await;
        let left = self.own().await;
        assert!(
            left.is_empty(),
            "{:?}",
            left.iter().map(|it| &it.names).collect::<Vec<_>>()
        );
        assert_eq!(sockets(&self.root.path().join("w1")), Vec::<PathBuf>::new());
    }
}

/// Never leave anything behind, also where a test failed.
impl Drop for Bed {
    fn drop(&mut self) {
        let (host, volumes) = (self.host.clone(), self.volumes.clone());
        let _ = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let docker = docker().await;
                for container in own(&docker, &host).await {
                    remove(&docker, &container.id.unwrap()).await;
                }
                for volume in volumes {
                    let _ = docker
                        .remove_volume(&volume, None::<RemoveVolumeOptions>)
                        .await;
                }
            });
        })
        .join();
    }
}

pub async fn docker() -> Docker {
    envicutor::docker::connect(None, slowly_us(60_000_000))
        .await
        .expect("these tests need a Docker Engine")
}

pub async fn start(
    docker: &Docker,
    host: &str,
    state_dir: &Path,
    change: impl FnOnce(&mut config::Container),
) -> Result<Containers, ContainerError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut container = config::Container {
        isolation: config::IsolationChoice::Container,
        runtimes_volume: VOLUME.to_owned(),
        pool_size: Some(0),
        // Of this process, and of this test in it.
        uid_first: 1_000_000
            + (std::process::id() % 30_000) * 10_000
            + NEXT.fetch_add(1, Ordering::Relaxed) * 100,
        uid_count: 100,
        start_timeout_us: slowly_us(60_000_000),
        call_timeout_us: slowly_us(60_000_000),
        ..Default::default()
    };
    change(&mut container);
    let config = config::Config {
        container,
        ..Default::default()
    };
    let identity = Identity {
        worker: state_dir
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned(),
        host: host.to_owned(),
        state_dir: state_dir.to_owned(),
    };
    Containers::start(docker.clone(), &config, identity, 2).await
}

pub async fn own(docker: &Docker, host: &str) -> Vec<ContainerSummary> {
    let label = vec![format!("envicutor.host={host}")];
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&HashMap::from([("label", label)]))
        .build();
    docker.list_containers(Some(options)).await.unwrap()
}

async fn remove(docker: &Docker, name: &str) {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    let _ = docker.remove_container(name, Some(options)).await;
}

/// The socket directories in a worker's directory.
pub fn sockets(state_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state_dir.join("c")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

pub fn random() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// The id of the image `name`: busybox and links to it, with `changes` as in a Dockerfile.
pub async fn image(docker: &Docker, name: &str, changes: &[&str]) -> String {
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _lock = ONE_AT_A_TIME.lock().await;
    if docker.inspect_image(name).await.is_err() {
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(name)
            .tag("latest")
            .changes(changes.iter().map(|it| (*it).to_owned()).collect())
            .build();
        let root = bollard::body_full(root_file_system().into());
        let mut import = std::pin::pin!(docker.create_image(Some(options), Some(root), None));
        while let Some(progress) = import.next().await {
            progress.expect("the image is imported");
        }
    }
    docker.inspect_image(name).await.unwrap().id.unwrap()
}

fn root_file_system() -> Vec<u8> {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("these tests need a static busybox: apt-get install busybox-static");
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_path_with_name(busybox, "bin/busybox").unwrap();
    let applets = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines() {
        if applet != "busybox" {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
                .unwrap();
        }
    }
    let mut root = tar.into_inner().unwrap();
    root.flush().unwrap();
    root
}

pub fn limits() -> Limits {
    Limits {
        cpu_time_us: slowly_us(5_000_000),
        extra_time_us: slowly_us(500_000),
        wall_time_us: slowly_us(20_000_000),
        memory_bytes: ByteSize(64 << 20),
        stack_bytes: ByteSize(8 << 20),
        processes: 16,
        open_files: 64,
        file_size_bytes: ByteSize(64 << 20),
        disk_bytes: ByteSize(16 << 20),
        inodes: 100,
        output_bytes: ByteSize(1 << 20),
    }
}

pub fn shell(script: &str) -> StagePlan {
    StagePlan {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::from([
            ("HOME".to_owned(), "/work".to_owned()),
            ("PATH".to_owned(), "/bin".to_owned()),
        ])
        .into(),
        limits: limits(),
        stdin: Vec::new().into(),
        template: false,
    }
}

pub fn file<'a>(path: &'a str, data: &'a [u8]) -> LaidOut<'a> {
    LaidOut {
        path,
        executable: false,
        data: Feed::Slice(data),
    }
}

/// A stage that is over, with what it wrote in memory.
#[derive(Debug)]
pub struct Ran {
    pub ended: Ended,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Reads what a stage wrote.
pub async fn whole(finished: Finished) -> Ran {
    Ran {
        stdout: finished.stdout.head(usize::MAX).await.unwrap(),
        stderr: finished.stderr.head(usize::MAX).await.unwrap(),
        ended: finished.ended,
    }
}

pub async fn run(container: &mut Sandbox, stage: &StagePlan) -> Ran {
    let stdin = Feed::Slice(stage.stdin.inline().unwrap());
    whole(run_with(container, stage, stdin).await).await
}

/// Runs a stage with this standard input, and leaves what it wrote where it lies.
pub async fn run_with(container: &mut Sandbox, stage: &StagePlan, stdin: Feed<'_>) -> Finished {
    let mut ignore = |_: Observed<'_>| {};
    let finished = container.run(stage, stdin, slowly(10 * PATIENCE), &mut ignore);
    finished.await.unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A way to the Engine that can be cut.
pub struct Line {
    pub docker: Docker,
    open: tokio::sync::watch::Sender<bool>,
}

impl Line {
    pub fn new(directory: &Path) -> Self {
        let path = directory.join("line.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (open, is_open) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, is_open.clone()));
            }
        });
        let docker =
            Docker::connect_with_unix(path.to_str().unwrap(), 60, bollard::API_DEFAULT_VERSION);
        Self {
            docker: docker.unwrap(),
            open,
        }
    }

    /// Ends every connection, and the ones to come.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn carry(mut near: tokio::net::UnixStream, mut open: tokio::sync::watch::Receiver<bool>) {
    let Ok(mut far) = tokio::net::UnixStream::connect("/var/run/docker.sock").await else {
        return;
    };
    tokio::select! {
        // In this order: a cut line carries nothing, not even what was written to it before anybody looked.
        biased;
        _ = open.wait_for(|open| !open) => {}
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
    }
}
