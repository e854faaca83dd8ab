//! One server for each data directory, that ends with its owner. With a real nats-server.

mod fleet;

use std::time::Duration;

use envicutor::{
    bus::{Bus, ConnectError, Role, queue},
    nats_server::{NatsServer, ServerError, running_url},
    submission::{names::Lane, units::Micros},
};
use fleet::{
    messages::{DEADLINE, id, publish, tenant},
    nats::TestNats,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::test]
async fn one_data_directory_has_one_server_that_keeps_its_passwords() {
    let mut nats = TestNats::start().await;
    let url = nats.url(Role::Service);
    let second = NatsServer::start(&nats.nats_config(Role::Operator), nats.data_dir()).await;
    assert!(matches!(second, Err(ServerError::InUse(_))), "{second:?}");
    assert_eq!(
        running_url(nats.data_dir(), Role::Service),
        Some(url.clone())
    );
    publish(&nats.bus(Role::Service).await, Lane::Batch, "a1")
        .await
        .expect("published");
    let pid = nats.pid();
    nats.pause().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(running_url(nats.data_dir(), Role::Service), None);
    nats.resume().await;
    assert_eq!(nats.url(Role::Service), url, "same port, same password");
    let queued = queue::find_queued(&nats.bus(Role::Worker).await, &tenant(), &id("a1"))
        .await
        .expect("asked");
    assert!(queued.is_some(), "what was acknowledged is still there");
}

#[tokio::test]
async fn a_data_directory_that_is_held_for_a_moment_is_waited_for() {
    let mut nats = TestNats::start().await;
    nats.pause().await;
    // As who looks whether a server runs, and as a process that was just forked from the last owner.
    let held = std::fs::File::open(nats.data_dir().join("nats/lock")).expect("there");
    held.try_lock_shared().expect("free");
    let mut resumed = Box::pin(nats.resume());
    tokio::select! {
        biased;
        () = &mut resumed => panic!("two have the data directory"),
        () = tokio::task::yield_now() => {}
    }
    drop(held);
    resumed.await;
}

#[tokio::test]
async fn its_timers_may_be_late_so_that_it_seldom_wakes_in_vain() {
    let nats = TestNats::start().await;
    let slack = std::fs::read_to_string(format!("/proc/{}/timerslack_ns", nats.pid()));
    assert_eq!(slack.expect("read").trim(), "1000000");
}

#[tokio::test]
async fn a_server_that_an_earlier_run_left_behind_is_replaced() {
    let mut nats = TestNats::start().await;
    let old = nats.pid();
    nats.pause().await;
    // As an owner that was killed leaves it: a server, its pid file, and nobody that holds the lock.
    let dir = nats.data_dir().join("nats").canonicalize().expect("there");

    let mut left = std::process::Command::new(nats.program())
        .arg("-c")
        .arg(dir.join("server.conf"))
        .args(["-p", "-1"])
        .current_dir(&dir)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("started");
    std::fs::write(dir.join("nats-server.pid"), left.id().to_string()).expect("written");
    let reaper = std::thread::spawn(move || left.wait());
    nats.resume().await;
    assert_ne!(nats.pid(), old);
    reaper.join().expect("no panic").expect("it was ended");
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_the_end_of_its_log() {
    let nats = TestNats::start().await;
    let taken = nats
        .url(Role::Operator)
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a number");
    let mut config = nats.nats_config(Role::Operator);
    config.server_port = taken;
    let dir = tempfile::tempdir().expect("a directory");
    let error = NatsServer::start(&config, dir.path())
        .await
        .expect_err("the port is taken")
        .to_string();
    assert!(error.contains("address already in use"), "{error}");
}

#[tokio::test]
async fn who_cannot_connect_is_told_what_to_do() {
    let nats = TestNats::start().await;
    let mut config = nats.nats_config(Role::Service);
    let password = config
        .url
        .split(['@', ':'])
        .nth(2)
        .expect("a password")
        .to_owned();
    config.url = config.url.replace(&password, "wrong");
    let error = Bus::connect(&config, Role::Service, "test")
        .await
        .expect_err("refused");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    config.url = config.url.replace("service:wrong@", "");
    let error = Bus::connect(&config, Role::Service, "test")
        .await
        .expect_err("refused");
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    config.credentials_file = Some(nats.data_dir().join("nats/credentials.toml"));
    Bus::connect(&config, Role::Service, "test")
        .await
        .expect("by the credentials file");
    config.url = "nats://127.0.0.1:1".into();
    config.connect_timeout_us = Micros(200_000);
    let error = Bus::connect(&config, Role::Service, "test")
        .await
        .expect_err("nobody there")
        .to_string();
    assert!(
        error.contains("127.0.0.1:1") && error.contains("--nats"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_ends_with_its_owner_even_if_that_is_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut owner = fleet::command(dir.path())
        .await
        .args(["up", "--nats-port", "0", "--slots", "1"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(owner.stdout.take().expect("piped")).lines();
    let ready =
        async { while lines.next_line().await.expect("read").expect("it is ready") != "ready" {} };
    tokio::time::timeout(DEADLINE, ready)
        .await
        .expect("it is ready in time");
    let pid = std::fs::read_to_string(dir.path().join("nats/nats-server.pid"));
    let pid = pid.expect("the server's pid file").trim().to_owned();
    let state = format!("/proc/{pid}/cmdline");
    assert!(std::fs::read(&state).is_ok_and(|line| !line.is_empty()));
    owner.kill().await.expect("killed");
    let ended = async {
        // Whoever inherits it may leave it a zombie, which has no command line.
        while std::fs::read(&state).is_ok_and(|line| !line.is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ended)
        .await
        .expect("the server ends");
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_at_start_with_its_version() {
    let (program, version) = old_server().await;
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = tokio::process::Command::new(program)
        .args(["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir"])
        .arg(dir.path())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let ports = dir.path().join(format!(
        "nats-server_{}.ports",
        server.id().expect("it runs")
    ));
    fleet::eventually("the old server listens", DEADLINE, || async {
        std::fs::read_to_string(&ports).is_ok_and(|text| text.contains("nats://"))
    })
    .await;
    let text = std::fs::read_to_string(&ports).expect("just seen");
    let ports: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let url = ports["nats"][0].as_str().expect("a URL");

    let said = tokio::process::Command::new(env!("CARGO_BIN_EXE_envicutor-worker"))
        .args(["--nats", url])
        .env("ENVICUTOR__DATA_DIR", dir.path())
        .output()
        .await
        .expect("the worker runs");
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(4), "no connection: {text}");
    let address = url.strip_prefix("nats://").expect("a URL");
    let expected =
        format!("the NATS server at {address} is version {version}: 2.12.5 or later is needed");
    assert!(text.contains(&expected), "{text}");
    server.kill().await.expect("killed");
}

/// A server from before our time, and its version: Debian's, obtained once by apt.
async fn old_server() -> (std::path::PathBuf, String) {
    let dir = fleet::tools_dir().join("old-nats-server");
    let program = dir.join("usr/sbin/nats-server");
    if !program.is_file() {
        std::fs::create_dir_all(&dir).expect("made");
        // As root, apt would give its rights away and then not be allowed to write here.
        let get = "apt-get download -o APT::Sandbox::User=root nats-server && dpkg-deb -x nats-server_*.deb .";
        let got = tokio::process::Command::new("sh")
            .args(["-c", get])
            .current_dir(&dir)
            .output()
            .await;
        let got = got.expect("a shell runs");
        let said = String::from_utf8_lossy(&got.stderr);
        assert!(
            got.status.success(),
            "no old nats-server, which takes a Debian machine with its package archive: {said}"
        );
    }
    let output = tokio::process::Command::new(&program)
        .arg("--version")
        .output()
        .await;
    let said = output.expect("it runs").stdout;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let version = said
        .rsplit([' ', ':', 'v'])
        .next()
        .expect("a version")
        .to_owned();
    assert!(
        !envicutor::bus::connect::is_new_enough(&version),
        "{said} is not old"
    );
    (program, version)
}
