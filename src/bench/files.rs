//! Large files through a fleet: how much memory client and worker take for a project of many files, and what goes over the network
//! for it and for many submissions that share an input.
//!
//! This process is the client; NATS and one worker are processes of their own. Both connect through a relay that counts bytes.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::relay::{Carried, Relay};
use crate::{
    blobs::{BlobError, Store},
    bus::{
        Bus, ConnectError, Role,
        provision::{self, ProvisionError},
        registry::{Registry, RegistryError},
    },
    client::{Client, ClientError},
    config::Config,
    nats_server::{NatsServer, ServerError},
    submission::{
        content::Content,
        message::Submission,
        names::{Lane, NameError, Tenant},
        result::{SubmissionResult, Verdict},
        units::{ByteSize, Micros},
    },
};

/// How long the worker may take until it is there: the first time it makes the image.
const START: Duration = Duration::from_mins(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Files of a directory of the project.
const IN_A_DIRECTORY: usize = 100;
/// What is collected of the work directory.
const COLLECTED: ByteSize = ByteSize(8 << 20);
/// How many submissions that share an input are under way.
const AT_A_TIME: usize = 8;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Its streams.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The connection to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was collected cannot be had.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The worker's configuration cannot be written.
    #[error("the configuration of the worker cannot be written: {0}")]
    Configuration(#[from] toml::ser::Error),
    /// A file or a process.
    #[error("a file or a process of the measurement failed: {0}")]
    Io(#[from] io::Error),
    /// The worker does not come.
    #[error("the worker was not there within {START:?}; its log is in {0}")]
    Overdue(PathBuf),
    /// A result that is not what was to be measured.
    #[error("{0}: nothing is measured of such a submission")]
    Otherwise(String),
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// The files of the project.
    pub files: usize,
    /// What they hold together.
    pub bytes: ByteSize,
    /// Submissions that share an input.
    pub sharing: usize,
    /// The input that they share.
    pub input: ByteSize,
}

/// The resident memory of a process.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// When it had nothing to do.
    pub idle_bytes: ByteSize,
    /// The most since then.
    pub peak_bytes: ByteSize,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of this program.
    pub version: &'static str,
    /// Of the project.
    pub files: usize,
    /// Of the project.
    pub bytes: ByteSize,
    /// From the beginning of the submit to what was collected in the client's hands.
    pub took_us: Micros,
    /// The client's.
    pub client: Memory,
    /// The worker's.
    pub worker: Memory,
    /// Between client and NATS, for the project.
    pub client_sent_bytes: ByteSize,
    /// Between NATS and worker, for the project.
    pub worker_received_bytes: ByteSize,
    /// Submissions that shared an input.
    pub sharing: usize,
    /// The input.
    pub input_bytes: ByteSize,
    /// Between NATS and worker, for all of them.
    pub shared_received_bytes: ByteSize,
    /// The worker's memory meanwhile.
    pub worker_sharing: Memory,
}

/// Measures. Everything of it is kept in `dir`, and `tell` hears what is done next.
pub async fn measure(
    config: &Config,
    dir: &Path,
    extent: Extent,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Report, FilesError> {
    tell("starting NATS and a worker");
    let site = Site::start(config, dir).await?;
    tell("making the project");
    let project = dir.join("project");
    make(&project, extent)?;
    let measured = site.measure(extent, &project, tell).await;
    site.stop().await?;
    measured
}

/// What is measured.
struct Site {
    dir: PathBuf,
    client: Client,
    store: Store,
    client_relay: Relay,
    worker_relay: Relay,
    worker: Child,
    worker_pid: u32,
    _server: NatsServer,
}

impl Site {
    async fn start(config: &Config, dir: &Path) -> Result<Self, FilesError> {
        let mut config = config.clone();
        dir.clone_into(&mut config.data_dir.0);
        config.nats.server_port = 0;
        config.runtimes.preload = vec!["bash".to_owned()];
        let server = NatsServer::start(&config.nats, dir).await?;
        config.nats.url = server.url(Role::Operator);
        let bus = Bus::connect(&config.nats, Role::Operator, "envicutor-bench").await?;
        provision::apply(&bus, &config).await?;
        let (worker_url, worker_relay) = relayed(&server.url(Role::Worker)).await?;
        config.nats.url = worker_url;
        let (worker, worker_pid) = start_worker(&config, &bus, dir).await?;
        let (client_url, client_relay) = relayed(&server.url(Role::Service)).await?;
        config.nats.url = client_url;
        let client = Client::connect_with(&config).await?;
        let service = Bus::connect(&config.nats, Role::Service, "envicutor-bench").await?;
        let store = Store::open(&config, Some(&service))?;
        bus.close().await;
        Ok(Self {
            dir: dir.to_owned(),
            client,
            store,
            client_relay,
            worker_relay,
            worker,
            worker_pid,
            _server: server,
        })
    }

    async fn stop(mut self) -> Result<(), FilesError> {
        self.client.close().await;
        crate::nats_server::signal("TERM", self.worker_pid);
        self.worker.wait().await?;
        Ok(())
    }

    async fn measure(
        &self,
        extent: Extent,
        project: &Path,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Report, FilesError> {
        tell("warming up");
        // Whatever is made once, and stays.
        for _ in 0..3 {
            let small = self.dir.join("small");
            fs::create_dir_all(&small)?;
            fs::write(small.join("file"), "x")?;
            let result = self.run(&counting(&small)?).await?;
            self.fetch(&result, "warm").await?;
        }
        let pids = [std::process::id(), self.worker_pid];
        let [client_idle, worker_idle] = [begin(pids[0])?, begin(pids[1])?];
        let (client_before, worker_before) = self.carried();
        tell("the project: submit, run, collect");
        let began = Instant::now();
        let result = self.run(&counting(project)?).await?;
        let counted = String::from_utf8_lossy(&result.runs[0].stdout.data).into_owned();
        if counted.trim() != extent.files.to_string() {
            let said = format!("{} files were found, not {}", counted.trim(), extent.files);
            return Err(FilesError::Otherwise(said));
        }
        self.fetch(&result, "collected").await?;
        let took = began.elapsed();
        let (client_after, worker_after) = self.carried();
        let (client, worker) = (end(pids[0], client_idle)?, end(pids[1], worker_idle)?);
        tell("the shared input");
        let (shared_received, worker_sharing) = self.share(extent).await?;
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            files: extent.files,
            bytes: extent.bytes,
            took_us: Micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            client,
            worker,
            client_sent_bytes: ByteSize(client_after.since(client_before).sent),
            worker_received_bytes: ByteSize(worker_after.since(worker_before).received),
            sharing: extent.sharing,
            input_bytes: extent.input,
            shared_received_bytes: ByteSize(shared_received),
            worker_sharing,
        })
    }

    /// Runs submissions that share an input: what the worker received for all of them, and its memory.
    async fn share(&self, extent: Extent) -> Result<(u64, Memory), FilesError> {
        let input = self.dir.join("input");
        write_noise(&input, 7, extent.input.0)?;
        let submission = Submission::new("bash".parse()?).source("wc -c");
        let submission = submission.stdin(Content::from_path(&input));
        let idle = begin(self.worker_pid)?;
        let before = self.worker_relay.carried();
        let running = (0..extent.sharing).map(async |_| self.run(&submission).await.map(drop));
        let ran: Vec<()> = stream::iter(running)
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await?;
        tracing::debug!(submissions = ran.len(), "all have their results");
        let received = self.worker_relay.carried().since(before).received;
        Ok((received, end(self.worker_pid, idle)?))
    }

    fn carried(&self) -> (Carried, Carried) {
        (self.client_relay.carried(), self.worker_relay.carried())
    }

    async fn run(&self, submission: &Submission) -> Result<SubmissionResult, FilesError> {
        let tenant = Tenant::default_tenant();
        let ran = self
            .client
            .submit_and_wait(&tenant, Lane::Interactive, None, submission);
        let result = ran.await?;
        if result.verdict != Some(Verdict::Ok) {
            let said = format!(
                "{} ended as {:?} {:?}: {:?} {:?}",
                result.id, result.outcome, result.verdict, result.errors, result.failure
            );
            return Err(FilesError::Otherwise(said));
        }
        Ok(result)
    }

    async fn fetch(&self, result: &SubmissionResult, name: &str) -> Result<(), FilesError> {
        let to = self.dir.join(name);
        fs::create_dir_all(&to)?;
        let blobs = self.store.of(&Tenant::default_tenant());
        for (index, file) in result.collected.iter().enumerate() {
            let mut written = File::create(to.join(index.to_string()))?;
            let mut incoming = blobs.get(&file.blob).await?;
            while let Some(bytes) = incoming.next().await {
                written.write_all(&bytes?)?;
            }
        }
        Ok(())
    }
}

/// A project whose program counts its files, and leaves one to be collected.
fn counting(project: &Path) -> Result<Submission, FilesError> {
    let script = format!(
        "find . -type f ! -name main.sh | wc -l; head -c {} /dev/zero > out.bin",
        COLLECTED.0
    );
    let mut submission = Submission::new("bash".parse()?)
        .source(script)
        .project(project)
        .collect("out.bin");
    let limits = &mut submission.run.limits;
    limits.disk_bytes = Some(ByteSize(1 << 30));
    limits.file_size_bytes = Some(ByteSize(1 << 30));
    limits.inodes = Some(65_536);
    Ok(submission)
}

/// A relay before the server of `url`, and the URL of it.
async fn relayed(url: &str) -> Result<(String, Relay), FilesError> {
    let address = url.rsplit('@').next().unwrap_or(url);
    let server: SocketAddr = address
        .parse()
        .map_err(|error| io::Error::other(format!("{address}: {error}")))?;
    let relay = Relay::to(server).await?;
    let through = url.replace(address, &relay.address().to_string());
    Ok((through, relay))
}

/// A worker, seen in the registry.
async fn start_worker(config: &Config, bus: &Bus, dir: &Path) -> Result<(Child, u32), FilesError> {
    const NAME: &str = "measured";
    let mut config = config.clone();
    config.worker.id = Some(NAME.to_owned());
    let (file, log) = (dir.join("worker.toml"), dir.join("worker.log"));
    fs::write(&file, toml::to_string(&config)?)?;
    let program = std::env::current_exe()?.with_file_name("envicutor-worker");
    let child = Command::new(program)
        .arg("--config")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .kill_on_drop(true)
        .spawn()?;
    let registry = Registry::new(bus);
    let registered = async {
        let is_there = |all: Vec<_>| {
            let mut all = all.into_iter();
            all.any(|worker: crate::bus::registry::Heartbeat| worker.worker == NAME)
        };
        while !is_there(registry.list().await?) {
            sleep(LOOK).await;
        }
        Ok::<_, RegistryError>(())
    };
    let in_time = timeout(START, registered).await;
    in_time.map_err(|_| FilesError::Overdue(log.clone()))??;
    let pid = child.id().ok_or(FilesError::Overdue(log))?;
    Ok((child, pid))
}

/// Makes the project: as many files as wanted, of about the same size, of bytes that nothing compresses.
fn make(project: &Path, extent: Extent) -> io::Result<()> {
    let each = extent.bytes.0 / extent.files.max(1) as u64;
    for index in 0..extent.files {
        let directory = project.join(format!("d{:04}", index / IN_A_DIRECTORY));
        if index % IN_A_DIRECTORY == 0 {
            fs::create_dir_all(&directory)?;
        }
        write_noise(&directory.join(format!("f{index:05}")), index as u64, each)?;
    }
    Ok(())
}

fn write_noise(path: &Path, seed: u64, size: u64) -> io::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut file = io::BufWriter::new(File::create(path)?);
    let mut left = usize::try_from(size).map_err(io::Error::other)?;
    while left > 0 {
        let part: [u8; 1_024] = random.random();
        let count = left.min(part.len());
        file.write_all(&part[..count])?;
        left -= count;
    }
    file.flush()
}

/// Begins to watch for the peak of a process: what it has now.
fn begin(pid: u32) -> io::Result<ByteSize> {
    // Resets `VmHWM`.
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    status(pid, "VmRSS:")
}

fn end(pid: u32, idle_bytes: ByteSize) -> io::Result<Memory> {
    Ok(Memory {
        idle_bytes,
        peak_bytes: status(pid, "VmHWM:")?,
    })
}

fn status(pid: u32, field: &str) -> io::Result<ByteSize> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let missing = || io::Error::other(format!("the status of process {pid} has no {field}"));
    kib.map(|kib| ByteSize(kib << 10)).ok_or_else(missing)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (idle, peak) = (self.idle_bytes.0, self.peak_bytes.0);
        let more = peak.saturating_sub(idle);
        write!(
            f,
            "idle {}, peak {}, {} more",
            mib(idle),
            mib(peak),
            mib(more)
        )
    }
}

fn mib(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.1} MiB")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "envicutor {}: a project of {} files, {}, submitted, run and {} collected in {:.1} s",
            self.version,
            self.files,
            mib(self.bytes.0),
            mib(COLLECTED.0),
            self.took_us.duration().as_secs_f64()
        )?;
        writeln!(f, "client: {}", self.client)?;
        writeln!(f, "worker: {}", self.worker)?;
        writeln!(
            f,
            "the client sent {}, the worker received {}",
            mib(self.client_sent_bytes.0),
            mib(self.worker_received_bytes.0)
        )?;
        write!(
            f,
            "{} submissions that share an input of {}: the worker received {} for all of them ({})",
            self.sharing,
            mib(self.input_bytes.0),
            mib(self.shared_received_bytes.0),
            self.worker_sharing
        )
    }
}
