//! Workers and clients over a cluster of three NATS servers whose servers die, hang, restart and are cut off: both go on without a
//! restart, and each submission ends once. Real servers, real workers, programs in isolation `sandbox`.

mod fleet;

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Output, Stdio},
    sync::{
        Arc, Mutex as StdMutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use envicutor::{
    bus::{
        Bus, Role,
        provision::{self, Outcome},
        publish::PublishError,
        queue::{self, Puller},
    },
    client::Client,
    submission::{
        message::Submission,
        names::{Lane, SubmissionId},
        units::Micros,
    },
};
use fleet::{
    cluster::{Cluster, HEALED, NODES},
    comes_true, containers_of, eventually,
    messages::{id, publish_body, pull, tenant},
    network::Network,
    proxy::Proxy,
    signal,
};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::{
    process::Child,
    sync::{Mutex, MutexGuard},
    task::JoinHandle,
};

/// How long an outage and what waited for its end may take.
const LONG: Duration = Duration::from_secs(90);

/// One cluster at a time: three servers and two workers fill two processors.
static ONE: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().await
}

/// Worker processes, stopped in good order at the end.
struct Workers(Vec<(String, Child)>);

impl Workers {
    /// `count` workers of two slots each, that connect to `url`, started and seen in the registry.
    async fn start(cluster: &Cluster, count: u32, url: &str) -> Self {
        let mut workers = Vec::new();
        for place in 0..count {
            let id = format!("w{place}-{}", &SubmissionId::generate().as_str()[19..]);
            let mut command = cluster.worker(&id, 2);
            command
                .env("ENVICUTOR__NATS__URL", url)
                .env("ENVICUTOR__RUNTIMES__PRELOAD", "bash")
                .env("ENVICUTOR__CONTAINER__ISOLATION", "sandbox")
                .env(
                    "ENVICUTOR__CONTAINER__UID_FIRST",
                    (740_000 + place * 10_000).to_string(),
                );
            workers.push((id, command.spawn().expect("envicutor-worker starts")));
        }
        let workers = Self(workers);
        let operator = Client::connect_as(&cluster.config(Role::Operator), Role::Operator).await;
        let operator = operator.expect("connected");
        eventually("every worker is registered", fleet::FIRST_USE, || async {
            let there = operator.workers().await.unwrap_or_default();
            workers
                .0
                .iter()
                .all(|(id, _)| there.iter().any(|worker| worker.worker == *id))
        })
        .await;
        operator.close().await;
        workers
    }

    /// Stops them and checks that they were alive and leave nothing.
    async fn stop(self) {
        for (id, mut worker) in self.0 {
            assert!(
                worker.try_wait().expect("asked").is_none(),
                "{id} ended by itself"
            );
            signal(&worker, "TERM").await;
            let ended = tokio::time::timeout(fleet::slowly(LONG), worker.wait()).await;
            let status = ended
                .expect("it ends in time")
                .expect("it can be waited for");
            assert!(status.success(), "{id} ended with {status}");
            assert!(containers_of(&id).await.is_empty(), "{id} left containers");
        }
    }
}

/// A service that publishes without a pause, and a subscriber.
struct Load {
    over: Arc<AtomicBool>,
    publishing: JoinHandle<BTreeSet<String>>,
    heard: Arc<StdMutex<Vec<String>>>,
    listening: JoinHandle<()>,
    published: Arc<AtomicUsize>,
}

impl Load {
    /// Begins to publish and to listen over `url`.
    async fn start(cluster: &Cluster, url: &str) -> Self {
        let mut config = cluster.config(Role::Service);
        url.clone_into(&mut config.nats.url);
        let client = Client::connect_with(&config).await.expect("connected");
        let listener = Bus::connect(&config.nats, Role::Service, "test")
            .await
            .expect("connected");
        let mut results = listener
            .client
            .subscribe("envicutor.results.default.>")
            .await
            .expect("subscribed");
        listener
            .round_trip()
            .await
            .expect("the subscription stands");
        let heard = Arc::new(StdMutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            let mut look = tokio::time::interval(Duration::from_secs(2));
            loop {
                let message = tokio::select! {
                    message = results.next() => message.expect("the subscription lasts"),
                    // Who only listens hears nothing from a server that lost its cluster, not even that.
                    _ = look.tick() => {
                        listener.check_for_leader().await;
                        continue;
                    }
                };
                let result: Value = serde_json::from_slice(&message.payload).expect("a result");
                assert_eq!(
                    (&result["outcome"], &result["verdict"]),
                    (&"finished".into(), &"ok".into()),
                    "{result:#}"
                );
                let id = result["id"].as_str().expect("an id").to_owned();
                hearing.lock().expect("no panic").push(id);
            }
        });
        let over = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicUsize::new(0));
        let (ending, counting) = (Arc::clone(&over), Arc::clone(&published));
        let publishing = tokio::spawn(async move {
            let mut ids = BTreeSet::new();
            while !ending.load(Ordering::Relaxed) {
                let submission =
                    Submission::new("bash".parse().expect("valid")).source("echo $((6 * 7))");
                let submitted = client
                    .submit(&tenant(), Lane::Interactive, None, &submission)
                    .await;
                let submitted =
                    submitted.expect("a publish that is tried again is stored in the end");
                ids.insert(submitted.id.to_string());
                counting.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            client.close().await;
            ids
        });
        Self {
            over,
            publishing,
            heard,
            listening,
            published,
        }
    }

    fn heard(&self) -> usize {
        self.heard.lock().expect("no panic").len()
    }

    /// Waits until submissions that are published from now on are run.
    async fn goes_on(&self, after: &str) {
        let (published, heard) = (self.published.load(Ordering::Relaxed), self.heard());
        eventually(
            &format!("submissions are published and run after {after}"),
            LONG,
            || async {
                self.published.load(Ordering::Relaxed) >= published + 10
                    && self.heard() >= heard + 10
            },
        )
        .await;
    }

    /// Ends the publishing, and checks that each submission came to one result, and that nothing is left.
    async fn ends_well(self, bus: &Bus) {
        self.over.store(true, Ordering::Relaxed);
        let ids = self
            .publishing
            .await
            .expect("every submission was published");
        let state = |stream: String| async move {
            let info: Value = bus
                .api(&format!("STREAM.INFO.{stream}"), &Value::Null)
                .await
                .expect("asked");
            info["state"].clone()
        };
        // A server that was cut off may answer for a while as the leader that it was: what it does not have yet is no loss. And what
        // was acked while the queue's leader changed, a server may remove only when it looks for it: every two minutes and a half
        // at most (`checkInterestState` of nats-server 2.15).
        let seen = StdMutex::new(Vec::new());
        let ended = comes_true(HEALED, || async {
            let queued = state(bus.names.submissions_stream(&tenant())).await;
            let results = state(bus.names.results_stream()).await;
            assert!(
                results["last_seq"].as_u64() <= Some(ids.len() as u64),
                "one had two, if only for a moment: {results}"
            );
            let all = queued["messages"] == 0
                && results["messages"] == ids.len()
                && results["last_seq"] == ids.len();
            *seen.lock().expect("no panic") = vec![queued, results];
            all
        })
        .await;
        if !ended {
            let queue = bus.names.submissions_stream(&tenant());
            let mut of_consumers = Vec::new();
            for lane in Lane::ALL {
                let call = format!("CONSUMER.INFO.{queue}.{lane}");
                let asked = bus.api(&call, &Value::Null);
                of_consumers.push(
                    asked
                        .await
                        .unwrap_or_else(|error| Value::String(error.to_string())),
                );
            }
            panic!(
                "not within {HEALED:?}: the queue is empty and each of {} submissions has a result: {:#?}, {of_consumers:#?}",
                ids.len(),
                seen.lock().expect("no panic"),
            );
        }
        assert_eq!(
            state(bus.names.dead_letters_stream()).await["last_seq"],
            0,
            "nothing was dead-lettered"
        );
        self.listening.abort();
        let heard = self.heard.lock().expect("no panic").clone();
        let distinct: BTreeSet<_> = heard.iter().cloned().collect();
        assert_eq!(
            distinct.len(),
            heard.len(),
            "a subscriber heard a result twice"
        );
        assert!(
            distinct.is_subset(&ids),
            "a result of nothing that was published"
        );
        println!("{} submissions, {} heard live", ids.len(), heard.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_submission_ends_once_while_the_leaders_of_queue_and_results_are_killed() {
    let _alone = alone().await;
    let mut cluster = Cluster::start().await;
    let workers = Workers::start(&cluster, 2, &cluster.url(Role::Worker)).await;
    let load = Load::start(&cluster, &cluster.url(Role::Service)).await;
    load.goes_on("the start").await;
    for stream in ["SUBMISSIONS_default", "RESULTS"] {
        let leader = cluster.leader(stream).await;
        cluster.kill(leader).await;
        load.goes_on(&format!("the death of the leader of {stream}"))
            .await;
        cluster.start_node(leader);
        cluster.healthy().await;
    }
    load.ends_well(&cluster.bus(Role::Operator).await).await;
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_restart_one_after_another_and_one_hangs_and_nobody_notices() {
    let _alone = alone().await;
    let mut cluster = Cluster::start().await;
    let workers = Workers::start(&cluster, 2, &cluster.url(Role::Worker)).await;
    let load = Load::start(&cluster, &cluster.url(Role::Service)).await;
    for node in 0..NODES {
        cluster.restart(node).await;
        cluster.healthy().await;
        load.goes_on(&format!("the restart of node {node}")).await;
    }
    let leader = cluster
        .consumer_leader("SUBMISSIONS_default", "interactive")
        .await;
    cluster.hang(leader).await;
    load.goes_on("a server hung").await;
    cluster.go_on(leader).await;
    cluster.healthy().await;
    load.ends_well(&cluster.bus(Role::Operator).await).await;
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_to_a_server_that_lost_its_cluster_moves_to_another() {
    let _alone = alone().await;
    let network = Network::make();
    let cluster = Cluster::start_in(&network, |_| ()).await;
    let workers = Workers::start(&cluster, 2, &cluster.url(Role::Worker)).await;
    let load = Load::start(&cluster, &cluster.url(Role::Service)).await;
    load.goes_on("the start").await;

    // A worker's server that programs still reach, and the other nodes do not.
    let worker = workers.0[0].1.id().expect("it runs");
    let node = *connected(&cluster, worker)
        .await
        .first()
        .expect("it is connected");
    network.part(node);
    load.goes_on("a server was parted from the others").await;
    eventually("the worker has left the parted server", LONG, || async {
        !connected(&cluster, worker).await.contains(&node)
    })
    .await;
    network.mend(node);
    cluster.healthy().await;

    // The queue's, that nobody reaches.
    let leader = cluster.leader("SUBMISSIONS_default").await;
    network.isolate(leader);
    load.goes_on("a server was parted from everything").await;
    network.mend(leader);
    cluster.healthy().await;
    load.ends_well(&cluster.bus(Role::Operator).await).await;
    workers.stop().await;
}

/// What the queue's leader was asked to store when it lost the others it counts as queued, and never stores.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_parted_leader_counts_as_queued_is_not_taken_for_stored() {
    let _alone = alone().await;
    let network = Network::make();
    let cluster = Cluster::start_in(&network, |_| ()).await;
    let leader = cluster.leader("SUBMISSIONS_default").await;
    let mut config = cluster.config(Role::Service).nats;
    config.url = cluster.url_of(leader, Role::Service);
    config.request_timeout_us = Micros(1_000_000);
    let to_leader = Bus::connect(&config, Role::Service, "test").await;
    let to_leader = to_leader.expect("connected");
    let body = || br#"{"runtime":"bash"}"#.to_vec();
    let tenant = tenant();
    let publish = |bus| publish_body(bus, &tenant, Lane::Interactive, "counted", body());

    network.part(leader);
    let first = publish(&to_leader).await;
    assert!(matches!(first, Err(PublishError::Unknown(_))), "{first:?}");
    let second = publish(&to_leader).await;
    assert!(
        matches!(second, Err(PublishError::NotSeen { .. })),
        "the server counts what it has not: {second:?}"
    );
    to_leader.close().await;

    // The others have a leader of their own, and nothing of it.
    let to_all = cluster.bus(Role::Service).await;
    eventually("it is stored", LONG, || async {
        publish(&to_all).await.is_ok()
    })
    .await;
    network.mend(leader);
    cluster.healthy().await;
    let again = publish(&to_all).await;
    assert!(
        matches!(again, Err(PublishError::StillQueued { is_same: true, .. })),
        "{again:?}"
    );
    let operator = cluster.bus(Role::Operator).await;
    let info: Value = operator
        .api("STREAM.INFO.SUBMISSIONS_default", &Value::Null)
        .await
        .expect("asked");
    assert_eq!(info["state"]["messages"], 1);
}

/// The nodes that a process has connections to.
async fn connected(cluster: &Cluster, pid: u32) -> BTreeSet<usize> {
    let listed = tokio::process::Command::new("ss")
        .args(["-Htnp", "state", "established"])
        .output()
        .await;
    let listed = String::from_utf8_lossy(&listed.expect("ss runs: the package iproute2").stdout)
        .into_owned();
    let of_process = format!("pid={pid},");
    let lines: Vec<_> = listed
        .lines()
        .filter(|line| line.contains(&of_process))
        .collect();
    let node = |node: &usize| {
        let address = format!(" {} ", cluster.address(*node));
        lines.iter().any(|line| line.contains(&address))
    };
    (0..NODES).filter(node).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_again_and_again_lose_and_double_nothing() {
    let _alone = alone().await;
    let cluster = Cluster::start().await;
    let mut proxies = Vec::new();
    for node in 0..NODES {
        proxies.push(Proxy::before(cluster.address(node)).await);
    }
    let url = |role| {
        let urls = proxies
            .iter()
            .map(|proxy| cluster.url_at(proxy.address(), role));
        urls.collect::<Vec<_>>().join(",")
    };
    let workers = Workers::start(&cluster, 2, &url(Role::Worker)).await;
    let load = Load::start(&cluster, &url(Role::Service)).await;
    load.goes_on("the start").await;
    for cut in 0..15 {
        for proxy in &proxies {
            proxy.cut();
        }
        tokio::time::sleep(Duration::from_millis(250 + cut * 20)).await;
    }
    load.goes_on("the connections were cut").await;
    load.ends_well(&cluster.bus(Role::Operator).await).await;
    let connections: usize = proxies.iter().map(Proxy::connections).sum();
    assert!(
        connections > 30,
        "only {connections} connections were there to be cut"
    );
    workers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_added_to_what_is_queued_and_never_taken_away() {
    let _alone = alone().await;
    let mut cluster = Cluster::start_empty(|config| config.nats.replicas = 1).await;
    cluster.apply().await;
    let service = cluster.bus(Role::Service).await;
    for name in ["a1", "a2", "a3"] {
        fleet::messages::publish(&service, Lane::Batch, name)
            .await
            .expect("published");
    }
    let mut puller = Puller::new(&cluster.bus(Role::Worker).await)
        .await
        .expect("an inbox");
    let running = pull(&mut puller, Lane::Batch).await;

    // As an operator would: the leader of the cluster dies while the copies are made.
    let operator = cluster.bus(Role::Operator).await;
    let mut config = cluster.config(Role::Operator);
    config.nats.replicas = 3;
    let reports = provision::apply(&operator, &config).await.expect("applied");
    for report in &reports {
        assert!(
            matches!(
                report.outcome,
                Outcome::Updated(_) | Outcome::Unchanged | Outcome::Degraded(_)
            ),
            "{report:?}"
        );
    }
    let is_done = || async {
        let reports = provision::check(&operator, &config).await.expect("checked");
        reports
            .iter()
            .all(|report| report.outcome == Outcome::Unchanged)
    };
    eventually("every stream and consumer has its copies", LONG, is_done).await;
    running
        .ack()
        .await
        .expect("what ran meanwhile is acknowledged");
    let leader = cluster.leader("SUBMISSIONS_default").await;
    cluster.kill(leader).await;
    let mut taken = BTreeSet::new();
    for _ in 0..2 {
        let delivery = pull_through(&mut puller).await;
        taken.insert(delivery.address.raw_id.clone());
        delivery.ack().await.expect("acknowledged");
    }
    assert_eq!(taken, BTreeSet::from(["a2".to_owned(), "a3".to_owned()]));
    // From any copy, which may be a moment behind.
    eventually("no copy holds what was acknowledged", LONG, || async {
        let left = queue::find_queued(&operator, &tenant(), &id("a3")).await;
        left.expect("asked").is_none()
    })
    .await;

    let reports = provision::check(&operator, &config).await.expect("checked");
    let degraded = |report: &provision::Report| matches!(report.outcome, Outcome::Degraded(_));
    assert!(reports.iter().any(degraded), "a copy is away: {reports:?}");
    config.nats.replicas = 1;
    let reports = provision::apply(&operator, &config).await.expect("applied");
    for report in &reports {
        assert!(
            matches!(report.outcome, Outcome::Refused(_)),
            "fewer copies: {report:?}"
        );
    }
}

/// Pulls until there is something, whatever outage is in between.
async fn pull_through(puller: &mut Puller) -> queue::Delivery {
    let find = async {
        loop {
            if let Ok(Some(delivery)) = puller.pull(&tenant(), Lane::Batch).await {
                return delivery;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(fleet::slowly(LONG), find)
        .await
        .expect("something to take")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_gets_from_nothing_to_a_cluster_by_init_start_and_apply() {
    let _alone = alone().await;
    // The files were written as the command writes them: it is asked to do it once more, elsewhere.
    let mut cluster = Cluster::start_empty(|_| ()).await;
    let nodes = (0..NODES)
        .map(|node| cluster.address(node))
        .collect::<Vec<_>>()
        .join(",");
    let other = cluster.data_dir().join("other");
    let init = envicutor(
        &cluster,
        &["nats", "init", text(&other), "--cluster", &nodes],
    )
    .await;
    let said = String::from_utf8_lossy(&init.stderr).into_owned();
    assert!(init.status.success(), "{said}");
    assert!(
        said.contains("nats-server --config node-3.conf") && said.contains("nats apply"),
        "{said}"
    );
    for file in ["server.conf", "node-1.conf", "node-2.conf", "node-3.conf"] {
        let read = |dir: &Path| std::fs::read_to_string(dir.join(file)).expect("read");
        assert_eq!(read(&other), read(&cluster.dir()), "{file}");
    }

    // One server of three leads nothing: streams are made once it is not alone any more.
    for node in [0, 1] {
        cluster.kill(node).await;
    }
    let config = cluster.dir().join("envicutor.toml");
    let mut apply = fleet::command(cluster.data_dir()).await;
    apply.args(["--config", text(&config), "nats", "apply"]);
    let mut applying = apply
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("envicutor starts");
    let waited = tokio::time::timeout(Duration::from_secs(2), applying.wait()).await;
    assert!(
        waited.is_err(),
        "nobody could have made anything: {waited:?}"
    );
    cluster.start_node(0);
    cluster.start_node(1);
    let applied = tokio::time::timeout(fleet::slowly(LONG), applying.wait()).await;
    assert!(applied.expect("it ends in time").expect("waited").success());
    cluster.healthy().await;
    let checked = envicutor(&cluster, &["--config", text(&config), "nats", "check"]).await;
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}

async fn envicutor(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = fleet::command(cluster.data_dir()).await;
    command
        .args(arguments)
        .output()
        .await
        .expect("envicutor runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
