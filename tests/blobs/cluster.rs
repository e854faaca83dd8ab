//! The same on a cluster: three copies of every blob, and one server that goes away.

use std::time::Duration;

use envicutor::{
    blobs::{Put, Store},
    bus::{Bus, Role},
};

use crate::{
    bed::{PART, bytes, put, quick, read, tenant},
    fleet::cluster::Cluster,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_blobs_and_takes_new_ones_while_a_server_is_away() {
    let mut cluster = Cluster::start_with(|config| {
        config.blobs = quick();
        config.blobs.outage_timeout_us = envicutor::submission::units::Micros(60_000_000);
    })
    .await;
    let config = cluster.config(Role::Worker);
    let bus = Bus::connect(&config.nats, Role::Worker, "test").await;
    let bus = bus.expect("connected");
    let blobs = Store::open(&config, Some(&bus))
        .expect("opened")
        .of(&tenant());
    let (data, blob) = bytes(2 * PART, 1);
    put(&blobs, &blob, &data).await.expect("stored");
    let leader = cluster.leader("OBJ_blobs-default").await;
    cluster.kill(leader).await;
    let within = Duration::from_mins(3);
    let got = tokio::time::timeout(within, read(&blobs, &blob)).await;
    assert!(got.expect("in time").expect("still there") == data);
    let (more, other) = bytes(2 * PART, 2);
    let open = || std::future::ready(Ok(std::io::Cursor::new(more.clone())));
    let done = tokio::time::timeout(within, blobs.put_again(&other, open, &|_| ())).await;
    assert_eq!(done.expect("in time").expect("stored"), Put::Uploaded);
    assert!(read(&blobs, &other).await.expect("read") == more);
}
