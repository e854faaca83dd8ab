//! The NATS servers of a run, one or a cluster of three, each a process of its own that can be killed and started again with what
//! it stored.
//!
//! At most one is away at a time, and the next is killed only when that one has caught up: three copies survive the loss of one.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::SiteError;
use crate::{
    bus::{Bus, Role, credentials::Credentials, subjects::Names},
    config,
    faults::{
        history::{Recorder, What},
        plan::Kind,
    },
    nats_server::{
        cluster::{self, NodeAddress},
        files, signal,
    },
    submission::names::Tenant,
};

/// How long a server, or a leader, may take to be there.
const PATIENCE: Duration = Duration::from_mins(1);

/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// The longest that a killed server is away, in milliseconds.
const AWAY_MOST_MS: usize = 3_000;

/// The servers' processes and files.
#[derive(Debug)]
pub(super) struct Servers {
    program: PathBuf,
    dir: PathBuf,
    names: Names,
    credentials: Credentials,
    addresses: Vec<SocketAddr>,
    running: Vec<Option<Child>>,
}

impl Servers {
    /// Starts `count` of them, with their files in `dir`.
    pub(super) fn start(
        program: PathBuf,
        dir: &Path,
        nats: &config::Nats,
        count: usize,
    ) -> Result<Self, SiteError> {
        let addresses = free_addresses(count)?;
        if count == 1 {
            files::init(dir, nats)?;
        } else {
            let nodes: Vec<NodeAddress> = addresses
                .iter()
                .map(|address| address.to_string().parse())
                .collect::<Result<_, _>>()?;
            cluster::init(dir, nats, &nodes)?;
        }
        let mut servers = Self {
            program,
            dir: dir.to_owned(),
            names: Names::new(&nats.prefix),
            credentials: Credentials::load(&files::credentials_file(dir))?,
            running: addresses.iter().map(|_| None).collect(),
            addresses,
        };
        for place in 0..count {
            servers.begin(place)?;
        }
        Ok(servers)
    }

    /// Where they listen.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What to connect to as `role`: these addresses, which lead to the servers.
    pub(super) fn url(&self, role: Role, addresses: &[SocketAddr]) -> String {
        let password = self.credentials.password(role).unwrap_or_default();
        let one = |address: &SocketAddr| format!("nats://{role}:{password}@{address}");
        addresses.iter().map(one).collect::<Vec<_>>().join(",")
    }

    fn begin(&mut self, place: usize) -> io::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("node-{}.log", place + 1)))?;
        let mut command = Command::new(&self.program);
        if self.addresses.len() == 1 {
            let port = self.addresses[place].port().to_string();
            command.arg("--config").arg(self.dir.join("server.conf"));
            command.args(["--addr", "127.0.0.1", "--port", &port]);
        } else {
            let file = cluster::node_file(&self.dir, place);
            command.arg("--config").arg(file);
        }
        let child = command
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        self.running[place] = Some(child);
        Ok(())
    }

    /// Waits until all of them answer, and agree on who leads.
    pub(super) async fn wait_until_they_answer(&self, bus: &Bus) -> io::Result<()> {
        let answer = async {
            let question = json!({ "subject": "nobody" });
            while bus.api::<Value>("STREAM.NAMES", &question).await.is_err() {
                sleep(POLL).await;
            }
        };
        within(PATIENCE, "the start of the NATS servers", answer).await
    }

    /// The server that leads one of the fleet's streams at this moment.
    async fn leader(&self, bus: &Bus, choice: usize) -> Option<(usize, String)> {
        let tenant = Tenant::default_tenant();
        let streams = [
            self.names.submissions_stream(&tenant),
            self.names.results_stream(),
            format!("KV_{}", self.names.bucket("attempts")),
        ];
        let stream = &streams[choice % streams.len()];
        if self.addresses.len() == 1 {
            return Some((0, stream.clone()));
        }
        let info = info(bus, stream).await?;
        let leader = info["cluster"]["leader"].as_str()?;
        let names = (0..self.addresses.len()).map(|place| (place, self.name(place)));
        let (place, _) = names.into_iter().find(|(_, name)| name == leader)?;
        Some((place, stream.clone()))
    }

    fn name(&self, place: usize) -> String {
        cluster::node_name(self.names.prefix(), place)
    }

    /// Kills one, leaves it away for a while, starts it again and waits until it has caught up.
    async fn strike(&mut self, bus: &Bus, choice: usize, recorder: &Recorder) -> io::Result<()> {
        let found = self.leader(bus, choice).await;
        // Without an answer any of them will do.
        let (place, stream) = found.unwrap_or((
            choice % self.addresses.len(),
            "it is not known what".to_owned(),
        ));
        let away = Duration::from_millis(u64::try_from(choice % AWAY_MOST_MS).unwrap_or_default());
        recorder.note(What::Fault {
            kind: Kind::LeaderKilled,
            whom: format!("server {}, which leads {stream}, for {away:?}", place + 1),
        });
        if let Some(mut server) = self.running[place].take() {
            server.kill().await?;
        }
        sleep(away).await;
        self.begin(place)?;
        let began = Instant::now();
        let whole = self.wait_until_whole(bus).await;
        let (server, took) = (place + 1, began.elapsed());
        recorder.note(What::Note(match whole {
            Ok(()) => format!("server {server} has caught up after {took:?}"),
            Err(last) => format!("server {server} has not caught up after {took:?}: {last}"),
        }));
        Ok(())
    }

    /// Waits until every stream that is written to has as many copies that miss nothing as there are servers; where that takes
    /// too long, the last that was heard.
    async fn wait_until_whole(&self, bus: &Bus) -> Result<(), String> {
        let began = Instant::now();
        let tenant = Tenant::default_tenant();
        let streams = [
            self.names.submissions_stream(&tenant),
            self.names.results_stream(),
        ];
        for stream in streams {
            loop {
                let info = info(bus, &stream).await.unwrap_or_default();
                if self.is_whole(&info) {
                    break;
                }
                if began.elapsed() > PATIENCE {
                    return Err(format!("{stream}: {}", info["cluster"]));
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Whether a stream has all of its copies, by what its leader says.
    fn is_whole(&self, info: &Value) -> bool {
        let replicas = info["cluster"]["replicas"].as_array().into_iter().flatten();
        let current = replicas.filter(|replica| {
            replica["current"] == json!(true) && replica["offline"] != json!(true)
        });
        !info["state"].is_null() && current.count() + 1 >= self.addresses.len()
    }

    /// Ends them all.
    pub(super) async fn stop(mut self) -> io::Result<()> {
        for server in self.running.iter_mut().flatten() {
            if let Some(pid) = server.id() {
                signal("TERM", pid);
            }
        }
        for server in self.running.iter_mut().flatten() {
            if within(PATIENCE, "the end of a NATS server", server.wait())
                .await
                .is_err()
            {
                server.kill().await?;
            }
        }
        Ok(())
    }
}

/// The servers, and who strikes them when it is told to.
#[derive(Debug)]
pub(super) struct ServerRoom {
    orders: mpsc::Sender<usize>,
    keeper: JoinHandle<io::Result<Servers>>,
}

impl ServerRoom {
    /// Takes charge of the servers; `bus` is an operator's connection to all of them.
    pub(super) fn open(mut servers: Servers, bus: Bus, recorder: Recorder) -> Self {
        let (orders, mut taken) = mpsc::channel(1);
        let keeper = tokio::spawn(async move {
            while let Some(choice) = taken.recv().await {
                servers.strike(&bus, choice, &recorder).await?;
            }
            Ok(servers)
        });
        Self { orders, keeper }
    }

    /// Kills a leader; false where the last one that was killed is not yet back.
    pub(super) fn strike(&self, choice: usize) -> bool {
        self.orders.try_send(choice).is_ok()
    }

    /// The servers, all of them running, none of them to be struck any more.
    pub(super) async fn close(self) -> io::Result<Servers> {
        drop(self.orders);
        self.keeper.await.map_err(io::Error::other)?
    }
}

async fn info(bus: &Bus, stream: &str) -> Option<Value> {
    bus.api(&format!("STREAM.INFO.{stream}"), &Value::Null)
        .await
        .ok()
}

/// Waits for `what`, at most for `patience`.
async fn within<T>(
    patience: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> io::Result<T> {
    let timed_out = |_| {
        let message = format!("{what} took longer than {patience:?}");
        io::Error::new(io::ErrorKind::TimedOut, message)
    };
    timeout(patience, future).await.map_err(timed_out)
}

/// Addresses that nobody uses now, each with a free port for its route.
fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    const TO_ROUTE: u16 = 2_000;
    let mut held = Vec::new();
    while held.len() < count {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let Some(route) = address.port().checked_add(TO_ROUTE) else {
            continue;
        };
        if let Ok(route) = TcpListener::bind((Ipv4Addr::LOCALHOST, route)) {
            held.push((address, listener, route));
        }
    }
    Ok(held.iter().map(|(address, ..)| *address).collect())
}
