//! What `envicutor doctor` says, against a real Docker Engine: what is given, or what is missing.

use std::process::{Command, Output};

use serde_json::Value;

/// The exit code, and what was found.
fn doctor(env: &[(&str, &str)]) -> (Option<i32>, Value) {
    let data_dir = tempfile::tempdir().expect("a directory");
    let Output { status, stdout, .. } = Command::new(env!("CARGO_BIN_EXE_envicutor"))
        .args(["doctor", "--json"])
        .env("ENVICUTOR__DATA_DIR", data_dir.path())
        .env(
            "ENVICUTOR__CONTAINER__RUNTIMES_VOLUME",
            "containertest-runtimes",
        )
        .envs(env.iter().copied())
        .output()
        .expect("it starts");
    let said = serde_json::from_slice(&stdout).expect("JSON");
    let workers = data_dir.path().join("workers");
    let left = std::fs::read_dir(workers).map_or(0, Iterator::count);
    assert_eq!(left, 0, "a worker's directory is left");
    (status.code(), said)
}

#[test]
fn it_makes_a_slot_and_says_that_sandbox_is_given() {
    let (code, said) = doctor(&[("ENVICUTOR__CONTAINER__ISOLATION", "sandbox")]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said["given"], "sandbox");
    assert_eq!(said["problem"], Value::Null);
    assert!(said["test_us"].as_u64().is_some_and(|it| it > 0));
}

#[test]
fn it_names_what_is_missing_and_the_command_for_it() {
    let (code, said) = doctor(&[
        ("ENVICUTOR__CONTAINER__ISOLATION", "sandbox"),
        ("ENVICUTOR__CONTAINER__OCI_RUNTIME", "nowhere"),
    ]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said["given"], Value::Null);
    assert!(
        said["problem"]
            .as_str()
            .is_some_and(|it| it.contains("nowhere"))
    );
    let findings = said["findings"].as_array().expect("a list");
    let missing = findings.iter().filter(|it| it["state"] == "missing");
    let names: Vec<_> = missing.map(|it| &it["name"]).collect();
    assert_eq!(names, ["container runtime"]);
}

#[test]
fn without_an_engine_nothing_is_given() {
    let (code, said) = doctor(&[("DOCKER_HOST", "unix:///nowhere")]);
    assert_eq!(code, Some(1), "{said}");
    let engine = &said["findings"][0];
    assert_eq!(engine["state"], "missing");
    assert!(
        engine["command"]
            .as_str()
            .is_some_and(|it| it.contains("systemctl"))
    );
}
