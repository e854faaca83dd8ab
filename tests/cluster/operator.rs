//! What an operator does: a cluster from nothing, and copies of what is queued.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use envicutor::{
    bus::{
        Role,
        provision::{self, Outcome},
        queue::{self, Puller},
    },
    submission::names::Lane,
};

use crate::{
    LONG, alone,
    fleet::{
        self,
        cluster::{Cluster, NODES},
        eventually,
        messages::{id, pull, tenant},
    },
};

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
