//! The command line as far as it needs neither NATS nor Docker: exit codes, which stream says what, what is told of mistakes.

use std::{
    path::Path,
    process::{Command, Output},
};

/// What a program did.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn ended(output: Output) -> Ended {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn program(path: &str, args: &[&str], dir: &Path) -> Ended {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ENVICUTOR") {
            command.env_remove(name);
        }
    }
    // No fleet of the machine's user is found, and nothing waits long for one.
    let command = command
        .args(args)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .env("ENVICUTOR__DATA_DIR", dir.join("data"))
        .env("ENVICUTOR__NATS__CONNECT_TIMEOUT_US", "100000");
    ended(command.output().expect("it starts"))
}

fn envicutor(args: &[&str]) -> Ended {
    let dir = tempfile::tempdir().expect("a directory");
    envicutor_in(dir.path(), args)
}

fn envicutor_in(dir: &Path, args: &[&str]) -> Ended {
    program(env!("CARGO_BIN_EXE_envicutor"), args, dir)
}

/// A port on which nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("nats://{}", listener.local_addr().expect("an address"))
}

#[test]
fn wrong_usage_exits_2_and_says_so_on_standard_error() {
    for args in [
        &["launch"][..],
        &["run"],
        &["submit", "a.py", "--lane", "fast"],
        &["submit", "a.py", "--tenant", "A.B"],
        &["status", "no such id"],
        &["cancel", "no such id"],
        &["cancel"],
        &["worker", "drain"],
        &["worker", "drain", "w1", "--timeout", "1s"],
        &["submit", "a.py", "--expires", "soon"],
        &["submit", "a.py", "--force"],
        &["submit", "a.py", "--stdin-file", "a", "--test", "b.in"],
        &["run", "a.py", "--log-format", "xml"],
        &[],
    ] {
        let ended = envicutor(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{args:?}: {}", ended.stdout);
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_file_that_cannot_be_sent_exits_2_before_anything_is_started() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("main.zig"), "").expect("written");
    std::fs::write(dir.path().join("main.py"), "").expect("written");
    std::fs::create_dir(dir.path().join("empty")).expect("made");
    std::fs::write(dir.path().join("project.zip"), "PK").expect("written");
    for (args, said) in [
        (&["run", "absent.py"][..], "absent.py"),
        (&["run", "main.zig"], "--runtime"),
        (&["run", "empty"], "--entry"),
        (&["run", "project.zip"], "--runtime"),
        (&["run", "main.py", "empty"], "first of the files"),
        (&["run", "main.py", "--limit", "cpu=1s"], "cpu_time_us"),
        (&["run", "main.py", "--limit", "cpu_time_us=soon"], "soon"),
        (&["run", "main.py", "--label", "x"], "--label"),
        (&["run", "main.py", "--test", "absent.in"], "absent.in"),
        (&["submit", "absent.py", "--runtime", "python"], "absent.py"),
    ] {
        let ended = envicutor_in(dir.path(), args);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{args:?}: {}", ended.stderr);
    }
    assert!(!dir.path().join("data/nats").exists());
}

#[test]
fn an_unknown_key_of_the_configuration_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("e.toml"), "[worker]\nslotz = 3\n").expect("written");
    for name in [
        env!("CARGO_BIN_EXE_envicutor"),
        env!("CARGO_BIN_EXE_envicutor-worker"),
    ] {
        let command: &[&str] = if name.ends_with("worker") {
            &["--config", "e.toml"]
        } else {
            &["config", "--config", "e.toml"]
        };
        let ended = program(name, command, dir.path());
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("slotz"), "{}", ended.stderr);
    }
}

#[test]
fn the_configuration_in_force_can_be_read_back() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("one.toml"), "[worker]\nslots = 3\n").expect("written");
    let url = "nats://service:s3cret@10.0.0.1:4222";
    let ended = envicutor_in(
        dir.path(),
        &["config", "--config", "one.toml", "--nats", url],
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("slots = 3"), "{}", ended.stdout);
    assert!(ended.stdout.contains("10.0.0.1") && !ended.stdout.contains("s3cret"));
    std::fs::write(dir.path().join("two.toml"), &ended.stdout).expect("written");
    let again = envicutor_in(dir.path(), &["config", "--config", "two.toml"]);
    assert_eq!(again.stdout, ended.stdout, "{}", again.stderr);
    let json = envicutor_in(dir.path(), &["config", "--config", "one.toml", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["worker"]["slots"], 3);
}

#[test]
fn no_connection_exits_4() {
    let (dir, url) = (tempfile::tempdir().expect("a directory"), nobody());
    std::fs::write(dir.path().join("main.py"), "").expect("written");
    for args in [
        &["status", "a1"][..],
        &["result", "a1"],
        &["watch", "a1"],
        &["submit", "main.py"],
        &["submit", "main.py", "--runtime", "python"],
        &["runtime", "ls"],
        &["worker", "ls"],
        &["nats", "check"],
        &["nats", "apply"],
    ] {
        let args = [args, &["--nats", &url]].concat();
        let ended = envicutor_in(dir.path(), &args);
        assert_eq!(ended.code, Some(4), "{args:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{args:?}: {}", ended.stdout);
        assert!(ended.stderr.contains("127.0.0.1"), "{}", ended.stderr);
    }
    let worker = program(
        env!("CARGO_BIN_EXE_envicutor-worker"),
        &["--nats", &url],
        dir.path(),
    );
    assert_eq!(worker.code, Some(4), "{}", worker.stderr);
}

#[test]
fn every_program_says_its_version() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in [
        env!("CARGO_BIN_EXE_envicutor"),
        env!("CARGO_BIN_EXE_envicutor-worker"),
    ] {
        let ended = program(name, &["--version"], dir.path());
        assert_eq!(ended.code, Some(0));
        assert!(ended.stdout.contains(env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn the_files_of_a_server_are_written_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = envicutor_in(dir.path(), &["nats", "init", "server"]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert_eq!(first.stdout.lines().count(), 3, "{}", first.stdout);
    let again = envicutor_in(dir.path(), &["nats", "init", "server"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stdout.is_empty(), "{}", again.stdout);
}
