//! Somebody with the rights of the host ends a container, its agent, or the init of a stage.

use std::collections::HashMap;

use envicutor::submission::result::{FailureCode, Outcome, Verdict};

use crate::{
    fleet, runs,
    site::{LONG, Site, docker, signal, worker::Worker},
};

/// The worker's container that runs the program: its id and its PID 1 as the host sees it.
async fn busy(worker: &Worker) -> (String, u32) {
    fleet::eventually("the program runs", LONG, async || {
        find_busy(worker).await.is_some()
    })
    .await;
    find_busy(worker).await.expect("it runs for a while")
}

async fn find_busy(worker: &Worker) -> Option<(String, u32)> {
    for container in worker.containers().await {
        let pid = pid_of(&container).await;
        if let Some(pid) = pid.filter(|&pid| runs_below(pid, SLEEP)) {
            return Some((container, pid));
        }
    }
    None
}

/// The PID 1 of a container as the host sees it; none of one that does not run, or that is gone since it was listed.
async fn pid_of(container: &str) -> Option<u32> {
    let inspect = tokio::process::Command::new("docker")
        .args(["inspect", "--format", "{{.State.Pid}}", container])
        .output();
    let output = inspect.await.expect("docker runs");
    let pid = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
    pid.filter(|&pid| pid != 0)
}

/// What the program does, as its command line has it. A slot that is being made runs a program too.
const SLEEP: &[u8] = b"sleep\x003\x00";

/// Whether a process with this command line is among those that an agent started.
fn runs_below(agent: u32, command: &[u8]) -> bool {
    let processes = processes();
    let runs_it = |pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| line == command)
    };
    let mut pids = processes.keys();
    pids.any(|&pid| is_below(&processes, pid, agent) && runs_it(pid))
}

fn is_below(processes: &HashMap<u32, Process>, mut pid: u32, agent: u32) -> bool {
    while let Some(process) = processes.get(&pid) {
        if process.parent == agent {
            return true;
        }
        pid = process.parent;
    }
    false
}

struct Process {
    parent: u32,
    /// Its pids from the host's namespace inwards.
    pids: Vec<u32>,
}

/// Every process of the machine.
fn processes() -> HashMap<u32, Process> {
    let number = |name: std::ffi::OsString| name.to_string_lossy().parse::<u32>().ok();
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| number(entry.file_name()));
    pids.filter_map(|pid| Some((pid, read(pid)?))).collect()
}

fn read(pid: u32) -> Option<Process> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let numbers = |text: &str| text.split_whitespace().flat_map(str::parse).collect();
    Some(Process {
        parent: line("PPid:")?.trim().parse().ok()?,
        pids: numbers(line("NSpid:")?),
    })
}

/// The init of the stage that an agent of a slot runs: PID 1 of a namespace below the agent's.
fn init_below(agent: u32) -> Option<u32> {
    let processes = processes();
    let depth = processes.get(&agent)?.pids.len();
    let mut inits = processes.iter().filter(|(pid, it)| {
        it.pids.len() > depth && it.pids.last() == Some(&1) && is_below(&processes, **pid, agent)
    });
    inits.next().map(|(pid, _)| *pid)
}

/// What can be ended.
#[derive(Clone, Copy)]
enum What {
    Container,
    Agent,
    Init,
}

/// It runs again, and the submitter sees nothing of it.
async fn is_run_again(isolation: &str, what: What) {
    let site = Site::start().await;
    let worker = site
        .worker("w")
        .env("CONTAINER__ISOLATION", isolation)
        .env("CONTAINER__POOL_SIZE", 2)
        .start()
        .await;
    site.submit("a1", "sleep 3; echo done").await;
    runs(&site, "a1", 1).await;
    let (container, agent) = busy(&worker).await;
    match what {
        What::Container => drop(docker(&["rm", "--force", &container]).await),
        What::Agent => signal(agent, "KILL").await,
        What::Init => signal(init_below(agent).expect("the init"), "KILL").await,
    }
    let result = site.result("a1").await;
    assert_eq!(result.outcome, Outcome::Finished, "{result:#?}");
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:#?}");
    assert_eq!(result.attempt, 2);
    let noted = site.attempts("a1").await.expect("noted");
    assert_eq!(noted.last_code, Some(FailureCode::Agent));
    assert!(site.letters().await.is_empty());
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_removed_by_hand_costs_an_attempt_and_no_result() {
    Box::pin(is_run_again("container", What::Container)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_costs_an_attempt_and_no_result() {
    Box::pin(is_run_again("sandbox", What::Agent)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_init_of_a_stage_that_is_killed_costs_an_attempt_and_no_result() {
    Box::pin(is_run_again("sandbox", What::Init)).await;
}
