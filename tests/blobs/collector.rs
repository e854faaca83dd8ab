//! The collector: what something refers to stays, whatever it is; what nothing refers to goes, but not before its time; and a claim
//! wins. Over NATS and over a directory, which have their own ways to remove.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use envicutor::{
    blobs::{
        Blobs, Store,
        collect::{Collected, Collector, Turn},
    },
    bus::{
        Bus, Role,
        leases::{Leases, Taken},
    },
    config::Config,
    submission::{content::Blob, units::Micros},
};
use serde_json::{Value, json};

use crate::{
    bed::{PART, bytes, other_tenant, put, quick, read, tenant},
    fleet::{
        letters::{bury, letter},
        nats::TestNats,
    },
};

/// A fleet whose blobs are in one of the stores.
struct Site {
    nats: TestNats,
    worker: Bus,
    operator: Bus,
    config: Config,
    store: Store,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn in_nats() -> Self {
        Self::start("nats://").await
    }

    async fn in_a_directory() -> Self {
        Self::start("file").await
    }

    async fn start(url: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let url = match url {
            "file" => format!("file://{}", dir.path().display()),
            url => url.to_owned(),
        };
        let nats = TestNats::start_with(|config| {
            config.blobs = quick();
            config.blobs.url = url;
            config.nats.tenants.push(other_tenant());
        })
        .await;
        let worker = nats.bus(Role::Worker).await;
        let config = nats.config(Role::Worker);
        Self {
            operator: nats.bus(Role::Operator).await,
            store: Store::open(&config, Some(&worker)).expect("opened"),
            worker,
            config,
            nats,
            _dir: dir,
        }
    }

    fn blobs(&self) -> Blobs {
        self.store.of(&tenant())
    }

    /// With the rights of a worker, for which everything is old.
    fn collector(&self) -> Collector {
        Collector::new(&self.worker, &self.store, &self.config)
    }

    async fn collect(&self) -> Collected {
        let collected = self.collector().collect(&tenant()).await;
        collected.expect("collected")
    }

    /// Stores bytes of their own.
    async fn blob(&self, seed: u8) -> Blob {
        let (data, blob) = bytes(1_000 + usize::from(seed), seed);
        put(&self.blobs(), &blob, &data).await.expect("stored");
        blob
    }

    async fn store_message(&self, subject: &str, body: &Value) {
        let body = Bytes::from(body.to_string());
        let stored = self
            .operator
            .publish_stored(subject, HeaderMap::new(), body);
        stored.await.expect("stored");
    }

    async fn is_there(&self, blob: &Blob) -> bool {
        let found = self.blobs().head(&blob.digest).await;
        found.expect("asked").is_some()
    }
}

async fn what_is_referred_to_stays_and_the_rest_goes(site: &Site) {
    let mut kept = Vec::new();
    let refers =
        |blob: &Blob| json!({ "runtime": "python", "files": [{ "path": "a", "blob": blob }] });

    let queued = site.blob(1).await;
    site.store_message("envicutor.submissions.default.batch.a1", &refers(&queued))
        .await;
    kept.push(queued);

    let dead = site.blob(2).await;
    bury(&site.worker, &letter("a2", refers(&dead).to_string())).await;
    kept.push(dead);

    let output = site.blob(3).await;
    let result = json!({ "runs": [{ "stdout": { "text": "", "blob": output } }] });
    site.store_message("envicutor.settle.default.a3", &result)
        .await;
    kept.push(output);

    let over = site.blob(4).await;
    site.store_message("envicutor.history.default.batch.a4", &refers(&over))
        .await;
    kept.push(over);

    let installed = site.blob(5).await;
    site.store_message("$KV.runtimes.python", &json!({ "layers": [installed] }))
        .await;
    kept.push(installed);

    let artifact = site.blob(6).await;
    let entry = json!({ "artifact": artifact }).to_string();
    site.blobs()
        .put_named("build", entry.into())
        .await
        .expect("written");
    kept.push(artifact);

    let nobodys = [site.blob(7).await, site.blob(8).await];
    // Another tenant's messages keep nothing of ours.
    site.store_message("envicutor.submissions.other.batch.a1", &refers(&nobodys[0]))
        .await;

    let dry = site
        .collector()
        .dry()
        .collect(&tenant())
        .await
        .expect("looked");
    assert_eq!((dry.blobs, dry.removed, dry.claimed), (8, 2, 0), "{dry:?}");
    for blob in &nobodys {
        assert!(site.is_there(blob).await, "nothing is removed by a look");
    }

    let collected = site.collect().await;
    assert_eq!(
        (collected.blobs, collected.removed),
        (8, 2),
        "{collected:?}"
    );
    for (place, blob) in kept.iter().enumerate() {
        assert!(
            read(&site.blobs(), blob).await.is_ok(),
            "{place} of those referred to"
        );
    }
    for blob in &nobodys {
        assert!(!site.is_there(blob).await);
    }
    let again = site.collect().await;
    assert_eq!((again.blobs, again.removed), (6, 0), "{again:?}");
}

async fn what_was_claimed_not_long_ago_stays(site: &Site) {
    let blob = site.blob(1).await;
    let mut config = site.config.clone();
    config.blobs.grace_us = Micros(3_600_000_000);
    let patient = Collector::new(&site.worker, &site.store, &config);
    let collected = patient.collect(&tenant()).await.expect("collected");
    assert_eq!(
        (collected.blobs, collected.removed),
        (1, 0),
        "{collected:?}"
    );
    assert!(site.is_there(&blob).await);
}

/// While the collector works, services claim what it is about to remove: what was claimed is there afterwards, and what is not there
/// was claimed by nobody.
async fn a_claim_while_it_is_collected_wins(site: &Site) {
    let mut config = site.config.clone();
    let grace = Duration::from_secs(6);
    config.blobs.grace_us = Micros(6_000_000);
    let bus = config.blobs.is_nats().then_some(&site.worker);
    let store = Store::open(&config, bus).expect("opened");
    let (blobs, collector) = (
        store.of(&tenant()),
        Collector::new(&site.worker, &store, &config),
    );
    let mut all = Vec::new();
    for seed in 0..40 {
        all.push(site.blob(seed).await);
    }
    tokio::time::sleep(grace).await;
    let tenant = tenant();
    let claims = async {
        let mut claimed = Vec::new();
        for blob in &all {
            claimed.push(blobs.claim(blob).await.expect("asked"));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        claimed
    };
    let (collected, claimed) = tokio::join!(collector.collect(&tenant), claims);
    let collected = collected.expect("collected");
    for (blob, claimed) in all.iter().zip(&claimed) {
        let is_there = read(&blobs, blob).await.is_ok();
        assert_eq!(is_there, *claimed, "{collected:?} {claimed:?}");
    }
}

/// Each of these over both.
macro_rules! over_both {
    ($($promise:ident),+ $(,)?) => {
        mod in_nats {
            $(#[tokio::test] async fn $promise() { super::$promise(&super::Site::in_nats().await).await; })+
        }
        mod in_a_directory {
            $(#[tokio::test] async fn $promise() { super::$promise(&super::Site::in_a_directory().await).await; })+
        }
    };
}

over_both!(
    what_is_referred_to_stays_and_the_rest_goes,
    what_was_claimed_not_long_ago_stays,
    a_claim_while_it_is_collected_wins,
);

#[tokio::test]
async fn what_an_upload_left_that_was_never_finished_goes() {
    let site = Site::in_nats().await;
    let (data, blob) = bytes(2 * PART, 1);
    // It is cut off in the middle, and nobody cleans up behind it.
    let blobs = site.blobs();
    let (mut pipe, source) = tokio::io::duplex(1 << 20);
    let uploading = tokio::spawn(async move { blobs.put(&blob, source, &|_| ()).await.map(drop) });
    let sent = tokio::io::AsyncWriteExt::write_all(&mut pipe, &data[..PART + (2 << 20)]);
    sent.await.expect("read");
    let chunks = || async {
        let info = site
            .operator
            .api::<Value>("STREAM.INFO.OBJ_blobs-default", &Value::Null);
        info.await.expect("asked")["state"]["messages"]
            .as_u64()
            .expect("a number")
    };
    let within = tokio::time::Instant::now() + Duration::from_mins(1);
    while chunks().await == 0 {
        assert!(tokio::time::Instant::now() < within, "nothing was sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    uploading.abort();
    let _ = uploading.await;
    let kept = site.blob(2).await;
    site.store_message("$KV.runtimes.python", &json!([kept]))
        .await;
    let within = tokio::time::Instant::now() + Duration::from_mins(1);
    // What was on its way may still arrive.
    while chunks().await > 2 {
        assert!(tokio::time::Instant::now() < within, "it is still there");
        site.collect().await;
    }
    assert!(site.is_there(&kept).await);
}

#[tokio::test]
async fn an_entry_that_nobody_uses_goes_and_its_artifact_with_it() {
    let mut site = Site::in_nats().await;
    let artifact = site.blob(1).await;
    let entry = json!({ "artifact": artifact }).to_string();
    site.blobs()
        .put_named("build", entry.into())
        .await
        .expect("written");
    assert_eq!(site.collect().await.entries, 0);
    assert!(site.is_there(&artifact).await);
    site.config.blobs.cache_age_us = Micros(0);
    let collected = site.collect().await;
    assert_eq!(
        (collected.entries, collected.removed),
        (1, 1),
        "{collected:?}"
    );
    assert!(!site.is_there(&artifact).await);
}

#[tokio::test]
async fn one_program_of_a_fleet_collects_at_a_time_and_not_again_at_once() {
    let site = Site::in_nats().await;
    let (tenants, hour) = ([tenant(), other_tenant()], Duration::from_hours(1));
    let leases = Leases::new(&site.worker);
    let taken = leases.take("blobs", "w1", hour, Duration::ZERO).await;
    let Taken::Ours(lease) = taken.expect("asked") else {
        panic!("nobody has it");
    };
    let turn = site.collector().take_turn(&tenants, "w2", hour).await;
    assert_eq!(
        turn.expect("asked"),
        Turn::Held {
            holder: "w1".into()
        }
    );
    lease.give_back(false).await.expect("given back");
    let turn = site.collector().take_turn(&tenants, "w2", hour).await;
    let Turn::Ours(all) = turn.expect("asked") else {
        panic!("it was given back undone");
    };
    let of: Vec<_> = all.iter().map(|collected| &collected.tenant).collect();
    assert_eq!(of, tenants.iter().collect::<Vec<_>>());
    let turn = site.collector().take_turn(&tenants, "w1", hour).await;
    assert_eq!(turn.expect("asked"), Turn::Done);
    // Whom an operator sends does not wait.
    let turn = site
        .collector()
        .take_turn(&tenants, "gc", Duration::ZERO)
        .await;
    assert!(matches!(turn.expect("asked"), Turn::Ours(_)));
    drop(site.nats);
}
