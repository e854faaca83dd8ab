//! A batch goes on while servers of a cluster die under it.

use std::collections::BTreeSet;

use envicutor::bus::Role;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};

use crate::{
    desk::{BODY, outcomes},
    fleet::{
        self,
        cluster::{Cluster, ELECTION},
        letters::{bury, letter, published},
        operator::Operator,
    },
};

/// So many letters take a few seconds at the rate of this test.
const LETTERS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_on_while_the_leaders_of_its_streams_die() {
    let mut cluster = Cluster::start().await;
    let worker = cluster.bus(Role::Worker).await;
    for n in 0..LETTERS {
        bury(&worker, &letter(&format!("a{n}"), BODY)).await;
    }
    let operator = Operator::new(&cluster.url(Role::Operator));
    let arguments = ["dead", "replay", "--all", "--yes", "--json", "--rate", "40"];
    let mut replay = operator.start(&arguments);
    let mut lines = BufReader::new(replay.stdout.take().expect("piped")).lines();
    let mut said = Vec::new();
    for stream in ["DEAD_LETTERS", "SUBMISSIONS_default", "KV_replays"] {
        let so_far = said.len();
        while said.len() < so_far + 20 {
            said.push(next(&mut lines).await.expect("it is not over yet"));
        }
        let leader = cluster.leader(stream).await;
        cluster.kill(leader).await;
        cluster.start_node(leader);
        cluster.healthy().await;
    }
    while let Some(line) = next(&mut lines).await {
        said.push(line);
    }
    assert!(replay.wait().await.expect("it ends").success(), "{said:?}");
    let told: BTreeSet<_> = outcomes(&said).into_iter().collect();
    assert_eq!(told.len(), LETTERS, "each was told once: {said:?}");
    assert!(told.iter().all(|(_, outcome)| *outcome == "replayed"));
    let last = said.last().expect("the batch comes last");
    assert_eq!(last["replayed"], json!(LETTERS), "{last}");
    let bus = cluster.bus(Role::Operator).await;
    assert_eq!(published(&bus).await, LETTERS as u64);
}

/// The next line, which may have to wait for an election.
async fn next(lines: &mut Lines<BufReader<tokio::process::ChildStdout>>) -> Option<Value> {
    let line = tokio::time::timeout(fleet::slowly(ELECTION), lines.next_line()).await;
    let line = line.expect("it goes on").expect("readable")?;
    Some(serde_json::from_str(&line).expect("JSON"))
}
