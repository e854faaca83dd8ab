//! A fleet of several processes: one nats-server, workers that join and leave it, and the command line that looks at them.

use std::{
    collections::HashMap,
    process::{Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_nats::{Client, Subscriber};
use envicutor::{
    bus::Role,
    config::Config,
    submission::{names::SubmissionId, units::Micros},
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{
    FIRST_USE, connect, containers_of, eventually, nats::TestNats, publish, signal, slowly,
};

/// More than a redelivery and a cold start on a busy machine.
pub const LONG: Duration = Duration::from_mins(2);

/// A NATS of its own that workers join as processes of their own.
pub struct Site {
    pub nats: TestNats,
    data_dir: tempfile::TempDir,
}

/// A worker as a process of its own.
pub struct Worker {
    pub id: String,
    pub child: Child,
}

impl Site {
    /// One with a short ack wait.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The same with another configuration of NATS.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let nats = TestNats::start_with(|config| {
            config.nats.ack_wait_us = Micros(2_000_000);
            config.worker.heartbeat_us = Micros(1_000_000);
            config.installer.ack_wait_us = Micros(3_000_000);
            change(config);
        });
        Self {
            nats: nats.await,
            // A socket's path must be short.
            data_dir: tempfile::Builder::new()
                .prefix("envc-")
                .tempdir()
                .expect("a temporary directory"),
        }
    }

    /// Starts a worker with one slot.
    pub fn worker(&self, name: &str) -> Worker {
        self.worker_with(name, &[])
    }

    /// The same with more environment.
    pub fn worker_with(&self, name: &str, env: &[(&str, &str)]) -> Worker {
        let id = format!("{name}-{}", &SubmissionId::generate().as_str()[24..]);
        let config = self.nats.config(Role::Worker);
        let child = Command::new(env!("CARGO_BIN_EXE_envicutor-worker"))
            .env("ENVICUTOR__DATA_DIR", self.data_dir.path())
            .env("ENVICUTOR__NATS__URL", &config.nats.url)
            .env(
                "ENVICUTOR__NATS__ACK_WAIT_US",
                config.nats.ack_wait_us.0.to_string(),
            )
            .env(
                "ENVICUTOR__WORKER__HEARTBEAT_US",
                config.worker.heartbeat_us.0.to_string(),
            )
            .env("ENVICUTOR__WORKER__ID", &id)
            .env("ENVICUTOR__WORKER__SLOTS", "1")
            .env("ENVICUTOR__CONTAINER__UID_FIRST", uid_first().to_string())
            .env("ENVICUTOR__CONTAINER__UID_COUNT", "1000")
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("envicutor-worker starts");
        Worker { id, child }
    }

    /// Starts an installer, whose names of hosts are those of the file `hosts` where one is given: in a mount namespace of its own.
    pub fn installer(&self, hosts: Option<&std::path::Path>, env: &[(&str, &str)]) -> Child {
        let program = env!("CARGO_BIN_EXE_envicutor-installer");
        let mut command = match hosts {
            None => Command::new(program),
            Some(hosts) => {
                let mut command = Command::new("unshare");
                let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
                command.args(["--mount", "sh", "-c", script]);
                command.arg(hosts).arg(program);
                command
            }
        };
        let config = self.nats.config(Role::Installer);
        command
            .env("ENVICUTOR__DATA_DIR", self.data_dir.path())
            .env("ENVICUTOR__NATS__URL", &config.nats.url)
            .env("ENVICUTOR__INSTALLER__ACK_WAIT_US", "3s")
            // Hashing takes long enough in a program that is not optimised.
            .env("ENVICUTOR__INSTALLER__EXPORT_PERCENT", "100")
            .env("ENVICUTOR__CONTAINER__UID_FIRST", uid_first().to_string())
            .env("ENVICUTOR__CONTAINER__UID_COUNT", "1000")
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("envicutor-installer starts")
    }

    /// Starts a worker and waits until it takes work.
    pub async fn ready_worker(&self, name: &str, env: &[(&str, &str)]) -> Worker {
        let worker = self.worker_with(name, env);
        self.is_there(&worker).await;
        worker
    }

    /// Waits until a worker is in the registry, ready.
    pub async fn is_there(&self, worker: &Worker) {
        let what = format!("{} is ready", worker.id);
        eventually(&what, FIRST_USE, || async {
            self.entry(&worker.id)
                .await
                .is_some_and(|entry| entry["state"] == "ready")
        })
        .await;
    }

    /// What `worker ls --json` says of a worker.
    pub async fn entry(&self, worker: &str) -> Option<Value> {
        let listed = self.cli(&["worker", "ls", "--json"]).await;
        assert!(listed.status.success(), "{listed:?}");
        let lines = String::from_utf8(listed.stdout).expect("UTF-8");
        let entries = lines.lines().map(serde_json::from_str);
        let entries: Result<Vec<Value>, _> = entries.collect();
        let entries = entries.expect("JSON");
        entries.into_iter().find(|entry| entry["worker"] == worker)
    }

    /// Runs `envicutor` as the operator.
    pub async fn cli(&self, args: &[&str]) -> Output {
        self.cli_as(Role::Operator, args).await
    }

    /// Runs `envicutor` as the operator, for so long at most.
    pub async fn cli_for(&self, time: Duration, args: &[&str]) -> Output {
        self.cli_within(time, Role::Operator, args).await
    }

    /// Runs `envicutor` as a user.
    pub async fn cli_as(&self, role: Role, args: &[&str]) -> Output {
        self.cli_within(LONG, role, args).await
    }

    async fn cli_within(&self, time: Duration, role: Role, args: &[&str]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_envicutor"))
            .args(args)
            .env("ENVICUTOR__DATA_DIR", self.data_dir.path())
            .env("ENVICUTOR__NATS__URL", self.nats.url(role))
            .kill_on_drop(true)
            .output();
        timeout(slowly(time), output)
            .await
            .expect("it ends")
            .expect("envicutor starts")
    }

    /// A configuration file with this text; its path.
    pub fn write_config(&self, text: &str) -> String {
        let path = self.data_dir.path().join("config.toml");
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// A connection with the rights of a service.
    pub async fn service(&self) -> Client {
        connect(&self.nats.url(Role::Service)).await
    }

    /// How many messages the default tenant's queue holds, in workers' hands or not.
    pub async fn queued(&self) -> u64 {
        self.messages_in("SUBMISSIONS_default").await
    }

    /// How many messages a stream holds.
    pub async fn messages_in(&self, stream: &str) -> u64 {
        let bus = self.nats.bus(Role::Operator).await;
        let call = format!("STREAM.INFO.{stream}");
        let info: Value = bus.api(&call, &Value::Null).await.expect("asked");
        bus.close().await;
        info["state"]["messages"].as_u64().expect("a number")
    }

    /// Waits until the queue is empty.
    pub async fn is_drained(&self) {
        eventually("the queue is empty", LONG, || async {
            self.queued().await == 0
        })
        .await;
    }
}

/// The first uid of a worker: those of one machine use ranges of their own.
fn uid_first() -> u32 {
    static WORKERS: AtomicU32 = AtomicU32::new(0);
    let place = std::process::id() * 7 + WORKERS.fetch_add(1, Ordering::Relaxed);
    700_000 + place % 200 * 1_000
}

impl Worker {
    /// Sends a signal.
    pub async fn signal(&self, name: &str) {
        signal(&self.child, name).await;
    }

    /// Waits for its end, and checks that it ended well and that nothing of it is left.
    pub async fn has_ended(&mut self) {
        let ended = timeout(slowly(LONG), self.child.wait());
        let status = ended.await.expect("it ends").expect("waited");
        assert!(status.success(), "{}: {status}", self.id);
        no_container_is_left(&self.id).await;
    }

    /// Ends it by SIGTERM.
    pub async fn stop(mut self) {
        self.signal("TERM").await;
        self.has_ended().await;
    }
}

/// Waits until no container of a worker is left.
pub async fn no_container_is_left(worker: &str) {
    let what = format!("no container of {worker} is left");
    eventually(&what, LONG, || async {
        containers_of(worker).await.is_empty()
    })
    .await;
}

/// A Python submission.
pub fn python(source: &str) -> Value {
    json!({"runtime": "python", "files": [{"text": source}], "run": {"limits": {"wall_time_us": 60_000_000}}})
}

/// Publishes a submission, and waits until its run has begun.
pub async fn begin(client: &Client, id: &str, submission: &Value) {
    let mut started = client
        .subscribe(format!("envicutor.events.default.{id}.stage_started"))
        .await
        .expect("subscribed");
    publish(client, "interactive", id, submission.to_string())
        .await
        .expect("the publish is acknowledged");
    timeout(FIRST_USE, started.next())
        .await
        .expect("the run begins")
        .expect("the subscription lasts");
}

/// Asks to cancel, as any client would: what it is told.
pub async fn cancel(client: &Client, id: &str) -> String {
    let subject = format!("envicutor.cancel.default.{id}");
    let answer = client.request(subject, "".into()).await.expect("answered");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    answer["state"].as_str().expect("a state").to_owned()
}

/// Hears of every result of the default tenant.
pub async fn results(client: &Client) -> Subscriber {
    let subscribed = client.subscribe("envicutor.results.default.>").await;
    let results = subscribed.expect("subscribed");
    client.flush().await.expect("flushed");
    results
}

/// The next result.
pub async fn next_result(results: &mut Subscriber) -> Value {
    let message = timeout(slowly(LONG), results.next())
        .await
        .expect("a result comes")
        .expect("the subscription lasts");
    serde_json::from_slice(&message.payload).expect("JSON in, JSON out")
}

/// Every result that is heard until `count` ids have one, by id. Fails where an id has a second one.
pub async fn all_results(results: &mut Subscriber, count: usize) -> HashMap<String, Value> {
    let mut found = HashMap::new();
    while found.len() < count {
        let heard = timeout(slowly(LONG), results.next()).await;
        let Ok(message) = heard else {
            panic!("{} of {count} results came", found.len());
        };
        let message = message.expect("the subscription lasts");
        let result: Value = serde_json::from_slice(&message.payload).expect("JSON");
        let id = result["id"].as_str().expect("an id").to_owned();
        if let Some(before) = found.insert(id, result.clone()) {
            panic!("two results: {before:#} and {result:#}");
        }
    }
    found
}
