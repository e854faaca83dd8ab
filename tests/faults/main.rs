//! A fleet under faults keeps its promise, and a run that does not is found out. The schedule of a run follows from its seed:
//! `ENVICUTOR_TEST_SEED` is another one. The long run is a command: docs/faults.md.

#[path = "../fleet/mod.rs"]
mod fleet;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use envicutor::{
    config::Config,
    faults::{
        Run,
        plan::{Kind, Plan},
        report::Report,
        run,
    },
    submission::units::Micros,
};
use serde_json::{Value, json};
use tokio::{process::Command, sync::Mutex, time::timeout};

/// One run at a time: two would fight for the processors.
static ONE: Mutex<()> = Mutex::const_new(());

/// The plan of every run here.
async fn plan(submissions: usize, paces: BTreeMap<Kind, Duration>) -> Plan {
    let seed = std::env::var("ENVICUTOR_TEST_SEED");
    let mut config = Config::default();
    config.nats.ack_wait_us = Micros(2_000_000);
    config.nats.server = Some(fleet::nats_server().await);
    Plan {
        seed: seed.map_or(1, |seed| seed.parse().expect("a number")),
        submissions,
        at_a_time: 16,
        workers: 2,
        slots: 2,
        servers: 3,
        paces,
        patience: fleet::slowly(Duration::from_mins(2)),
        worker: PathBuf::from(env!("CARGO_BIN_EXE_envicutor-worker")),
        config,
    }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("envc-").tempdir();
    directory.expect("a temporary directory")
}

/// Tells as the command does.
fn tell(line: &str) {
    eprintln!("{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_under_every_fault_keeps_its_promise() {
    let _one = ONE.lock().await;
    let paces = Kind::ALL.map(|kind| (kind, kind.pace().mul_f64(0.5)));
    // As many as keep the fleet busy until each of the frequent faults has come.
    let plan = plan(1_000, paces.into()).await;
    let dir = directory();
    let report = run(&plan, dir.path(), &tell).await.expect("a run");
    eprintln!("{report}");
    if !report.is_kept() {
        let dir = dir.keep();
        let dir = dir.display();
        panic!("a promise was broken: the report is above, the logs are in {dir}");
    }
    // A run in which nothing was struck or looked at would have kept every promise.
    assert!(report.faults.contains_key(&Kind::WorkerKilled), "{report}");
    assert!(report.faults.contains_key(&Kind::LeaderKilled), "{report}");
    assert!(report.outcomes.results > 930, "{report}");
    assert!(report.outcomes.seen_live > 930, "{report}");
    assert!(report.work.redeliveries > 0, "{report}");
    assert!(report.containers_made > plan.workers, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_puts_a_fleet_with_one_server_under_faults() {
    let _one = ONE.lock().await;
    let data_dir = directory();
    let mut bench = fleet::command(data_dir.path()).await;
    bench
        .args([
            "bench",
            "--faults",
            "--json",
            "--seed",
            "2",
            "--submissions",
            "60",
        ])
        .args(["--servers", "1", "--workers", "1", "--ack-wait", "2s"])
        .args(["--kill-every", "4s", "--leader-kill-every", "5s"])
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let output = timeout(fleet::FIRST_USE, bench.output())
        .await
        .expect("it ends in time")
        .expect("it starts");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert!(output.status.success(), "{}: {report:#}", output.status);
    assert_eq!(report["plan"]["seed"], 2);
    assert_eq!(report["violations"], json!([]));
    assert!(report["work"]["stored"].as_u64() > Some(50), "{report:#}");
    assert!(
        !data_dir.path().join("faults").exists(),
        "its directory is left"
    );
}

/// What nobody may do to a fleet, done behind its back between the faults and the judgement: each is found as what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_breaks_its_promise_is_found_out() {
    let _one = ONE.lock().await;
    let mut plan = plan(20, BTreeMap::new()).await;
    plan.servers = 1;
    plan.workers = 1;
    // What is left here stays: there is nothing to wait for.
    plan.patience = fleet::slowly(Duration::from_secs(20));
    let dir = directory();
    let mut run = Run::begin(&plan, dir.path(), &tell).await.expect("a fleet");
    run.under_faults().await.expect("submitted");
    lose_a_result(&run).await;
    let stray = settle_for_nobody(&run).await;
    run.come_to_rest().await.expect("at rest");
    let container = leave_a_container(&run.place(0)).await;
    std::fs::create_dir_all(dir.path().join("workers/left")).expect("a directory");
    let report = run.judge().await.expect("a report");
    remove_container(&container).await;
    assert_eq!(
        broken(&report),
        BTreeSet::from([
            "nothing is lost",
            "seen is kept",
            "nothing from nowhere",
            "no container",
            "no directory",
        ]),
        "{report}"
    );
    let found = report.violations.iter().map(|told| &told.violation);
    let of_stray = found
        .clone()
        .find(|it| it.invariant == "nothing from nowhere");
    assert_eq!(
        of_stray.and_then(|it| it.id.as_deref()),
        Some(stray),
        "{report}"
    );
    let lost = report
        .violations
        .iter()
        .find(|told| told.violation.invariant == "nothing is lost");
    let story = lost.map(|told| told.story.join("\n")).unwrap_or_default();
    for part in [
        "is stored: sequence",
        "subscriber 0",
        "event: started",
        "settled",
    ] {
        assert!(story.contains(part), "the story lacks {part:?}:\n{story}");
    }
}

fn broken(report: &Report) -> BTreeSet<&str> {
    let violations = report.violations.iter();
    violations.map(|told| told.violation.invariant).collect()
}

async fn lose_a_result(run: &Run<'_>) {
    let which = json!({ "seq": 2 });
    let deleted = run
        .operator()
        .api::<Value>("STREAM.MSG.DELETE.RESULTS", &which)
        .await;
    deleted.expect("an operator may delete it");
}

/// A result of what was never published: a copy of another one's under an id of its own.
async fn settle_for_nobody(run: &Run<'_>) -> &'static str {
    let stored = run
        .operator()
        .get_from_leader("RESULTS", &json!({ "seq": 3 }))
        .await;
    let stored = stored.expect("the server answers").expect("a result");
    let mut result: Value = serde_json::from_slice(&stored.body).expect("JSON in, JSON out");
    result["id"] = "stray".into();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", "application/json");
    headers.insert("Envicutor-Generation", "0");
    let body = result.to_string().into();
    let settled = run
        .operator()
        .publish_stored("envicutor.settle.default.stray", headers, body);
    settled.await.expect("an operator may publish it");
    "stray"
}

/// A container that says that it is of one of this run's workers.
async fn leave_a_container(place: &str) -> String {
    let image = docker(&["images", "--quiet", "envicutor-slot"]).await;
    let image = image.lines().next().expect("the image of slots");
    let label = format!("envicutor.worker={place}-0");
    docker(&["create", "--label", &label, image, "true"]).await
}

async fn remove_container(container: &str) {
    docker(&["rm", container]).await;
}

async fn docker(args: &[&str]) -> String {
    let output = Command::new("docker")
        .args(args)
        .output()
        .await
        .expect("docker runs");
    assert!(output.status.success(), "docker {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
