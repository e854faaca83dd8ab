//! What a cache promises, on a real disk. The stores are of the tests' own: they hang, fail and lie when they are told to.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all, stream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::Notify, time::timeout};

use super::*;
use crate::submission::names::Digest;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_mins(1);

/// How a store gives a blob.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Well,
    /// Half of it, and then nothing more until it is told to go on.
    Halting,
    /// Half of it, and then an error.
    Failing,
    /// Half of it, and no error.
    Short,
    /// More of it than it has.
    Endless,
}

/// A store that counts what it is asked for.
struct Source {
    tenant: Tenant,
    contents: BTreeMap<Digest, Vec<u8>>,
    manner: Mutex<Manner>,
    go_on: Notify,
    reads: AtomicUsize,
}

impl Source {
    fn new(tenant: &str, contents: &[Vec<u8>]) -> Self {
        let named = |data: &Vec<u8>| (Digest::of(data), data.clone());
        Self {
            tenant: tenant.parse().expect("a tenant"),
            contents: contents.iter().map(named).collect(),
            manner: Mutex::new(Manner::Well),
            go_on: Notify::new(),
            reads: AtomicUsize::new(0),
        }
    }

    fn is(&self, manner: Manner) {
        *self.manner.lock().expect("whole") = manner;
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl Origin for Source {
    fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    fn read<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<Incoming<'a>, BlobError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let digest = || blob.digest.clone();
        let Some(data) = self.contents.get(&blob.digest) else {
            return std::future::ready(Err(BlobError::Missing { digest: digest() })).boxed();
        };
        let manner = *self.manner.lock().expect("whole");
        let (first, second) = data.split_at(data.len() / 2);
        let part = |part: &[u8]| Ok(Bytes::copy_from_slice(part));
        let first = stream::iter([part(first)]);
        let second: Incoming<'a> = match manner {
            Manner::Well => stream::iter([part(second)]).boxed(),
            Manner::Failing => {
                let error = BlobError::Missing { digest: digest() };
                stream::once(async {
                    // As a store that is asked over a network: others come meanwhile.
                    tokio::task::yield_now().await;
                    Err(error)
                })
                .boxed()
            }
            Manner::Short => stream::empty().boxed(),
            Manner::Endless => stream::repeat_with(|| Ok(Bytes::from(vec![7; 4_096]))).boxed(),
            Manner::Halting => {
                let second = part(second);
                stream::once(async {
                    self.go_on.notified().await;
                    second
                })
                .boxed()
            }
        };
        std::future::ready(Ok(first.chain(second).boxed())).boxed()
    }
}

fn content(name: u8, size: usize) -> Vec<u8> {
    (0..size)
        .map(|place| name.wrapping_mul(31).wrapping_add(place.to_le_bytes()[0]))
        .collect()
}

fn blob(data: &[u8]) -> Blob {
    Blob {
        digest: Digest::of(data),
        size_bytes: ByteSize(data.len() as u64),
    }
}

async fn opened(directory: &Path, blocks: u64) -> Cache {
    let cache = Cache::open(directory, ByteSize(blocks * BLOCK)).await;
    cache.expect("opened")
}

/// Fetches what has this content, in a room of its own, and checks it.
async fn fetch(cache: &Cache, source: &Source, data: &[u8]) -> Result<Cached, CacheError> {
    let blob = blob(data);
    let room = cache.room(need([&blob])).await?;
    let cached = room.fetch(source, &blob).await?;
    let read = std::fs::read(cached.path()).expect("read");
    assert!(read == data, "what is served is what its digest says");
    Ok(cached)
}

/// The files below, with what they take.
fn files(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if entry.file_name() != ".lock" {
            found.push((path, entry.metadata().expect("there").size()));
        }
    }
    found
}

#[tokio::test]
async fn a_blob_is_fetched_once_and_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("made");
    let data = content(1, 100_000);
    let source = Source::new("a", std::slice::from_ref(&data));
    for _ in 0..2 {
        let cache = opened(directory.path(), 100).await;
        for _ in 0..3 {
            fetch(&cache, &source, &data).await.expect("fetched");
        }
    }
    assert_eq!(source.reads(), 1);
}

#[tokio::test]
async fn an_empty_blob_is_one() {
    let directory = tempfile::tempdir().expect("made");
    let source = Source::new("a", &[vec![]]);
    let cache = opened(directory.path(), 1).await;
    fetch(&cache, &source, &[]).await.expect("fetched");
}

#[tokio::test]
async fn a_digest_is_no_key_to_what_another_tenant_has() {
    let directory = tempfile::tempdir().expect("made");
    let data = content(1, 10);
    let (has, has_not) = (
        Source::new("a", std::slice::from_ref(&data)),
        Source::new("b", &[]),
    );
    let cache = opened(directory.path(), 100).await;
    fetch(&cache, &has, &data).await.expect("fetched");
    let refused = fetch(&cache, &has_not, &data).await;
    assert!(matches!(refused, Err(CacheError::Store(_))));
}

#[tokio::test]
async fn those_who_want_the_same_blob_at_once_have_it_fetched_once() {
    let directory = tempfile::tempdir().expect("made");
    let data = content(1, 100_000);
    let source = Source::new("a", std::slice::from_ref(&data));
    source.is(Manner::Halting);
    let cache = opened(directory.path(), 10_000).await;
    let all = join_all((0..50).map(|_| fetch(&cache, &source, &data)));
    let told = async {
        tokio::task::yield_now().await;
        source.go_on.notify_one();
    };
    let (all, ()) = tokio::join!(all, told);
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(source.reads(), 1);
    assert!(cache.0.gates.lock().expect("whole").is_empty());
}

#[tokio::test]
async fn who_waits_for_a_download_hears_how_it_failed_and_who_comes_later_tries_again() {
    let directory = tempfile::tempdir().expect("made");
    let data = content(1, 100_000);
    let source = Source::new("a", std::slice::from_ref(&data));
    source.is(Manner::Failing);
    let cache = opened(directory.path(), 10_000).await;
    let all = join_all((0..20).map(|_| fetch(&cache, &source, &data))).await;
    assert!(all.iter().all(Result::is_err));
    assert_eq!(source.reads(), 1);
    source.is(Manner::Well);
    fetch(&cache, &source, &data).await.expect("fetched");
    assert!(cache.0.gates.lock().expect("whole").is_empty());
}

#[tokio::test]
async fn where_the_one_who_fetches_gives_up_the_next_goes_on() {
    let directory = tempfile::tempdir().expect("made");
    let data = content(1, 100_000);
    let source = Source::new("a", std::slice::from_ref(&data));
    source.is(Manner::Halting);
    let cache = opened(directory.path(), 100).await;
    let mut first = Box::pin(fetch(&cache, &source, &data));
    timeout(Duration::from_millis(100), &mut first)
        .await
        .expect_err("it halts");
    source.is(Manner::Well);
    let second = fetch(&cache, &source, &data);
    let (fetched, ()) = tokio::join!(second, async { drop(first) });
    fetched.expect("fetched");
    assert_eq!(source.reads(), 2);
    assert_eq!(files(directory.path()).len(), 1, "nothing else is left");
}

#[tokio::test]
async fn a_download_that_is_cut_short_or_too_long_is_never_served() {
    let directory = tempfile::tempdir().expect("made");
    let data = content(1, 100_000);
    let source = Source::new("a", std::slice::from_ref(&data));
    let cache = opened(directory.path(), 100).await;
    for manner in [Manner::Failing, Manner::Short, Manner::Endless] {
        source.is(manner);
        assert!(fetch(&cache, &source, &data).await.is_err());
        assert_eq!(files(directory.path()), [], "nothing is left of it");
        assert_eq!(cache.index().bytes(), 0, "nothing is counted of it");
    }
    let longer = Blob {
        size_bytes: ByteSize(100_001),
        ..blob(&data)
    };
    let room = cache.room(need([&longer])).await.expect("room");
    source.is(Manner::Well);
    let refused = room.fetch(&source, &longer).await;
    assert!(matches!(
        refused,
        Err(CacheError::Length { came: 100_000, .. })
    ));
}

#[tokio::test]
async fn what_is_found_at_a_start_and_is_not_what_it_says_is_fetched_again() {
    let directory = tempfile::tempdir().expect("made");
    let contents: Vec<_> = (0..4).map(|name| content(name, 50_000)).collect();
    let source = Source::new("a", &contents);
    let cache = opened(directory.path(), 1_000).await;
    for data in &contents {
        fetch(&cache, &source, data).await.expect("fetched");
    }
    drop(cache);
    let left = files(directory.path());
    assert_eq!(left.len(), 4);
    // As a power cut leaves files that were never synced: zeros, a part, nothing. The fourth is whole.
    let path_of = |data: &[u8]| {
        let hex = Digest::of(data).as_str()["sha256:".len()..].to_owned();
        let is_it = |it: &&(PathBuf, u64)| it.0.to_string_lossy().contains(&hex);
        left.iter().find(is_it).expect("there").0.clone()
    };
    std::fs::write(path_of(&contents[0]), vec![0; 50_000]).expect("written");
    std::fs::write(path_of(&contents[1]), &contents[1][..20_000]).expect("written");
    std::fs::write(path_of(&contents[2]), []).expect("written");
    let place = path_of(&contents[0]).parent().expect("one").to_owned();
    std::fs::write(place.join("no-blob"), "x").expect("written");
    let cache = opened(directory.path(), 1_000).await;
    let all = join_all(
        contents
            .iter()
            .chain(&contents)
            .map(|it| fetch(&cache, &source, it)),
    );
    for fetched in all.await {
        fetched.expect("fetched");
    }
    assert_eq!(source.reads(), 4 + 3);
    assert_eq!(files(directory.path()).len(), 4, "the stranger is removed");
}

#[tokio::test]
async fn the_cache_stays_within_its_bound_and_keeps_what_is_used() {
    let directory = tempfile::tempdir().expect("made");
    let contents: Vec<_> = (0..30).map(|name| content(name, 10_000)).collect();
    let source = Source::new("a", &contents);
    let cache = opened(directory.path(), 10 * 3).await;
    for data in &contents {
        fetch(&cache, &source, data).await.expect("fetched");
        fetch(&cache, &source, &contents[0]).await.expect("fetched");
        let taken: u64 = files(directory.path())
            .iter()
            .map(|it| footprint(it.1))
            .sum();
        assert!(taken <= 30 * BLOCK, "{taken}");
    }
    assert_eq!(source.reads(), 30);
    // The order of use outlives a restart, and a cache that became smaller goes within its bound at once.
    drop(cache);
    let cache = opened(directory.path(), 6).await;
    assert_eq!(files(directory.path()).len(), 2);
    fetch(&cache, &source, &contents[0]).await.expect("fetched");
    assert_eq!(source.reads(), 30);
}

#[tokio::test]
async fn what_is_held_stays_and_the_next_waits_for_room() {
    let directory = tempfile::tempdir().expect("made");
    let contents: Vec<_> = (0..3).map(|name| content(name, 10_000)).collect();
    let source = Source::new("a", &contents);
    let cache = opened(directory.path(), 2 * 3).await;
    let first = fetch(&cache, &source, &contents[0]).await.expect("fetched");
    let second = fetch(&cache, &source, &contents[1]).await.expect("fetched");
    let mut third = Box::pin(fetch(&cache, &source, &contents[2]));
    let waits = timeout(Duration::from_millis(100), &mut third).await;
    waits.expect_err("there is no room");
    let read = std::fs::read(first.path()).expect("it stays");
    assert!(read == contents[0]);
    drop(second);
    third.await.expect("there is room");
}

#[tokio::test]
async fn what_can_never_be_held_is_refused_by_the_name_of_the_bound() {
    let directory = tempfile::tempdir().expect("made");
    let cache = opened(directory.path(), 3).await;
    let (one, other) = (blob(&content(1, 10_000)), blob(&content(2, 1)));
    cache
        .room(need([&one, &one]))
        .await
        .expect("each counts once");
    let refused = cache.room(need([&one, &other])).await.expect_err("refused");
    assert_eq!(
        refused.to_string(),
        "it needs 16 KiB of blobs at a time, and this worker's cache holds 12 KiB (worker.cache_bytes)"
    );
    let endless = Blob {
        size_bytes: ByteSize(u64::MAX),
        ..one
    };
    cache
        .room(need([&endless, &other]))
        .await
        .expect_err("refused");
}

#[tokio::test]
async fn a_file_that_somebody_removed_is_fetched_again() {
    let directory = tempfile::tempdir().expect("made");
    let data = content(1, 10_000);
    let source = Source::new("a", std::slice::from_ref(&data));
    let cache = opened(directory.path(), 100).await;
    fetch(&cache, &source, &data).await.expect("fetched");
    for (path, _) in files(directory.path()) {
        std::fs::remove_file(path).expect("removed");
    }
    fetch(&cache, &source, &data).await.expect("fetched");
    assert_eq!(source.reads(), 2);
}

#[tokio::test]
async fn workers_of_one_machine_have_a_place_each() {
    let directory = tempfile::tempdir().expect("made");
    let data = content(1, 10_000);
    let source = Source::new("a", std::slice::from_ref(&data));
    let (one, other) = tokio::join!(opened(directory.path(), 100), opened(directory.path(), 100));
    fetch(&one, &source, &data).await.expect("fetched");
    fetch(&other, &source, &data).await.expect("fetched");
    assert_eq!(source.reads(), 2);
    assert_eq!(files(directory.path()).len(), 2);
}

/// The directory of a process that is to be killed in mid-download.
const VICTIM: &str = "ENVICUTOR_TEST_CACHE_VICTIM";

#[tokio::test]
async fn a_process_that_is_killed_in_mid_download_leaves_nothing_that_is_served() {
    let data = content(1, 1_000_000);
    let source = Source::new("a", std::slice::from_ref(&data));
    if let Some(directory) = std::env::var_os(VICTIM) {
        source.is(Manner::Halting);
        let cache = opened(Path::new(&directory), 1_000).await;
        let fetched = fetch(&cache, &source, &data).await;
        unreachable!("it never ends: {fetched:?}");
    }
    let directory = tempfile::tempdir().expect("made");
    let name = std::thread::current()
        .name()
        .expect("the test's")
        .to_owned();
    let mut victim = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &name])
        .env(VICTIM, directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let half_way = async {
        while !files(directory.path()).iter().any(|it| it.1 == 500_000) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, half_way)
        .await
        .expect("it begins to download");
    victim.kill().expect("killed");
    victim.wait().expect("waited");
    assert_eq!(files(directory.path()).len(), 1, "it was in mid-download");
    let cache = opened(directory.path(), 1_000).await;
    assert_eq!(files(directory.path()), []);
    fetch(&cache, &source, &data).await.expect("fetched");
    assert_eq!(source.reads(), 1);
}

/// Whatever happens at the same time: fetches, failures, those who give up, what somebody removes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cache_in_disorder_serves_what_is_right_within_its_bound() {
    const BLOCKS: u64 = 60;
    let directory = tempfile::tempdir().expect("made");
    let contents: Arc<Vec<_>> = Arc::new(
        (0..40)
            .map(|it| content(it, usize::from(it) * 997))
            .collect(),
    );
    let tenants = ["a", "b"].map(|tenant| Arc::new(Source::new(tenant, &contents)));
    let cache = opened(directory.path(), BLOCKS).await;
    let tasks = (0..16_u64).map(|seed| {
        let (cache, contents, tenants) = (cache.clone(), Arc::clone(&contents), tenants.clone());
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            for _ in 0..150 {
                let source = &tenants[random.random_range(0..2)];
                let data = &contents[random.random_range(0..contents.len())];
                source.is(match random.random_range(0..10) {
                    0 => Manner::Failing,
                    1 => Manner::Short,
                    2 => Manner::Halting,
                    _ => Manner::Well,
                });
                source.go_on.notify_waiters();
                let patience = Duration::from_millis(random.random_range(1..20));
                if let Ok(Ok(held)) = timeout(patience, fetch(&cache, source, data)).await {
                    tokio::task::yield_now().await;
                    drop(held);
                }
            }
        })
    });
    let watch = async {
        loop {
            let bytes = cache.index().bytes();
            assert!(bytes <= BLOCKS * BLOCK, "{bytes}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        done = timeout(LONG, join_all(tasks)) => {
            for task in done.expect("nobody waits for ever") {
                task.expect("no wrong byte was served");
            }
        }
        () = watch => {}
    }
    // Those who gave up may have left work to the threads for that, which is done soon.
    let settled = async {
        loop {
            let there: BTreeMap<PathBuf, u64> = files(directory.path()).into_iter().collect();
            let known = cache
                .index()
                .entries()
                .map(|(key, entry, pins)| {
                    assert_eq!(pins, 0);
                    (cache.0.place.path(key, entry.number), entry.size)
                })
                .collect::<BTreeMap<_, _>>();
            if there == known {
                return there.values().map(|size| footprint(*size)).sum::<u64>();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let bytes = timeout(LONG, settled)
        .await
        .expect("what is there is known");
    assert_eq!(bytes, cache.index().bytes());
    assert!(cache.0.gates.lock().expect("whole").is_empty());
    assert_eq!(cache.0.room.available_permits() as u64, BLOCKS);
}
