//! The README's snippets, taken from its text and run against a real fleet. Its Rust is compiled as a documentation test
//! and run as the example that it is a copy of. Where the machine has no `nats` tool, `tests/readme/nats` stands in for it.

mod fleet;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use fleet::{FIRST_USE, Fleet, command, tools_dir};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    sync::Mutex,
    time::timeout,
};

const README: &str = include_str!("../README.md");

/// The client library that the README names; kept from one run to the next.
const NATS_PY: &str = "nats-py==2.16.0";

/// One of them at a time: a fleet's numbers of users, and two processors, are not for two fleets.
static ONE: Mutex<()> = Mutex::const_new(());

/// The fenced blocks of a language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    README
        .split("\n```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.split_once('\n'))
        .filter(|(info, _)| info.split(',').next() == Some(language))
        .map(|(_, text)| text)
        .collect()
}

/// The one block of shell that begins so.
fn shell(beginning: &str) -> &'static str {
    let found: Vec<_> = blocks("sh")
        .into_iter()
        .filter(|block| block.starts_with(beginning))
        .collect();
    assert_eq!(found.len(), 1, "shell blocks that begin with {beginning:?}");
    found[0]
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository without its first comment, as the README shows it.
fn file(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A directory with nats-py in it, obtained with pip the first time.
async fn python_path() -> PathBuf {
    let directory = tools_dir().join(NATS_PY);
    if !directory.join("nats").is_dir() {
        let installed = Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-cache-dir",
                "--target",
            ])
            .args([directory.as_os_str(), NATS_PY.as_ref()])
            .output()
            .await
            .expect("python3 runs; the README's requirements name it");
        let said = String::from_utf8_lossy(&installed.stderr);
        assert!(
            installed.status.success(),
            "pip cannot install {NATS_PY}: {said}"
        );
    }
    directory
}

/// A program of the snippets, with what they expect in the environment.
async fn snippet(fleet: &Fleet, program: &str) -> Command {
    let path = std::env::var("PATH").expect("a PATH");
    let stand_in = root().join("tests/readme");
    let mut command = Command::new(program);
    command
        .current_dir(root())
        .env("NATS_URL", &fleet.service)
        .env("PYTHONPATH", python_path().await)
        // The real tool goes before the one that stands in.
        .env("PATH", format!("{path}:{}", stand_in.display()))
        .kill_on_drop(true);
    command
}

/// Runs a program to its end and returns its standard output.
async fn output(command: &mut Command) -> String {
    let done = timeout(FIRST_USE, command.output())
        .await
        .expect("it ends in time")
        .expect("it starts");
    let said = String::from_utf8_lossy(&done.stderr);
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}: {printed}\n{said}", done.status);
    printed
}

#[test]
fn the_two_commands_stand_first() {
    let shell = blocks("sh");
    assert_eq!(shell[0], "cargo run --release -- run examples/hello.py");
    assert_eq!(shell[1], "cargo test --workspace");
    let ci = file(".ci/run");
    assert!(
        ci.lines()
            .any(|line| line == format!("step 'tests' {}", shell[1])),
        ".ci/run calls the README's test command"
    );
}

#[test]
fn the_snippets_are_the_examples() {
    assert_eq!(
        blocks("python"),
        [file("examples/publish.py").trim_end()],
        "README.md and examples/publish.py"
    );
    let examples = ["examples/publish.rs", "examples/project.rs"].map(|path| {
        let example = file(path);
        let code = example
            .lines()
            .skip_while(|line| line.starts_with("//!") || line.is_empty());
        code.collect::<Vec<_>>().join("\n")
    });
    assert_eq!(blocks("rust"), examples, "README.md and examples/*.rs");
}

#[tokio::test]
async fn the_first_command_prints_a_verdict() {
    let _one = ONE.lock().await;
    let data_dir = tempfile::tempdir().expect("a temporary directory");
    let arguments = blocks("sh")[0]
        .split_once(" -- ")
        .expect("arguments of envicutor")
        .1;
    let printed = output(
        command(data_dir.path())
            .await
            .current_dir(root())
            .args(arguments.split_whitespace()),
    )
    .await;
    assert!(printed.contains("ok"), "{printed}");
}

#[tokio::test]
async fn the_shell_snippets_publish_and_subscribe() {
    let _one = ONE.lock().await;
    let fleet = Fleet::start().await;
    let mut subscriber = snippet(&fleet, "sh")
        .await
        // The tool itself, not a shell around it, is what the test ends.
        .args(["-c", &format!("exec {}", shell("nats sub"))])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("sh runs");
    let mut lines = BufReader::new(subscriber.stdout.take().expect("piped")).lines();
    let listening = async {
        while let Some(line) = lines.next_line().await.expect("its output can be read") {
            if line.contains("Subscribing on") {
                return;
            }
        }
        panic!("nats sub ended");
    };
    // The real tool says so on its standard error: then the time has to do.
    let _ = timeout(Duration::from_secs(5), listening).await;

    let ack = output(snippet(&fleet, "sh").await.args(["-c", shell("nats req")])).await;
    assert!(ack.contains("SUBMISSIONS_default"), "no ack in {ack}");

    let received = async {
        while let Some(line) = lines.next_line().await.expect("its output can be read") {
            if let Ok(result) = serde_json::from_str::<Value>(&line) {
                return result;
            }
        }
        panic!("nats sub ended without a result");
    };
    let result = timeout(FIRST_USE, received)
        .await
        .expect("a result in time");
    assert_eq!(result["id"], "a1", "{result:#}");
    assert_eq!(result["verdict"], "ok", "{result:#}");
    assert_eq!(result["runs"][0]["stdout"]["text"], "hi\n", "{result:#}");
    subscriber.kill().await.expect("the subscriber is ended");
    fleet.stop().await;
}

#[tokio::test]
async fn the_python_and_rust_snippets_print_their_results() {
    let _one = ONE.lock().await;
    let fleet = Fleet::start().await;
    let python = output(
        snippet(&fleet, "python3")
            .await
            .args(["-c", blocks("python")[0]]),
    )
    .await;
    assert!(python.starts_with("finished ok\nok "), "{python}");
    assert!(python.trim_end().ends_with(" 42"), "{python}");

    let rust = output(snippet(&fleet, env!("CARGO")).await.args([
        "run",
        "--quiet",
        "--locked",
        "--example",
        "publish",
    ]))
    .await;
    assert!(rust.contains("Finished Some(Ok)"), "{rust}");
    assert!(rust.trim_end().ends_with("\"42\\n\""), "{rust}");
    fleet.stop().await;
}

/// In a directory of its own, with the examples in it: what is written lands there.
#[tokio::test]
async fn the_project_is_run_and_its_chart_comes_back() {
    let _one = ONE.lock().await;
    let fleet = Fleet::start().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let examples = dir.path().join("examples");
    std::os::unix::fs::symlink(root().join("examples"), examples).expect("linked");
    let command = shell("envicutor submit examples/report");
    let program = Path::new(env!("CARGO_BIN_EXE_envicutor"));
    let programs = program.parent().expect("it lies in a directory");
    let path = std::env::var("PATH").expect("a PATH");
    let shown = output(
        snippet(&fleet, "sh")
            .await
            .args(["-c", command])
            .current_dir(dir.path())
            .env("ENVICUTOR__NATS__URL", &fleet.service)
            .env("PATH", format!("{}:{path}", programs.display())),
    )
    .await;
    assert!(shown.starts_with("5 bars in out/rain.svg\n"), "{shown}");
    has_its_chart(dir.path());

    std::fs::remove_dir_all(dir.path().join("results")).expect("removed");
    let manifest = root().join("Cargo.toml").display().to_string();
    let arguments = ["run", "--quiet", "--locked", "--manifest-path", &manifest];
    let written = output(
        snippet(&fleet, env!("CARGO"))
            .await
            .args(arguments)
            .args(["--example", "project"])
            .current_dir(dir.path()),
    )
    .await;
    assert!(written.contains("results/out/rain.svg"), "{written}");
    has_its_chart(dir.path());
    fleet.stop().await;
}

/// What the README says of `results`.
fn has_its_chart(dir: &Path) {
    let read = |name: &str| {
        let path = dir.join("results").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert!(read("out/rain.svg").starts_with("<svg "));
    assert_eq!(read("stdout"), "5 bars in out/rain.svg\n");
}
