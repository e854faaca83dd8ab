//! How long what a worker held when it was killed waits for another one: from SIGKILL to the first stage of the next start.
//!
//! A NATS server and two workers of its own: one that stays, and one that is started, takes submissions that sleep while the first one
//! is cordoned, and is killed at a moment of no meaning to their renewals, again and again. The submissions are spread over as many tenants as wanted.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use rand::RngExt as _;
use serde::Serialize;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::series::Series;
use crate::{
    bus::{
        Bus, ConnectError, Role,
        api::{header, header_of},
        orders::{self, Order, OrderError},
        provision::{self, ProvisionError},
        publish::PublishError,
        registry::{Registry, RegistryError},
    },
    config::Config,
    nats_server::{NatsServer, ServerError},
    submission::{
        encoding::{Encoding, EncodingError},
        event::{Event, Happened},
        message::Submission,
        names::{Lane, NameError, SubmissionId, Tenant},
        units::{ByteSize, Micros},
    },
};

/// How long a worker may take until it is there: the first time it makes the image.
const START: Duration = Duration::from_mins(30);
/// The worker that is not killed.
const STAYS: &str = "stays";
/// Between two looks at the registry.
const LOOK: Duration = Duration::from_millis(100);
/// How large the queue of a tenant may grow here: the server reserves it for each.
const QUEUE: ByteSize = ByteSize(4 << 20);

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum RedeliveryError {
    /// The server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Its streams.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The connection to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What is published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A message is none.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A worker does not obey.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// Events or results cannot be listened to.
    #[error("what happens cannot be subscribed to: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The workers' configuration cannot be written.
    #[error("the configuration of the workers cannot be written: {0}")]
    Configuration(#[from] toml::ser::Error),
    /// A worker.
    #[error("a worker cannot be run: {0}")]
    Process(#[from] std::io::Error),
    /// It took too long.
    #[error("{what} did not happen within {waited:?}; the workers' logs are in {dir}")]
    Overdue {
        /// What.
        what: String,
        /// For how long it was waited.
        waited: Duration,
        /// Where to look.
        dir: PathBuf,
    },
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Workers that are killed.
    pub kills: usize,
    /// Tenants that the submissions are spread over.
    pub tenants: usize,
    /// Submissions that a killed worker has room for.
    pub slots: usize,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Of this program.
    pub version: &'static str,
    /// Workers that were killed.
    pub kills: usize,
    /// Tenants.
    pub tenants: usize,
    /// Submissions that started again.
    pub starts: usize,
    /// `nats.ack_wait_us`.
    pub ack_wait_us: Micros,
    /// Half of them took no longer, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 took no longer, in microseconds.
    pub p99_us: u64,
    /// None took longer, in microseconds.
    pub most_us: u64,
}

/// Kills workers and measures. Everything of it is kept in `dir`, and `tell` hears what is done next.
pub async fn measure(
    config: &Config,
    dir: &Path,
    extent: Extent,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Report, RedeliveryError> {
    let mut config = config.clone();
    dir.clone_into(&mut config.data_dir.0);
    let tenant = |place: usize| match place {
        0 => Ok(Tenant::default_tenant()),
        place => format!("bench-{place}").parse(),
    };
    let tenants: Result<_, _> = (0..extent.tenants.max(1)).map(tenant).collect();
    config.nats.tenants = tenants?;
    config.nats.queue_bytes = QUEUE;
    config.blobs.tenant_bytes = QUEUE;
    config.nats.server_port = 0;
    config.runtimes.preload = vec!["bash".to_owned()];
    let server = NatsServer::start(&config.nats, dir).await?;
    config.nats.url = server.url(Role::Operator);
    let bus = Bus::connect(&config.nats, Role::Operator, "envicutor-bench").await?;
    provision::apply(&bus, &config).await?;
    config.nats.url = server.url(Role::Worker);
    let site = Site {
        events: bus
            .client
            .subscribe(format!("{}.events.>", config.nats.prefix))
            .await?,
        results: bus
            .client
            .subscribe(format!("{}.results.>", config.nats.prefix))
            .await?,
        bus,
        config,
        dir,
    };
    let measured = site.measure(extent, tell).await;
    server.stop().await;
    measured
}

/// A server and what happens there.
struct Site<'a> {
    bus: Bus,
    config: Config,
    dir: &'a Path,
    events: Subscriber,
    results: Subscriber,
}

impl Site<'_> {
    async fn measure(
        mut self,
        extent: Extent,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Report, RedeliveryError> {
        tell("starting the worker that stays");
        let mut stays = self.worker(STAYS, extent.slots.max(1), 0).await?;
        let mut times = Vec::new();
        for kill in 1..=extent.kills.max(1) {
            let after = self.kill_one(kill, extent.slots.max(1)).await?;
            tell(&format!(
                "kill {kill} of {}: {} started again, the last after {:?}",
                extent.kills,
                after.len(),
                after.iter().max().copied().unwrap_or_default()
            ));
            times.extend(after);
        }
        if let Some(pid) = stays.id() {
            crate::nats_server::signal("TERM", pid);
        }
        stays.wait().await?;
        self.bus.close().await;
        let most = times.iter().max().copied().unwrap_or_default();
        let starts = times.len();
        let measured = Series {
            elapsed: most,
            times,
        }
        .measured();
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            kills: extent.kills,
            tenants: self.config.nats.tenants.len(),
            starts,
            ack_wait_us: self.config.nats.ack_wait_us,
            p50_us: measured.p50_us,
            p99_us: measured.p99_us,
            most_us: u64::try_from(most.as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// One worker's life and death: how long each submission that it held waited for its next start.
    async fn kill_one(
        &mut self,
        kill: usize,
        slots: usize,
    ) -> Result<Vec<Duration>, RedeliveryError> {
        let ack_wait = self.config.nats.ack_wait_us.duration();
        let mut dies = self.worker(&format!("dies-{kill}"), slots, 1).await?;
        self.order(Order::Cordon).await?;
        let mut unfinished = self.publish(kill, slots, 2 * ack_wait).await?;
        self.starts(&unfinished, 1, 6 * ack_wait, "the first start of each")
            .await?;
        self.order(Order::Uncordon).await?;
        // At any moment between two renewals.
        let moment = ack_wait.mul_f64(rand::rng().random_range(0.0..0.7));
        sleep(moment).await;
        dies.start_kill()?;
        let killed = Instant::now();
        dies.wait().await?;
        let again = self.starts(&unfinished, 2, 6 * ack_wait, "the next start of each");
        let times = again.await?.into_values();
        let times = times.map(|at| at.duration_since(killed)).collect();
        let patience = 10 * ack_wait;
        let finished = async {
            while !unfinished.is_empty() {
                let Some(message) = self.results.next().await else {
                    return;
                };
                let id = message.subject.rsplit('.').next().unwrap_or_default();
                unfinished.remove(id);
            }
        };
        match timeout(patience, finished).await {
            Ok(()) => Ok(times),
            Err(_) => Err(self.overdue("the result of each submission", patience)),
        }
    }

    /// Tells the worker that stays to leave what is published to the other one, or to take work again.
    async fn order(&self, order: Order) -> Result<(), RedeliveryError> {
        Ok(orders::give(&self.bus, STAYS, order).await.map(drop)?)
    }

    /// A worker, seen in the registry.
    async fn worker(&self, name: &str, slots: usize, place: u32) -> Result<Child, RedeliveryError> {
        let mut config = self.config.clone();
        config.worker.id = Some(name.to_owned());
        config.worker.slots = Some(slots);
        config.container.uid_first += place * config.container.uid_count;
        // What is measured is not how many fit in here: they sleep.
        config.worker.memory_bytes = Some(ByteSize(u64::MAX >> 24));
        let file = self.dir.join(format!("{name}.toml"));
        std::fs::write(&file, toml::to_string(&config)?)?;
        let program = std::env::current_exe()?.with_file_name("envicutor-worker");
        let child = Command::new(program)
            .arg("--config")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(File::create(self.dir.join(format!("{name}.log")))?)
            .kill_on_drop(true)
            .spawn()?;
        let registry = Registry::new(&self.bus);
        let registered = async {
            while !registry
                .list()
                .await?
                .iter()
                .any(|worker| worker.worker == name)
            {
                sleep(LOOK).await;
            }
            Ok::<_, RegistryError>(())
        };
        match timeout(START, registered).await {
            Ok(registered) => registered.map(|()| child).map_err(Into::into),
            Err(_) => Err(self.overdue("the start of a worker", START)),
        }
    }

    /// Publishes programs that sleep, in turns over the tenants.
    async fn publish(
        &self,
        kill: usize,
        count: usize,
        time: Duration,
    ) -> Result<HashSet<String>, RedeliveryError> {
        let source = format!("sleep {}", time.as_secs_f64());
        let mut submission = Submission::new("bash".parse()?).source(source);
        let most = 2 * time + Duration::from_secs(10);
        submission.run.limits.wall_time_us =
            Some(Micros(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)));
        let encoding = Encoding::Json;
        let body = bytes::Bytes::from(encoding.encode(&submission)?);
        let mut ids = HashSet::new();
        for place in 0..count {
            let tenants = &self.config.nats.tenants;
            let tenant = &tenants[(kill * count + place) % tenants.len()];
            let id = SubmissionId::generate();
            let published = self.bus.publish_submission(
                tenant,
                Lane::Interactive,
                &id,
                body.clone(),
                encoding,
                async_nats::HeaderMap::new(),
            );
            published.await?;
            ids.insert(id.to_string());
        }
        Ok(ids)
    }

    /// When it was heard that each of these submissions starts for the `attempt`th time, or a later one.
    async fn starts(
        &mut self,
        ids: &HashSet<String>,
        attempt: u64,
        patience: Duration,
        what: &str,
    ) -> Result<HashMap<String, Instant>, RedeliveryError> {
        let mut starts = HashMap::new();
        let all = async {
            while starts.len() < ids.len() {
                let Some(message) = self.events.next().await else {
                    return;
                };
                let content_type = message
                    .headers
                    .as_ref()
                    .and_then(|headers| header_of(headers, header::CONTENT_TYPE));
                let event = Encoding::of_content_type(content_type)
                    .and_then(|encoding| encoding.decode::<Event>(&message.payload));
                if let Ok(event) = event
                    && matches!(event.happened, Happened::StageStarted { .. })
                    && event.attempt >= attempt
                    && ids.contains(event.id.as_str())
                {
                    let id = event.id.to_string();
                    starts.entry(id).or_insert_with(Instant::now);
                }
            }
        };
        match timeout(patience, all).await {
            Ok(()) => Ok(starts),
            Err(_) => Err(self.overdue(what, patience)),
        }
    }

    fn overdue(&self, what: &str, waited: Duration) -> RedeliveryError {
        RedeliveryError::Overdue {
            what: what.to_owned(),
            waited,
            dir: self.dir.to_owned(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
        writeln!(
            f,
            "envicutor {}: {} workers killed, {} tenants, {} submissions started again",
            self.version, self.kills, self.tenants, self.starts
        )?;
        write!(
            f,
            "from SIGKILL to the next start: p50 {:.1} s, p99 {:.1} s, most {:.1} s; ack_wait {:.1} s",
            seconds(self.p50_us),
            seconds(self.p99_us),
            seconds(self.most_us),
            seconds(self.ack_wait_us.0)
        )
    }
}
