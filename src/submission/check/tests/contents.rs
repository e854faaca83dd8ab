//! Blobs, archives and what is collected, each rule by its name.

use super::*;
use crate::submission::{archive::ArchiveFormat, message::Submission, names::Digest, plan::Source};

fn blob(content: &str, size_bytes: u64) -> Json {
    json!({"digest": Digest::of(content.as_bytes()), "size_bytes": size_bytes})
}

fn archive(changes: &Json) -> Json {
    let mut archive = json!({"format": "tar.zst", "blob": blob("packed", 5)});
    for (name, value) in changes.as_object().expect("an object") {
        archive[name] = value.clone();
    }
    json!({"archive": archive})
}

#[test]
fn a_blob_has_a_digest_and_a_size() {
    let blob = json!({"files": [{"blob": {"digest": null}}]});
    let body = serde_json::to_vec(&with(&blob)).expect("encodes");
    let rejected = check_shape(&body, Encoding::Json).expect_err("refused");
    let paths: Vec<_> = rejected
        .errors
        .iter()
        .map(|error| error.path.as_str())
        .collect();
    assert_eq!(paths, ["files[0].blob.digest", "files[0].blob.size_bytes"]);
}

#[test]
fn every_content_may_be_in_the_object_store() {
    let plan = accepted(&json!({
        "files": [{"path": "big.csv", "blob": blob("csv", 7)}],
        "tests": [{"stdin": {"blob": blob("in", 8)}, "expected": {"blob": blob("out", 9)}}],
        "archive": {"format": "zip", "blob": blob("zip", 10), "strip_components": 1},
    }));
    let sizes = plan.sources().map(|source| source.size_bytes().0);
    assert_eq!(sizes.collect::<Vec<_>>(), [10, 7, 8, 9]);
    assert!(plan.needs_store() && plan.sources().all(|source| source.blob().is_some()));
    let plan = accepted(&json!({"run": {"stdin": {"blob": blob("in", 8)}}}));
    assert!(matches!(&plan.runs[0].stage.stdin, Source::Blob(blob) if blob.size_bytes.0 == 8));
}

#[test]
fn an_archive_stands_for_files() {
    let mut changes = archive(&json!({"strip_components": 2}));
    changes["files"] = Json::Null;
    let plan = accepted(&changes);
    let planned = plan.archive.expect("an archive");
    assert_eq!(
        (planned.format, planned.strip_components),
        (ArchiveFormat::TarZst, 2)
    );
    assert_eq!(planned.source.size_bytes(), ByteSize(5));
    assert_eq!(plan.runs[0].stage.argv, ["python3", "main.python"]);
    changes["files"] = json!([]);
    changes["entry"] = "src/app.py".into();
    assert_eq!(
        accepted(&changes).runs[0].stage.argv,
        ["python3", "src/app.py"]
    );
    changes["entry"] = "../app.py".into();
    refused(&changes, "entry", "\"..\"");
    refused(&json!({"files": []}), "files", "or an archive");
    refused(&json!({"files": null}), "files", "or an archive");
}

#[test]
fn an_archive_may_be_inline_and_has_files_beside_it() {
    let plan = accepted(&json!({"archive": {"format": "tar", "base64": "AAAA"}}));
    assert_eq!(
        plan.archive.map(|archive| archive.source),
        Some(vec![0; 3].into())
    );
    assert_eq!(plan.files.len(), 1);
    assert_eq!(plan.runs[0].stage.argv, ["python3", "main.py"]);
}

#[test]
fn an_archive_says_what_it_is() {
    for (changes, path, message) in [
        (json!({"format": "rar"}), "archive.format", "\"tar.gz\""),
        (json!({"format": null}), "archive.format", "it is missing"),
        (
            json!({"blob": null}),
            "archive",
            "expected one of base64, blob, got none",
        ),
        (json!({"base64": "AAAA"}), "archive", "got several"),
        (json!({"text": "x"}), "archive.text", "unknown field"),
        (
            json!({"strip_components": 65}),
            "archive.strip_components",
            "ceiling of 64",
        ),
        (
            json!({"blob": blob("packed", (16 << 20) + 1)}),
            "archive.blob.size_bytes",
            "an archive",
        ),
    ] {
        refused(&archive(&changes), path, message);
    }
    refused(
        &json!({"archive": "a.zip"}),
        "archive",
        "expected an object",
    );
}

#[test]
fn blobs_have_a_ceiling_each_and_together() {
    let file = |index: usize, size: u64| json!({"path": format!("f{index}"), "blob": blob(&index.to_string(), size)});
    let files = |sizes: &[u64]| {
        let files = sizes
            .iter()
            .enumerate()
            .map(|(index, size)| file(index, *size));
        json!({"files": files.collect::<Vec<_>>()})
    };
    accepted(&files(&[1; 8]));
    refused(
        &files(&[1; 9]),
        "",
        "9 blobs are over this fleet's ceiling of 8",
    );
    refused(
        &files(&[1, (32 << 20) + 1]),
        "files[1].blob.size_bytes",
        "ceiling of 32 MiB",
    );
    refused(&files(&[24 << 20, 24 << 20, 1]), "", "all blobs together");
    // Sizes that overflow together are still counted.
    let found = errors(&files(&[u64::MAX; 2]));
    let paths: Vec<_> = found.iter().map(|error| &*error.path).collect();
    let size = |index: usize| format!("files[{index}].blob.size_bytes");
    assert_eq!(paths, [&*size(0), &*size(1), ""], "{found:?}");
}

#[test]
fn the_same_blob_counts_once_and_has_one_size() {
    let twice = |first: u64, second: u64| json!({"tests": [{"stdin": {"blob": blob("in", first)}}, {"stdin": {"blob": blob("in", second)}}]});
    accepted(&twice(30 << 20, 30 << 20));
    refused(&twice(1, 2), "", "two sizes");
}

#[test]
fn files_in_the_store_count_for_the_work_directory() {
    let files = json!({"files": [{"path": "a", "blob": blob("a", 5)}],
                       "run": {"limits": {"disk_bytes": 4}}});
    refused(&files, "files", "more than disk_bytes of 4");
}

#[test]
fn what_is_collected_is_a_list_or_an_object() {
    let plan = accepted(&json!({"collect": ["out/*.png", "**/log.txt", "[!a-c]?.{x,y}"]}));
    assert!(plan.needs_store());
    let collect = plan.collect.expect("there");
    assert_eq!(collect.patterns.len(), 3);
    assert_eq!(
        (collect.max_files, collect.max_bytes),
        (100, ByteSize(8 << 20))
    );
    let bounded = json!({"paths": ["a"], "max_files": 2, "max_bytes": 3});
    let collect = accepted(&json!({"collect": bounded}))
        .collect
        .expect("there");
    assert_eq!((collect.max_files, collect.max_bytes), (2, ByteSize(3)));
    assert_eq!(accepted(&json!({"collect": null})).collect, None);
    for (collect, path, message) in [
        (json!([]), "collect", "one glob or more"),
        (
            json!("a"),
            "collect",
            "expected an array of globs or an object",
        ),
        (json!({}), "collect.paths", "it is missing"),
        (
            json!({"paths": ["a"], "max_files": 101}),
            "collect.max_files",
            "ceiling of 100",
        ),
        (
            json!({"paths": ["a"], "max_files": 0}),
            "collect.max_files",
            "zero is no limit",
        ),
        (
            json!({"paths": ["a"], "max_bytes": (8 << 20) + 1}),
            "collect.max_bytes",
            "ceiling of 8 MiB",
        ),
        (json!(["a", 1]), "collect[1]", "expected a string"),
        (json!({"paths": ["a["]}), "collect.paths[0]", "no glob"),
        (json!(["{a"]), "collect[0]", "no glob"),
        (json!(["/etc/*"]), "collect[0]", "absolute"),
        (json!(["../*"]), "collect[0]", "\"..\""),
        (json!(["a\u{0}"]), "collect[0]", "NUL"),
        (json!(vec!["a"; 65]), "collect", "65 globs are more than 64"),
    ] {
        refused(&json!({"collect": collect}), path, message);
    }
}

#[test]
fn the_cache_can_be_switched_off() {
    assert!(!accepted(&json!({"cache": false})).cache);
    refused(&json!({"cache": 1}), "cache", "true or false");
}

#[test]
fn a_file_of_another_machine_cannot_be_named() {
    refused(
        &json!({"files": [{"text": "", "local": "/etc/passwd"}]}),
        "files[0].local",
        "unknown field",
    );
    let local = Submission::new("python".parse().expect("valid")).file_from("a", "/etc/passwd");
    assert!(Encoding::Json.encode(&local).is_err());
}
