//! `envicutor blobs`: what is stored is shown, and what nothing refers to is removed, by the command itself.

use envicutor::{blobs::Store, bus::Role, submission::units::ByteSize};

use crate::{
    bed::{bytes, other_tenant, put, tenant},
    fleet::{nats::TestNats, operator::Operator},
};

#[tokio::test]
async fn blobs_are_listed_with_their_sizes_and_collected() {
    let nats = TestNats::start().await;
    let service = nats.bus(Role::Service).await;
    let store = Store::open(&nats.config(Role::Service), Some(&service)).expect("opened");
    let blobs = store.of(&tenant());
    let mut digests = Vec::new();
    for seed in 0..3 {
        let (data, blob) = bytes(1_000, seed);
        put(&blobs, &blob, &data).await.expect("stored");
        digests.push(blob.digest.to_string());
    }
    let operator = Operator::new(&nats.url(Role::Operator));
    let listed = operator.json(&["blobs", "ls", "--json"]).await;
    assert_eq!(listed.len(), 3, "{listed:?}");
    for blob in &listed {
        assert_eq!(
            (&blob["tenant"], &blob["size_bytes"]),
            (&"default".into(), &1_000.into())
        );
        let digest = blob["digest"].as_str().expect("a text").to_owned();
        assert!(digests.contains(&digest), "{digest}");
    }
    let shown = operator.run(&["blobs", "ls", "--tenant", "default"]).await;
    let total = format!("default: 3 blobs, {}", ByteSize(3_000));
    assert!(shown.stdout.contains(&total), "{}", shown.stdout);

    // They are too young, and then they would be removed, and then they are.
    let collected = operator.json(&["blobs", "gc", "--json"]).await;
    assert_eq!(
        (&collected[0]["blobs"], &collected[0]["removed"]),
        (&3.into(), &0.into())
    );
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let operator = operator.with("ENVICUTOR__BLOBS__GRACE_US", "1s");
    let collected = operator.json(&["blobs", "gc", "--dry-run", "--json"]).await;
    assert_eq!(collected[0]["removed"], 3, "{collected:?}");
    assert_eq!(operator.json(&["blobs", "ls", "--json"]).await.len(), 3);
    let collected = operator.json(&["blobs", "gc", "--json"]).await;
    assert_eq!(
        (&collected[0]["removed"], &collected[0]["removed_bytes"]),
        (&3.into(), &3_000.into())
    );
    assert!(operator.json(&["blobs", "ls", "--json"]).await.is_empty());
}

#[tokio::test]
async fn a_service_may_not_collect() {
    let nats = TestNats::start_with(|config| config.nats.tenants.push(other_tenant())).await;
    let service = Operator::new(&nats.url(Role::Service));
    let service = service.with("ENVICUTOR__NATS__REQUEST_TIMEOUT_US", "300ms");
    let service = service.with("ENVICUTOR__NATS__OUTAGE_TIMEOUT_US", "300ms");
    let said = service.run(&["blobs", "gc"]).await;
    assert_ne!(said.code, 0, "{}", said.stdout);
}
