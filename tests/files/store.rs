//! The store behind a proxy that hangs, slows, spoils or drops what goes through it, between a whole fleet and a real S3 server: each
//! ends as `docs/delivery.md` promises, from the publish to the result.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use envicutor::{
    Client,
    blobs::{BlobError, Blobs, Store},
    client::ClientError,
    config::{self, Config},
    submission::{
        names::{Digest, Lane, Tenant},
        result::{FailureCode, Outcome},
    },
};
use serde_json::{Value, json};

use crate::{
    bed::{get, is_dead_by_the_store, is_uncounted, noise, numbers, put, run, stdout, submission},
    fleet::{
        eventually,
        proxy::{Manner, Proxy},
        slowly,
    },
    server::{TestS3, config_of},
    site::{
        LONG, Site,
        worker::{Builder, Worker},
    },
};

/// Of a download this much is never one read from a socket: a listing, an answer without a body is.
const SPOILING: Manner = Manner::Spoiling(8 << 10);

/// How long a call to the store may take here.
const CALL: Duration = Duration::from_secs(2);

/// A site whose workers reach their store through the proxy, and whose tests go round it.
struct Bed {
    site: Site,
    s3: TestS3,
    proxy: Proxy,
}

impl Bed {
    async fn start() -> Self {
        let (site, s3) = tokio::join!(Site::start(), TestS3::start());
        let proxy = Proxy::before(s3.address().to_owned()).await;
        Self { site, s3, proxy }
    }

    /// A worker that gives up a call to the store soon, and asks no longer than that.
    fn worker(&self, name: &str) -> Builder {
        let patient = self.patient_worker(name);
        patient
            .env("BLOBS__CALL_TIMEOUT_US", slowly(CALL).as_micros())
            .env("BLOBS__OUTAGE_TIMEOUT_US", "1s")
    }

    /// One that waits for the store as long as it does by default.
    fn patient_worker(&self, name: &str) -> Builder {
        let blobs = config_of(self.proxy.address(), &config::Blobs::default());
        let mut worker = self.site.worker(name).env("BLOBS__URL", blobs.url);
        for (key, value) in blobs.options {
            let key = format!("BLOBS__OPTIONS__{}", key.to_uppercase());
            worker = worker.env(&key, value);
        }
        worker
    }

    /// The default tenant's blobs, whatever the proxy does.
    fn blobs(&self) -> Blobs {
        let config = Config {
            blobs: self.s3.config(&config::Blobs::default()),
            ..Config::default()
        };
        let store = Store::open(&config, None).expect("a store");
        store.of(&Tenant::default_tenant())
    }

    /// Waits until `worker` has found its store away so many times since its log was so long.
    async fn probes_fail(worker: &Worker, times: usize, since: usize) {
        let what = format!("the probe has failed {times} times");
        eventually(&what, LONG, || async {
            let failed = worker.log()[since..].matches("the probe fails").count();
            failed >= times
        })
        .await;
    }

    /// It ran once, however often it was tried, and nothing of the outage counts.
    async fn ran_once_and_uncounted(&self, id: &str) {
        assert_eq!(self.site.seen.events(id, "stage_started").len(), 1, "{id}");
        is_uncounted(&self.site, id).await;
    }
}

/// A submission that hashes its input.
fn hashes(stdin: &Value) -> String {
    submission("sha256sum", &json!({"run": {"stdin": stdin}}))
}

/// What it prints of the right input.
fn hash_of(data: &[u8]) -> String {
    format!("{}  -\n", Digest::of(data).hex())
}

/// Every file below.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_store_that_hangs_or_is_gone_ends_right_when_it_is_back_and_uncounted() {
    let bed = Bed::start().await;
    let worker = bed.worker("w").start().await;
    for (manner, name) in [(Manner::Hanging, "hanging"), (Manner::Away, "away")] {
        let data = noise(name.len() as u64, 3_000_000);
        let body = hashes(&put(&bed.blobs(), &data).await);
        let ids = [format!("{name}-1"), format!("{name}-2")];
        let since = worker.log().len();
        bed.proxy.is(manner);
        for id in &ids {
            bed.site.publish(Lane::Interactive, id, body.clone()).await;
        }
        Bed::probes_fail(&worker, 3, since).await;
        assert_eq!(bed.site.queued().await, 2, "{name}");
        bed.proxy.is(Manner::Well);
        for id in &ids {
            assert_eq!(stdout(&bed.site.result(id).await), hash_of(&data), "{id}");
            bed.ran_once_and_uncounted(id).await;
        }
    }
    bed.site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_falls_silent_in_the_middle_of_a_blob_costs_no_attempt() {
    const SIZE: usize = 8 << 20;
    let bed = Bed::start().await;
    let worker = bed.worker("w").start().await;
    let data = noise(1, SIZE);
    let body = hashes(&put(&bed.blobs(), &data).await);
    let before = bed.proxy.carried();
    bed.proxy.is(Manner::Slow(Duration::from_millis(20)));
    bed.site.publish(Lane::Interactive, "a1", body).await;
    let carried = || bed.proxy.carried() - before;
    eventually("some of the blob has come", LONG, || async {
        carried() > 1 << 20
    })
    .await;
    bed.proxy.is(Manner::Hanging);
    assert!(carried() < SIZE as u64, "it came whole: {}", carried());
    Bed::probes_fail(&worker, 1, 0).await;
    bed.proxy.is(Manner::Well);
    assert_eq!(stdout(&bed.site.result("a1").await), hash_of(&data));
    bed.ran_once_and_uncounted("a1").await;
    bed.site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_slow_is_waited_for_and_for_no_longer_than_is_configured() {
    let bed = Bed::start().await;
    let worker = bed
        .worker("w")
        .env("WORKER__STAGE_TIMEOUT_US", slowly(CALL).as_micros())
        .start()
        .await;
    let (soon, late) = (noise(1, 1 << 20), noise(2, 16 << 20));
    let blobs = bed.blobs();
    let named = (put(&blobs, &soon).await, put(&blobs, &late).await);
    bed.proxy.is(Manner::Slow(Duration::from_millis(20)));
    let result = run(&bed.site, "soon", hashes(&named.0)).await;
    assert_eq!(stdout(&result), hash_of(&soon));
    assert_eq!(result.attempt, 1);
    // It answers all the time, and the blob takes half a minute and more.
    bed.proxy.is(Manner::Slow(Duration::from_millis(150)));
    let result = run(&bed.site, "late", hashes(&named.1)).await;
    is_dead_by_the_store(&bed.site, &result, "worker.stage_timeout_us").await;
    assert!(bed.site.seen.events("late", "stage_started").is_empty());
    bed.proxy.is(Manner::Well);
    let result = run(&bed.site, "again", hashes(&named.1)).await;
    assert_eq!(stdout(&result), hash_of(&late));
    bed.site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_spoils_is_never_run_with_and_dead_lettered_in_the_end() {
    let bed = Bed::start().await;
    let worker = bed.worker("w").start().await;
    let data = noise(1, 3_000_000);
    let body = hashes(&put(&bed.blobs(), &data).await);
    bed.proxy.is(SPOILING);
    let result = run(&bed.site, "a1", body.clone()).await;
    is_dead_by_the_store(&bed.site, &result, Digest::of(&data).as_str()).await;
    assert!(bed.site.seen.events("a1", "stage_started").is_empty());
    let letters = bed.site.letters().await;
    let [letter] = letters.as_slice() else {
        panic!("{letters:#?}");
    };
    assert_eq!(letter.letter.attempts.len(), 3);
    let corrupt = |error: &str| error.contains("corrupt");
    assert!(
        letter.letter.attempts.iter().all(|it| corrupt(&it.error)),
        "{letter:#?}"
    );
    // Nothing of what came is taken for the blob afterwards.
    bed.proxy.is(Manner::Well);
    assert_eq!(stdout(&run(&bed.site, "a2", body).await), hash_of(&data));
    bed.site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_spoils_for_a_while_is_fetched_again_and_counted() {
    let bed = Bed::start().await;
    let worker = bed.worker("w").start().await;
    let data = noise(1, 3_000_000);
    let body = hashes(&put(&bed.blobs(), &data).await);
    bed.proxy.is(SPOILING);
    bed.site.publish(Lane::Interactive, "a1", body).await;
    eventually("an attempt failed", LONG, || async {
        let noted = bed.site.attempts("a1").await.unwrap_or_default();
        !noted.attempts.is_empty()
    })
    .await;
    bed.proxy.is(Manner::Well);
    let result = bed.site.result("a1").await;
    assert_eq!(stdout(&result), hash_of(&data));
    assert!(result.attempt > 1, "{result:#?}");
    let noted = bed.site.attempts("a1").await.unwrap_or_default();
    assert_eq!(noted.last_code, Some(FailureCode::Store), "{noted:#?}");
    assert_eq!(bed.site.seen.events("a1", "stage_started").len(), 1);
    assert!(bed.site.letters().await.is_empty());
    bed.site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_and_files_wait_for_a_store_that_hangs_and_are_never_handed_out_spoiled() {
    let bed = Bed::start().await;
    let worker = bed.worker("w").start().await;
    let body = submission(
        "seq 1 200000; mkdir out; seq 1 300000 > out/numbers",
        &json!({"collect": ["out/*"], "run": {"limits": {"output_bytes": 16 << 20}}}),
    );
    bed.proxy.is(Manner::Hanging);
    bed.site.publish(Lane::Interactive, "a1", body).await;
    Bed::probes_fail(&worker, 2, 0).await;
    assert_eq!(bed.site.queued().await, 1);
    bed.proxy.is(Manner::Well);
    let result = bed.site.result("a1").await;
    assert_eq!(result.outcome, Outcome::Finished, "{result:#?}");
    is_uncounted(&bed.site, "a1").await;
    let stored = result.runs[0].stdout.blob.as_ref().expect("in the store");
    let [collected] = result.collected.as_slice() else {
        panic!("{result:#?}");
    };
    assert!(get(&bed.blobs(), stored).await == numbers(200_000));
    assert!(get(&bed.blobs(), &collected.blob).await == numbers(300_000));

    // Whoever fetches them is told of wrong bytes, and has no file with them.
    let config = Config {
        nats: bed.site.service_config(),
        blobs: config_of(bed.proxy.address(), &config::Blobs::default()),
        ..Config::default()
    };
    let client = Client::connect_with(&config).await.expect("connected");
    let dir = bed.site.data_dir.path().join("results");
    bed.proxy.is(SPOILING);
    let spoiled = client.fetch(&result, &dir, false).await;
    assert!(
        matches!(spoiled, Err(ClientError::Store(BlobError::Corrupt { .. }))),
        "{spoiled:?}"
    );
    assert!(files(&dir).is_empty(), "{:?}", files(&dir));
    bed.proxy.is(Manner::Well);
    client.fetch(&result, &dir, false).await.expect("fetched");
    let fetched = std::fs::read(dir.join("out/numbers")).expect("there");
    assert!(fetched == numbers(300_000));
    client.close().await;
    bed.site.end([worker]).await;
}

/// Its worker has one slot, and a cache that holds one such blob at a time: what a cancelled one kept would be in the way of the next.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_being_staged_is_cancelled_at_once_and_leaves_nothing_behind() {
    const SIZE: usize = 8 << 20;
    let bed = Bed::start().await;
    let cache = bed.site.data_dir.path().join("cache-of-w");
    let worker = bed
        .patient_worker("w")
        .env("WORKER__CACHE_DIR", cache.display())
        .env("WORKER__CACHE_BYTES", SIZE + (1 << 20))
        .env("WORKER__COMPILE_CACHE_ARTIFACT_BYTES", 4096)
        .env("CEILINGS__BLOBS", 1)
        .env("CEILINGS__BLOB_TOTAL_BYTES", SIZE)
        .start()
        .await;
    let data = noise(1, SIZE);
    let body = hashes(&put(&bed.blobs(), &data).await);
    let slow = Manner::Slow(Duration::from_millis(500));
    for (manner, id) in [(Manner::Hanging, "hanging"), (slow, "slow")] {
        let (asked, carried) = (bed.proxy.asked(), bed.proxy.carried());
        bed.proxy.is(manner);
        bed.site.publish(Lane::Interactive, id, body.clone()).await;
        let what = format!("{id}: the store is asked");
        eventually(&what, LONG, || async {
            match manner {
                Manner::Hanging => bed.proxy.asked() > asked,
                // Past the look-up: the blob itself is on its way.
                _ => bed.proxy.carried() > carried + (128 << 10),
            }
        })
        .await;
        let begun = Instant::now();
        let answer = bed.site.cancel(id).await;
        assert_eq!(answer["state"], "cancelled", "{id}: {answer}");
        let result = bed.site.result(id).await;
        assert_eq!(result.outcome, Outcome::Cancelled, "{result:#?}");
        // The slot is free again, with the store as it was.
        let name = format!("after-{id}");
        let next = run(&bed.site, &name, Site::body("echo done")).await;
        assert_eq!(stdout(&next), "done\n");
        let took = begun.elapsed();
        assert!(took < slowly(Duration::from_secs(10)), "{id}: {took:?}");
        let is_blob = |path: &PathBuf| path.file_name().is_some_and(|name| name != ".lock");
        let left: Vec<_> = files(&cache).into_iter().filter(is_blob).collect();
        assert!(left.is_empty(), "{id}: {left:?}");
        assert!(bed.site.seen.events(id, "stage_started").is_empty());
    }
    assert!(
        !worker.log().contains("the probe fails"),
        "{}",
        worker.log()
    );
    bed.proxy.is(Manner::Well);
    let result = run(&bed.site, "whole", body).await;
    assert_eq!(stdout(&result), hash_of(&data));
    assert!(bed.site.letters().await.is_empty());
    bed.site.end([worker]).await;
}
