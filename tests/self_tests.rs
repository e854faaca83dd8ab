//! `envicutor runtime test` on a real Docker Engine: runtimes that come with the program pass their self-tests, one that does
//! not do what its file says is told with the reason, and what was there before stays there.

#[path = "fleet/mod.rs"]
mod fleet;

use std::path::Path;

use serde_json::Value;

/// What `envicutor runtime test` came to, on a fleet of its own.
struct Tested {
    code: Option<i32>,
    runtimes: Vec<Value>,
    stderr: String,
}

async fn test(definitions: Option<&Path>, arguments: &[&str]) -> Tested {
    let data = tempfile::tempdir().expect("a directory");
    let mut command = fleet::command(data.path()).await;
    if let Some(directory) = definitions {
        command.env("ENVICUTOR__RUNTIMES__DIR", directory);
    }
    let arguments = [&["runtime", "test", "--json"], arguments].concat();
    let ended = command.args(arguments).output().await.expect("it starts");
    let stdout = String::from_utf8(ended.stdout).expect("UTF-8");
    Tested {
        code: ended.status.code(),
        runtimes: serde_json::from_str(&stdout).unwrap_or_default(),
        stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtimes_that_need_no_more_than_a_compiler_pass_their_self_tests() {
    let tested = test(None, &["bash", "c", "cpp", "python"]).await;
    assert_eq!(tested.code, Some(0), "{}", tested.stderr);
    assert_eq!(tested.runtimes.len(), 4, "{}", tested.stderr);
    for runtime in &tested.runtimes {
        assert!(runtime["passed"].as_u64() >= Some(3), "{runtime:#}");
        assert!(
            runtime["start"]["wall_us"].as_u64() > Some(0),
            "{runtime:#}"
        );
        assert!(runtime["image_bytes"].as_u64() > Some(0), "{runtime:#}");
    }
    // Precompiled headers are in use: without them it takes a multiple, whatever the machine.
    let gain = &tested.runtimes[2]["gains"][0];
    let wall = |way: &str| gain[way]["wall_us"].as_f64().expect("measured");
    assert!(wall("beside") > 1.5 * wall("own"), "{gain:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_does_not_do_what_its_file_says_is_told_with_the_reason() {
    let definitions = tempfile::tempdir().expect("a directory");
    let wrong = "name = 'wrong'\nversion = '1'\ndefault = true\ndescription = 'a test'\nsource_file = 'main.sh'\n\
                 empty = ':'\nrun.command = ['/bin/bash', '{entry}']\n\
                 [[tests]]\nname = 'right'\nsource = 'echo one'\nexpected = 'one'\n\
                 [[tests]]\nname = 'other output'\nsource = 'echo two'\nexpected = 'one'\n\
                 [[tests]]\nname = 'other end'\nsource = 'echo spoken >&2; exit 3'\nexpected = ''\n\
                 [[tests]]\nname = 'no failure'\nsource = 'echo one'\nverdict = 'runtime_error'\n";
    std::fs::write(definitions.path().join("wrong.toml"), wrong).expect("written");
    let tested = test(Some(definitions.path()), &["wrong"]).await;
    assert_eq!(tested.code, Some(1), "{}", tested.stderr);
    let runtime = &tested.runtimes[0];
    assert_eq!(runtime["passed"], 1, "{runtime:#}");
    let failed = runtime["failed"].as_array().expect("a list");
    let reasons: Vec<(&str, &str)> = failed
        .iter()
        .map(|one| (one["test"].as_str(), one["reason"].as_str()))
        .map(|(test, reason)| (test.expect("a name"), reason.expect("a reason")))
        .collect();
    assert_eq!(
        reasons,
        [
            (
                "other output",
                "wrong_answer instead of ok (exit code 0; stdout: two)"
            ),
            (
                "other end",
                "runtime_error instead of ok (exit code 3; stderr: spoken)"
            ),
            (
                "no failure",
                "ok instead of runtime_error (exit code 0; stdout: one)"
            ),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_nobody_defined_is_wrong_usage_before_anything_starts() {
    let tested = test(None, &["klingon"]).await;
    assert_eq!(tested.code, Some(2), "{}", tested.stderr);
    assert!(tested.stderr.contains("klingon"), "{}", tested.stderr);
}
