//! Workers and clients over a cluster of three NATS servers whose servers die, hang, restart and are cut off: both go on without a
//! restart, and each submission ends once. Real servers, real workers, programs in isolation `sandbox`.

#[path = "../fleet/mod.rs"]
mod fleet;

mod load;
mod operator;
mod parted;

use std::time::Duration;

use envicutor::bus::Role;
use fleet::cluster::{Cluster, NODES};
use load::{Load, Workers};
use tokio::sync::{Mutex, MutexGuard};

/// How long an outage and what waited for its end may take.
const LONG: Duration = Duration::from_secs(90);

/// One cluster at a time: three servers and two workers fill two processors.
static ONE: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().await
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
