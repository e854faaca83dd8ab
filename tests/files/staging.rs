//! Step 5: what is named by digest lies in the work directory, or comes as input, whole; and it is fetched once.

use envicutor::submission::{
    names::{Digest, Lane},
    result::{Outcome, Verdict},
};
use serde_json::json;

use crate::{
    bed::{blobs, noise, put, run, stdout, submission},
    fleet::proxy::Proxy,
    site::Site,
};

#[tokio::test(flavor = "multi_thread")]
async fn files_inputs_and_expected_outputs_by_digest_are_what_the_program_meets() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let blobs = blobs(&site);
    let (data, input) = (noise(1, 3_000_000), noise(2, 1_500_000));
    let sum = |data: &[u8]| Digest::of(data).hex().to_owned();
    let said = format!("{}  big\n{}  -\n", sum(&data), sum(&input));
    let mut file = put(&blobs, &data).await;
    file["path"] = json!("big");
    let mut tool = put(&blobs, b"#!/bin/sh\nsha256sum big -\n").await;
    (tool["path"], tool["executable"]) = (json!("bin/sums"), json!(true));
    let body = |expected: &str, data: serde_json::Value| {
        let test = json!({"name": expected, "stdin": data["input"], "expected": data["said"]});
        submission(
            "exec bin/sums",
            &json!({"files": [file, tool], "tests": [test, test], "run": {"limits": {"wall_time_us": 60_000_000}}}),
        )
    };
    let known =
        json!({"input": put(&blobs, &input).await, "said": put(&blobs, said.as_bytes()).await});
    let result = run(&site, "right", body("right", known.clone())).await;
    assert_eq!(stdout(&result), said);
    assert_eq!(result.runs.len(), 2);
    let other = json!({"input": known["input"], "said": put(&blobs, b"something else").await});
    let result = run(&site, "wrong", body("wrong", other)).await;
    assert_eq!(result.verdict, Some(Verdict::WrongAnswer));
    site.end([worker]).await;
}

/// A tar archive of files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, data) in files {
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..108].copy_from_slice(b"0000755\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1_024, 0);
    archive
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_the_work_directory_and_files_may_add_to_it() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let blobs = blobs(&site);
    let archive = tar(&[
        ("project/main.sh", b"cat lib/words more"),
        ("project/lib/words", b"from the archive\n"),
        ("README", b"is left out"),
    ]);
    let mut archive = put(&blobs, &archive).await;
    (archive["format"], archive["strip_components"]) = (json!("tar"), json!(1));
    let body = json!({
        "runtime": "sh", "archive": archive, "entry": "main.sh",
        "files": [{"path": "more", "text": "and a file\n"}],
    });
    let result = run(&site, "a1", body.to_string()).await;
    assert_eq!(stdout(&result), "from the archive\nand a file\n");
    let mut clash = body.clone();
    clash["files"][0]["path"] = json!("lib/words");
    let result = run(&site, "clash", clash.to_string()).await;
    assert_eq!(result.outcome, Outcome::Rejected, "{result:#?}");
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_leaves_the_work_directory_is_rejected_by_the_name_of_its_entry() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let blobs = blobs(&site);
    let archive = tar(&[("main.sh", b"echo never"), ("../escaped", b"x")]);
    let mut archive = put(&blobs, &archive).await;
    archive["format"] = json!("tar");
    let body = json!({"runtime": "sh", "archive": archive});
    let result = run(&site, "a1", body.to_string()).await;
    assert_eq!(result.outcome, Outcome::Rejected, "{result:#?}");
    assert_eq!(result.errors.len(), 1);
    assert_eq!(result.errors[0].path, "archive");
    assert!(
        result.errors[0].message.contains("../escaped"),
        "{result:#?}"
    );
    assert!(site.letters().await.is_empty());
    site.end([worker]).await;
}

/// Counted at the worker's connection to NATS, through which everything comes.
#[tokio::test(flavor = "multi_thread")]
async fn submissions_that_share_an_input_move_it_once_to_each_worker() {
    const SIZE: usize = 4 << 20;
    const SUBMISSIONS: usize = 20;
    let mut site = Site::start().await;
    let target = site.nats().address().replace("nats://", "");
    let url = site.worker_url();
    let (one, other) = tokio::join!(Proxy::before(target.clone()), Proxy::before(target.clone()));
    let through = |proxy: &Proxy| url.replace(&target, proxy.address());
    let (first, second) = (through(&one), through(&other));
    let (first, second) = tokio::join!(
        site.worker("one")
            .env("NATS__URL", first)
            .env("WORKER__SLOTS", 2)
            .start(),
        site.worker("other")
            .env("NATS__URL", second)
            .env("WORKER__SLOTS", 2)
            .start(),
    );
    let blobs = blobs(&site);
    let input = noise(3, SIZE);
    let stdin = put(&blobs, &input).await;
    let body = submission("sha256sum", &json!({"run": {"stdin": stdin}}));
    for index in 0..SUBMISSIONS {
        let id = format!("s{index}");
        site.publish(Lane::Interactive, &id, body.clone()).await;
    }
    let said = format!("{}  -\n", Digest::of(&input).hex());
    let mut workers = std::collections::BTreeSet::new();
    for index in 0..SUBMISSIONS {
        let result = site.result(&format!("s{index}")).await;
        assert_eq!(stdout(&result), said);
        workers.insert(result.worker);
    }
    assert_eq!(workers.len(), 2, "both had a part: {workers:?}");
    for proxy in [&one, &other] {
        let carried = proxy.carried();
        assert!(carried >= SIZE as u64, "{carried}");
        assert!(
            carried < (SIZE + SIZE / 2) as u64,
            "it moved more than once: {carried}"
        );
    }
    site.end([first, second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_mid_staging_leaves_the_submission_to_another() {
    let site = Site::start().await;
    let victim = site
        .worker("victim")
        .fail_point("staged:abort")
        .start()
        .await;
    let blobs = blobs(&site);
    let stdin = put(&blobs, &noise(4, 1 << 20)).await;
    let body = submission("wc -c", &json!({"run": {"stdin": stdin}}));
    site.publish(Lane::Interactive, "a1", body).await;
    victim.dies().await;
    let survivor = site.worker("survivor").start().await;
    let result = site.result("a1").await;
    assert_eq!(stdout(&result), "1048576\n");
    assert_eq!(result.attempt, 2);
    site.end([survivor]).await;
}
