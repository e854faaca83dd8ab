//! Projects and outputs end to end by the command line: packed by ordinary tools, submitted, run, and fetched.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use envicutor::submission::names::Digest;

use crate::{
    bed::{noise, numbers},
    site::Site,
};

/// `envicutor submit` with the rights of a service.
async fn submit(site: &Site, arguments: &[&str]) -> Output {
    let ended = tokio::process::Command::new(env!("CARGO_BIN_EXE_envicutor"))
        .arg("submit")
        .args(arguments)
        .env("ENVICUTOR__DATA_DIR", site.data_dir.path())
        .env("ENVICUTOR__NATS__URL", site.service_config().url)
        .kill_on_drop(true)
        .output()
        .await
        .expect("envicutor starts");
    assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {ended:?}");
    ended
}

/// What `envicutor` shows on a terminal.
async fn on_a_terminal(site: &Site, arguments: &[&str]) -> String {
    let spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let shown = tokio::process::Command::new("python3")
        .args(["-c", spawn, env!("CARGO_BIN_EXE_envicutor")])
        .args(arguments)
        .env("ENVICUTOR__DATA_DIR", site.data_dir.path())
        .env("ENVICUTOR__NATS__URL", site.service_config().url)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("python3 starts");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(shown.status.code(), Some(0), "{}", tail(&text));
    text
}

/// The last lines of what is too long for a message.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A project with a library, a program of its own and data that goes through the store.
fn write_project(directory: &Path, data: &[u8]) {
    for sub in ["lib", "data"] {
        std::fs::create_dir_all(directory.join(sub)).expect("made");
    }
    let main = "set -e; . lib/greet.sh; mkdir out; sha256sum < data/noise > out/sum; ./tool\n";
    let files: [(&str, &[u8]); 4] = [
        ("main.sh", main.as_bytes()),
        ("lib/greet.sh", b"greet() { echo hello from $*; }\n"),
        ("tool", b"#!/bin/sh\n. lib/greet.sh; greet the tool\n"),
        ("data/noise", data),
    ];
    for (path, content) in files {
        std::fs::write(directory.join(path), content).expect("written");
    }
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.join("tool"), executable).expect("set");
}

/// Runs a tool in `directory` to its good end.
fn tool(directory: &Path, program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    let status = command.args(arguments).current_dir(directory).status();
    assert!(
        status.expect("it starts").success(),
        "{program} {arguments:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_in_each_kind_of_archive_is_submitted_run_and_its_files_come_back() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let project = dir.path().join("project");
    let data = noise(1, 400 << 10);
    write_project(&project, &data);
    tool(&project, "tar", &["-cf", "../project.tar", "."]);
    tool(&project, "tar", &["-czf", "../project.tar.gz", "."]);
    let all = ["-m", "zipfile", "-c", "../project.zip"];
    let all = [&all[..], &["main.sh", "lib", "data", "tool"]].concat();
    tool(&project, "python3", &all);
    let tar = std::fs::read(dir.path().join("project.tar")).expect("there");
    let packed = zstd::encode_all(&*tar, 3).expect("packed");
    std::fs::write(dir.path().join("project.tar.zst"), packed).expect("written");
    for name in [
        "project",
        "project.tar",
        "project.tar.gz",
        "project.tar.zst",
        "project.zip",
    ] {
        let path = dir.path().join(name).display().to_string();
        let results = dir.path().join(format!("results-of-{name}"));
        let to = results.display().to_string();
        let what = ["--runtime", "sh", "--entry", "main.sh"];
        let what = [&[path.as_str()], &what[..], &["--collect", "out/*"]].concat();
        let ended = submit(&site, &[&what[..], &["--output", &to]].concat()).await;
        let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(
            shown.starts_with("hello from the tool\n"),
            "{name}: {shown}"
        );
        assert!(shown.contains("out/sum"), "{name}: {shown}");
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(told.contains("wrote "), "{name}: {told}");
        let read = |file: &str| std::fs::read_to_string(results.join(file)).expect(file);
        let sum = format!("{}  -\n", Digest::of(&data).hex());
        assert_eq!(read("out/sum"), sum, "{name}");
        assert_eq!(read("stdout"), "hello from the tool\n", "{name}");
    }
    site.end([worker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_output_is_shown_by_its_beginning_and_its_end_and_is_written_whole() {
    let site = Site::start().await;
    let worker = site.worker("w").start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let main = dir.path().join("main.sh");
    std::fs::write(&main, "seq 1 300000").expect("written");
    let (main, results) = (main.display().to_string(), dir.path().join("results"));
    let to = results.display().to_string();
    let arguments = [&main, "--runtime", "sh", "--id", "a1", "--output", &to];
    let ended = submit(
        &site,
        &[&arguments[..], &["--limit", "output_bytes=16MiB"]].concat(),
    )
    .await;
    let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(shown.starts_with("1\n2\n3\n"), "{}", &shown[..20]);
    let end = shown.find("\n299999\n300000\nverdict ").expect("its end");
    let gap = shown
        .find(" bytes are left out here …]\n")
        .expect("a line for what is missing");
    assert!(gap < end);
    let all = numbers(300_000);
    assert!(shown.len() < all.len() / 2, "{}", shown.len());
    assert!(std::fs::read(results.join("stdout")).expect("there") == all);
    // On a terminal, which shows how far it is.
    let again = dir.path().join("again").display().to_string();
    let shown = on_a_terminal(&site, &["result", "a1", "--output", &again]).await;
    assert!(shown.contains("] receiving: "), "{}", tail(&shown));
    assert!(shown.contains(" bytes are left out here …]\r\n"));
    assert!(shown.contains("\n300000\r\n"), "{}", tail(&shown));
    site.end([worker]).await;
}
