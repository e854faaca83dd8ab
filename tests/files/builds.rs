//! The compile cache: a build stands for later ones of the same sources, on whatever worker, and never decides whether one runs.

use envicutor::submission::result::{SubmissionResult, Verdict};
use serde_json::{Value, json};

use crate::{
    bed::{directory_store, noise, run},
    site::{Site, worker::Builder},
};

/// A language whose compiler is a shell script: what it prints tells one build from another.
const COMPILED: &str = r#"
name = "built"
version = "1"
default = true
description = "A compiled language for tests"
source_file = "main.sh"
[compile]
command = ["/bin/sh", "{entry}"]
[run]
command = ["/bin/sh", "program"]
"#;

/// Each build makes another program: it prints a number of its own.
const BUILD: &str = "mkdir -p lib
read n < /proc/sys/kernel/random/uuid
echo \"echo $n; cat lib/word input\" > program; chmod 755 program
ln -s word lib/link; echo word > lib/word; echo built";

async fn site() -> Site {
    let site = Site::start().await;
    site.add_runtime("built.toml", COMPILED);
    site
}

fn body(source: &str, more: &Value) -> String {
    let mut body = json!({
        "runtime": "built",
        "files": [{"path": "main.sh", "text": source}, {"path": "input", "text": "input\n"}],
    });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body.to_string()
}

/// Whether its build was an earlier one.
fn was_cached(result: &SubmissionResult) -> bool {
    let compile = result.compile.as_ref().expect("it was compiled");
    compile.cached.expect("it is said")
}

/// What the program printed, the number of its build first.
fn printed(result: &SubmissionResult) -> Vec<String> {
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:#?}");
    let text = String::from_utf8_lossy(&result.runs[0].stdout.data).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_stands_for_the_next_one_on_another_worker() {
    let site = site().await;
    let first = site.worker("first").start().await;
    let body = body(BUILD, &json!({"tests": [{"name": "one"}, {"name": "two"}]}));
    let built = run(&site, "built", body.clone()).await;
    assert!(!was_cached(&built));
    let number = printed(&built);
    assert_eq!(number[1..], ["word", "input"]);
    // The build is kept before the worker ends.
    first.drain().await;
    let second = site.worker("second").start().await;
    let again = run(&site, "again", body).await;
    assert!(was_cached(&again), "{again:#?}");
    assert_eq!(printed(&again), number);
    assert_ne!(again.worker, built.worker);
    let (before, after) = (built.compile.expect("there"), again.compile.expect("there"));
    assert_eq!(before.stdout, after.stdout);
    assert_eq!(
        before.wall_us, after.wall_us,
        "it is the earlier one's report"
    );
    assert_eq!(again.runs.len(), 2);
    site.end([second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_failed_is_not_tried_again_and_one_that_a_limit_ended_is() {
    let site = site().await;
    let worker = |name| site.worker(name).start();
    let fails = body("echo wrong >&2; exit 3", &json!({}));
    let sleeps = body(
        "sleep 50",
        &json!({"compile": {"limits": {"wall_time_us": 200_000}}}),
    );
    let dies = body("kill -9 $$", &json!({}));
    let first = worker("first").await;
    for (id, body) in [("fails", &fails), ("sleeps", &sleeps), ("dies", &dies)] {
        let result = run(&site, id, body.clone()).await;
        assert!(!was_cached(&result));
    }
    first.drain().await;
    let second = worker("second").await;
    let again = run(&site, "fails-again", fails).await;
    assert!(was_cached(&again), "{again:#?}");
    assert_eq!(again.verdict, Some(Verdict::CompileError));
    let compile = again.compile.as_ref().expect("there");
    assert_eq!(
        (compile.exit_code, &*compile.stderr.data),
        (Some(3), &b"wrong\n"[..])
    );
    assert_eq!(again.runs[0].verdict, Verdict::Skipped);
    for (id, body) in [("sleeps-again", sleeps), ("dies-again", dies)] {
        let result = run(&site, id, body).await;
        assert!(!was_cached(&result), "{result:#?}");
    }
    site.end([second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_and_a_fleet_can_do_without_the_cache() {
    let site = site().await;
    let first = site.worker("first").start().await;
    let without = body(BUILD, &json!({"cache": false}));
    run(&site, "a1", without.clone()).await;
    run(&site, "a2", body(BUILD, &json!({}))).await;
    first.drain().await;
    let second = site.worker("second").start().await;
    assert!(!was_cached(&run(&site, "a3", without).await));
    assert!(was_cached(&run(&site, "a4", body(BUILD, &json!({}))).await));
    second.drain().await;
    let off = site
        .worker("off")
        .env("WORKER__COMPILE_CACHE", false)
        .start()
        .await;
    assert!(!was_cached(
        &run(&site, "a5", body(BUILD, &json!({}))).await
    ));
    site.end([off]).await;
}

fn files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
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

/// Whatever lies in the store instead of what a build left there.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_build_left_and_is_missing_or_corrupt_is_built_again() {
    let site = site().await;
    let (directory, url) = directory_store(&site);
    let worker = |name: &str| -> Builder { site.worker(name).env("BLOBS__URL", &url) };
    let body = body(BUILD, &json!({}));
    let first = worker("first").start().await;
    run(&site, "built", body.clone()).await;
    first.drain().await;
    assert!(files(&directory).len() >= 2, "an entry and what it names");
    let entry = |path: &std::path::PathBuf| path.components().any(|it| it.as_os_str() == "cache");
    for (harm, of_entries) in [
        ("spoiled", false),
        ("emptied", false),
        ("removed", false),
        ("spoiled", true),
        ("removed", true),
    ] {
        let harmed = files(&directory)
            .into_iter()
            .filter(|it| entry(it) == of_entries);
        let harmed: Vec<_> = harmed.collect();
        assert!(!harmed.is_empty());
        for file in harmed {
            let size = std::fs::metadata(&file).expect("there").len();
            let size = usize::try_from(size).expect("small");
            match harm {
                "spoiled" => std::fs::write(&file, noise(1, size)).expect("written"),
                "emptied" => std::fs::write(&file, "").expect("written"),
                _ => std::fs::remove_file(&file).expect("removed"),
            }
        }
        // A cache of its own: what it would find on this machine's disk is right.
        let name = format!("{harm}-{of_entries}");
        let dir = site.data_dir.path().join(format!("of-{name}"));
        let next = worker(harm)
            .env("WORKER__CACHE_DIR", dir.display())
            .start()
            .await;
        let result = run(&site, &name, body.clone()).await;
        assert!(!was_cached(&result), "{name}: {result:#?}");
        assert_eq!(printed(&result)[1..], ["word", "input"]);
        next.drain().await;
    }
    // And what was built again stands.
    let last = worker("last").start().await;
    let result = run(&site, "again", body).await;
    assert!(was_cached(&result), "{result:#?}");
    site.end([last]).await;
}
