//! Servers that are cut off: from the others, from everything, from a program.

use std::{collections::BTreeSet, time::Duration};

use envicutor::{
    bus::{Bus, Role, publish::PublishError},
    submission::{names::Lane, units::Micros},
};
use serde_json::Value;

use crate::{
    LONG, alone,
    fleet::{
        cluster::{Cluster, NODES},
        eventually,
        messages::{publish_body, tenant},
        network::Network,
        proxy::Proxy,
    },
    load::{Load, Workers},
};

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
