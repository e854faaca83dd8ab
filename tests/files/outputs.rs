//! What a submission brings forth: outputs that are too long for a result, and files of its work directory.

use envicutor::submission::{
    content::Blob,
    names::{Digest, Lane},
    output::Output,
    result::Verdict,
    units::ByteSize,
};
use serde_json::json;

use crate::{
    bed::{blobs, blobs_at, directory_store, get, is_uncounted, numbers, run, stdout, submission},
    fleet::slowly,
    site::Site,
};

fn has_all_in_the_store(output: &Output, all: &[u8]) -> Blob {
    let blob = output.blob.clone().expect("it is in the store");
    assert_eq!(blob.digest, Digest::of(all));
    assert_eq!(output.size_bytes, ByteSize(all.len() as u64));
    assert!(output.truncated);
    assert!(all.starts_with(&output.data) && !output.data.is_empty());
    let tail = output.tail.as_deref().expect("it has an end");
    assert!(all.ends_with(tail) && !tail.is_empty());
    blob
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_too_long_is_whole_in_the_store_with_its_beginning_and_end_in_the_result()
{
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let blobs = blobs(&site);
    let body = submission(
        "seq 1 300000; seq 1 200000 >&2; echo short",
        &json!({"run": {"limits": {"wall_time_us": 60_000_000, "output_bytes": 16 << 20}}}),
    );
    let result = run(&site, "a1", body).await;
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:#?}");
    let all = [numbers(300_000), b"short\n".to_vec()].concat();
    let stored = has_all_in_the_store(&result.runs[0].stdout, &all);
    assert!(get(&blobs, &stored).await == all);
    let all = numbers(200_000);
    let stored = has_all_in_the_store(&result.runs[0].stderr, &all);
    assert!(get(&blobs, &stored).await == all);
    let short = run(&site, "a2", Site::body("seq 1 1000")).await;
    assert_eq!(short.runs[0].stdout.blob, None);
    assert_eq!(short.runs[0].stdout.tail, None);
    site.end([worker]).await;
}

/// Each of them is short, and together they are too much for one message.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_are_too_much_together_are_whole_in_the_store() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let blobs = blobs(&site);
    let test = json!({});
    let body = submission("seq 1 30000", &json!({"tests": vec![test; 8]}));
    let result = run(&site, "a1", body).await;
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:#?}");
    let all = numbers(30_000);
    assert!(all.len() < 256 << 10, "each would be shown alone");
    for run in &result.runs {
        let stored = has_all_in_the_store(&run.stdout, &all);
        assert!(get(&blobs, &stored).await == all);
    }
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expected_output_is_held_against_all_of_a_long_output() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let blobs = blobs(&site);
    let all = numbers(300_000);
    let expected = crate::bed::put(&blobs, &all).await;
    let limits = json!({"wall_time_us": 60_000_000, "output_bytes": 16 << 20});
    let body = |script: &str| {
        let tests = json!([{"expected": expected, "limits": limits}]);
        submission(script, &json!({"tests": tests}))
    };
    let right = run(&site, "right", body("seq 1 300000")).await;
    assert_eq!(right.verdict, Some(Verdict::Ok));
    let wrong = run(&site, "wrong", body("seq 1 299999; echo 300001")).await;
    assert_eq!(wrong.verdict, Some(Verdict::WrongAnswer));
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_asked_for_are_in_the_store_after_the_last_run() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let blobs = blobs(&site);
    let script = "mkdir -p out/deep; seq 1 200000 > out/numbers.txt; printf x > out/deep/tool; chmod 755 out/deep/tool
        ln -s /etc/passwd out/link.txt; echo no > other.txt";
    let body = submission(script, &json!({"collect": ["out/**"]}));
    let result = run(&site, "a1", body).await;
    stdout(&result);
    let named: Vec<_> = result
        .collected
        .iter()
        .map(|it| (it.path.as_str(), it.size_bytes.0, it.executable))
        .collect();
    let all = numbers(200_000);
    assert_eq!(
        named,
        [
            ("out/deep/tool", 1, true),
            ("out/numbers.txt", all.len() as u64, false)
        ]
    );
    assert!(get(&blobs, &result.collected[0].blob).await == b"x");
    assert!(get(&blobs, &result.collected[1].blob).await == all);
    let link = |it: &envicutor::submission::collect::CollectError| it.path == "out/link.txt";
    assert!(result.collect_errors.iter().any(link), "{result:#?}");
    // A bound is told, and what is within it is there.
    let two = json!({"collect": {"paths": ["*.txt"], "max_files": 1}});
    let body = submission("echo a > a.txt; echo b > b.txt", &two);
    let result = run(&site, "a2", body).await;
    assert_eq!(result.collected.len(), 1, "{result:#?}");
    assert!(!result.collect_errors.is_empty());
    site.end([worker]).await;
}

/// The run is over, and its output cannot be stored: that is no verdict, and nobody is charged for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_cannot_be_stored_is_an_outage_and_the_submission_comes_again() {
    let site = Site::start().await;
    let (directory, url) = directory_store(&site);
    let mut worker = site
        .worker("w")
        .env("BLOBS__URL", &url)
        .env("BLOBS__OUTAGE_TIMEOUT_US", "1s")
        .start()
        .await;
    let away = directory.with_extension("away");
    std::fs::rename(&directory, &away).expect("moved");
    std::fs::write(&directory, "no directory").expect("written");
    let body = submission(
        "seq 1 200000",
        &json!({"run": {"limits": {"wall_time_us": 60_000_000, "output_bytes": 16 << 20}}}),
    );
    site.publish(Lane::Interactive, "a1", body).await;
    worker.await_log("the probe fails: nothing is pulled").await;
    tokio::time::sleep(slowly(std::time::Duration::from_secs(2))).await;
    assert_eq!(site.queued().await, 1);
    std::fs::remove_file(&directory).expect("removed");
    std::fs::rename(&away, &directory).expect("moved");
    let result = site.result("a1").await;
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:#?}");
    let all = numbers(200_000);
    let stored = has_all_in_the_store(&result.runs[0].stdout, &all);
    assert!(get(&blobs_at(&site, &url), &stored).await == all);
    is_uncounted(&site, "a1").await;
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_store_is_asked_for_what_needs_none() {
    let site = Site::start().await;
    let (directory, url) = directory_store(&site);
    let worker = site.worker("w").env("BLOBS__URL", &url).start().await;
    std::fs::remove_dir_all(&directory).expect("removed");
    std::fs::write(&directory, "no directory").expect("written");
    let result = run(&site, "a1", Site::body("echo done")).await;
    assert_eq!(stdout(&result), "done\n");
    assert!(!worker.log().contains("the probe fails"));
    site.end([worker]).await;
}
