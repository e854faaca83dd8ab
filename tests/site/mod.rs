//! A NATS server of its own, workers as processes of their own, and what is seen of their submissions from outside: what the
//! delivery promise is held against.
//!
//! The submissions are shell scripts in a small image of busybox, and unless a test says otherwise each gets a container of its own:
//! what is tested here is the same with every isolation, and this is the quickest.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod seen;
pub mod worker;

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use envicutor::{
    bus::{
        Bus, Role,
        attempts::{Attempts, Record},
        dead_letters::{DeadLetters, Letter},
        results::{Results, Settled},
    },
    config::{self, Config},
    submission::{
        encoding::Encoding,
        names::{Digest, Lane, Tenant},
        result::SubmissionResult,
    },
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    container_bed,
    fleet::{self, cluster::Cluster, eventually, messages, nats::TestNats, slowly},
};
use seen::Seen;
use worker::{Builder, Worker};

/// More than a redelivery and a cold start on a busy machine.
pub const LONG: Duration = Duration::from_mins(1);

/// How long a worker may stay silent here before its delivery goes to another.
pub const ACK_WAIT: Duration = Duration::from_secs(2);

/// The runtime: a shell, in the image that the tests of containers use.
const RUNTIME: &str = r#"
name = "sh"
version = "1"
default = true
description = "A shell for tests"
source_file = "main.sh"
[run]
command = ["/bin/sh", "{entry}"]
"#;

/// Sites at a time in a test program: more would only wait for the processors.
static PLACES: Semaphore = Semaphore::const_new(2);

/// A fleet whose every process a test holds in its hands.
pub struct Site {
    /// Its own server; none where it is on a cluster.
    nats: Option<TestNats>,
    /// How workers connect.
    worker_config: config::Nats,
    operator_config: config::Nats,
    /// An operator's connection.
    pub bus: Bus,
    /// What subscribers saw.
    pub seen: Seen,
    pub ack_wait: Duration,
    /// Results do not stand for long here.
    pub results_age_out: bool,
    /// Docker's name of the image; the tests' Engines all have it.
    image: &'static str,
    runtimes: PathBuf,
    /// Where workers keep what is theirs.
    pub data_dir: tempfile::TempDir,
    workers: Mutex<Vec<String>>,
    _place: SemaphorePermit<'static>,
}

impl Site {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The same with another configuration of NATS.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let place = PLACES.acquire().await.expect("never closed");
        let nats = TestNats::start_with(|config| {
            config.nats.ack_wait_us = micros(slowly(ACK_WAIT));
            change(config);
        })
        .await;
        let (operator, worker) = (nats.config(Role::Operator), nats.config(Role::Worker));
        let mut site = Self::on(place, operator.nats, worker.nats).await;
        site.nats = Some(nats);
        site
    }

    /// On a cluster, with everybody connected to one node.
    pub async fn start_on(cluster: &Cluster, node: usize) -> Self {
        let place = PLACES.acquire().await.expect("never closed");
        let config = |role| config::Nats {
            url: cluster.url_of(node, role),
            ..cluster.config(role).nats
        };
        Self::on(place, config(Role::Operator), config(Role::Worker)).await
    }

    async fn on(
        place: SemaphorePermit<'static>,
        operator: config::Nats,
        worker: config::Nats,
    ) -> Self {
        let docker = container_bed::docker().await;
        container_bed::image(&docker, container_bed::IMAGE, &[]).await;
        let data_dir = tempfile::Builder::new().prefix("envc-").tempdir();
        let data_dir = data_dir.expect("a temporary directory");
        let runtimes = data_dir.path().join("definitions");
        std::fs::create_dir(&runtimes).expect("made");
        std::fs::write(runtimes.join("sh.toml"), RUNTIME).expect("written");
        let bus = Bus::connect(&operator, Role::Operator, "test").await;
        let bus = bus.expect("connected");
        let seen = Seen::begin(&bus).await;
        Self {
            nats: None,
            ack_wait: worker.ack_wait_us.duration(),
            worker_config: worker,
            operator_config: operator,
            bus,
            seen,
            results_age_out: false,
            image: container_bed::IMAGE,
            runtimes,
            data_dir,
            workers: Mutex::default(),
            _place: place,
        }
    }

    /// Its own server.
    pub fn nats(&mut self) -> &mut TestNats {
        self.nats.as_mut().expect("it is on no cluster")
    }

    /// How workers connect.
    pub fn worker_url(&self) -> String {
        self.worker_config.url.clone()
    }

    /// How services connect.
    pub fn service_config(&self) -> config::Nats {
        let nats = self.nats.as_ref().expect("it is on no cluster");
        nats.config(Role::Service).nats
    }

    /// A worker to be started. `name` is the beginning of its id.
    pub fn worker(&self, name: &str) -> Builder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{name}-{}", &container_bed::random()[20..]);
        let uid = 400_000_000
            + (std::process::id() % 30_000) * 10_000
            + NEXT.fetch_add(1, Ordering::Relaxed) * 50;
        self.workers.lock().expect("no panic").push(id.clone());
        Builder::new(id, self.data_dir.path())
            .env("NATS__URL", &self.worker_config.url)
            .env("NATS__ACK_WAIT_US", self.ack_wait.as_micros())
            .env("RUNTIMES__DIR", self.runtimes.display())
            .env("RUNTIMES__BASE_IMAGE", self.image)
            .env("RUNTIMES__MEASURE_AFTER_US", "1h")
            .env("CONTAINER__ISOLATION", "container")
            .env("CONTAINER__POOL_SIZE", 0)
            .env("CONTAINER__RUNTIMES_VOLUME", container_bed::VOLUME)
            .env("CONTAINER__UID_FIRST", uid)
            .env("CONTAINER__UID_COUNT", 50)
            .env("WORKER__SLOTS", 1)
    }

    /// Starts an installer, over the runtimes' own base image and with the machine's Engine.
    pub fn installer(&self) -> tokio::process::Child {
        let nats = self.nats.as_ref().expect("it is on no cluster");
        let nats = nats.config(Role::Installer).nats;
        tokio::process::Command::new(env!("CARGO_BIN_EXE_envicutor-installer"))
            .env("ENVICUTOR__DATA_DIR", self.data_dir.path())
            .env("ENVICUTOR__NATS__URL", nats.url)
            .env("ENVICUTOR__INSTALLER__EXPORT_PERCENT", "100")
            .env(
                "ENVICUTOR__CONTAINER__RUNTIMES_VOLUME",
                container_bed::VOLUME,
            )
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("envicutor-installer starts")
    }

    /// Adds a runtime to those of the workers that start from now on.
    pub fn add_runtime(&self, file: &str, definition: &str) {
        std::fs::write(self.runtimes.join(file), definition).expect("written");
    }

    /// The body of a submission that runs `script`.
    pub fn body(script: &str) -> String {
        json!({"runtime": "sh", "files": [{"text": script}], "run": {"limits": {"wall_time_us": 60_000_000}}})
            .to_string()
    }

    /// Publishes a script under `id`, and waits for the ack.
    pub async fn submit(&self, id: &str, script: &str) {
        self.publish(Lane::Interactive, id, Self::body(script))
            .await;
    }

    pub async fn publish(&self, lane: Lane, id: &str, body: String) {
        fleet::publish(&self.bus.client, &lane.to_string(), id, body)
            .await
            .expect("the publish is acknowledged");
    }

    /// Asks for the end of a submission; the answer.
    pub async fn cancel(&self, id: &str) -> Value {
        let subject = format!("envicutor.cancel.default.{id}");
        let answer = self.bus.client.request(subject, "".into()).await;
        let answer = answer.expect("a worker answers");
        serde_json::from_slice(&answer.payload).expect("JSON")
    }

    /// Stores the result of another attempt of the submission with this body.
    pub async fn store_another(&self, id: &str, generation: u64, body: &str) {
        let result = SubmissionResult {
            submission_digest: Digest::of(body.as_bytes()),
            ..messages::result(id, generation, "another")
        };
        let bus = Bus::connect(&self.worker_config, Role::Worker, "another").await;
        let bus = bus.expect("connected");
        let settled = messages::settle(&bus, &result, Encoding::Json).await;
        assert!(matches!(settled, Settled::Stored(_)), "{settled:?}");
    }

    /// The result that a subscriber sees, of the first generation.
    pub async fn result(&self, id: &str) -> SubmissionResult {
        self.result_of(id, 0).await
    }

    pub async fn result_of(&self, id: &str, generation: u64) -> SubmissionResult {
        let of = || {
            let results = self.seen.results(id).into_iter();
            results
                .filter(|result| result.generation == generation)
                .collect::<Vec<_>>()
        };
        let what = format!("a result of {id}, generation {generation}");
        eventually(&what, LONG, || async { !of().is_empty() }).await;
        of().remove(0)
    }

    /// Waits until every message is acknowledged.
    pub async fn await_empty_queue(&self) {
        let what = "no submission is queued or running";
        eventually(what, LONG, || async { self.queued().await == 0 }).await;
    }

    /// The messages that are queued or running.
    pub async fn queued(&self) -> u64 {
        let info: Value = self
            .bus
            .api("STREAM.INFO.SUBMISSIONS_default", &Value::Null)
            .await
            .expect("answered");
        info["state"]["messages"].as_u64().expect("a number")
    }

    /// The dead letters, oldest first.
    pub async fn letters(&self) -> Vec<Letter> {
        let letters = DeadLetters::new(&self.bus);
        let (mut found, mut from) = (Vec::new(), 1);
        while let Some(letter) = letters.next(from).await.expect("answered") {
            from = letter.sequence + 1;
            found.push(letter);
        }
        found
    }

    /// Has the server forget every event.
    pub async fn forget_events(&self) {
        let purged = self.bus.api::<Value>("STREAM.PURGE.EVENTS", &Value::Null);
        purged.await.expect("purged");
    }

    /// Changes the stream of the dead letters.
    pub async fn change_dead_letters(&self, key: &str, value: u64) {
        let info: Value = self
            .bus
            .api("STREAM.INFO.DEAD_LETTERS", &Value::Null)
            .await
            .expect("answered");
        let mut config = info["config"].clone();
        config[key] = value.into();
        let updated = self.bus.api::<Value>("STREAM.UPDATE.DEAD_LETTERS", &config);
        updated.await.expect("updated");
    }

    /// What is noted of the attempts.
    pub async fn attempts(&self, id: &str) -> Option<Record> {
        let id = id.parse().expect("a valid id");
        let (attempts, tenant) = (Attempts::new(&self.bus), Tenant::default_tenant());
        let read = attempts.read(&tenant, Lane::Interactive, &id).await;
        read.expect("answered").record
    }

    /// Drains the workers and holds the promise against everything that is left: nothing is queued; of each id that was seen at all
    /// a plain subscriber saw one result for each generation, and the last of them stands; no worker left a container.
    pub async fn end(self, workers: impl IntoIterator<Item = Worker>) {
        self.await_empty_queue().await;
        for worker in workers {
            worker.drain().await;
        }
        // Whatever was on its way has come: nobody sends any more.
        self.bus.round_trip().await.expect("answered");
        self.seen.settle().await;
        for id in self.seen.ids() {
            self.check_results(&id).await;
        }
        let workers = self.workers.lock().expect("no panic").clone();
        for worker in workers {
            let what = format!("no container of {worker} is left");
            eventually(&what, LONG, || async {
                fleet::containers_of(&worker).await.is_empty()
            })
            .await;
        }
    }

    async fn check_results(&self, id: &str) {
        let seen = self.seen.results(id);
        let mut generations: Vec<u64> = seen.iter().map(|it| it.generation).collect();
        generations.sort_unstable();
        let all = generations.len();
        generations.dedup();
        assert!(all > 0, "{id} started and has no result");
        assert_eq!(
            generations.len(),
            all,
            "a generation of {id} has two results: {seen:#?}"
        );
        if self.results_age_out {
            return;
        }
        let standing = Results::new(&self.bus)
            .standing(&Tenant::default_tenant(), id)
            .await;
        let standing = standing.expect("answered").map(|standing| standing.result);
        assert_eq!(
            standing.as_ref(),
            seen.last(),
            "what stands is not what was seen"
        );
    }
}

/// What the workers logged of themselves, where a test failed.
impl Drop for Site {
    fn drop(&mut self) {
        let workers = self.workers.lock().map(|it| it.clone()).unwrap_or_default();
        for worker in workers.iter().filter(|_| std::thread::panicking()) {
            let log = self.data_dir.path().join(format!("{worker}.log"));
            let log = std::fs::read_to_string(log).unwrap_or_default();
            eprintln!("--- {worker}\n{log}");
        }
    }
}

/// Runs the command line of the machine's Docker Engine.
pub async fn docker(arguments: &[&str]) -> String {
    let output = tokio::process::Command::new("docker")
        .args(arguments)
        .output();
    let output = output.await.expect("docker runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Sends a signal to a process that the test started.
pub async fn signal(pid: u32, name: &str) {
    let sent = tokio::process::Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(sent.await.expect("kill runs").success());
}

/// As the configuration has it.
pub fn micros(time: Duration) -> envicutor::submission::units::Micros {
    envicutor::submission::units::Micros(u64::try_from(time.as_micros()).expect("it is short"))
}

/// Where the tests' own programs are.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
