//! What hostile programs and broken workers try.

mod harness;

use std::{
    fs,
    io::Write,
    process::Command as Process,
    time::{Duration, Instant},
};

use envicutor_protocol::{Command, Exit, File, Killed, Open, Report, Stdin};
use harness::{Cgroups, UID, Worker, assert_ok, shell, slowly, stage};

/// The processes of the stages' user on this machine whose command line holds `mark`.
fn survivors(mark: &str) -> usize {
    let ids = fs::read_dir("/proc").expect("reads /proc").flatten();
    ids.filter(|entry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
    })
    .count()
}

#[test]
fn the_agent_refuses_to_run_when_it_is_not_pid_1() {
    let output = Process::new(env!("CARGO_BIN_EXE_envicutor-agent"))
        .output()
        .expect("starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PID 1"));
}

#[test]
fn a_survivor_in_a_session_of_its_own_is_dead_before_the_stage_has_ended() {
    let mut worker = Worker::open();
    let script = "(setsid sh -c 'trap \"\" TERM HUP; sleep 7771' &) ; (setsid sleep 7771 >/dev/null 2>&1 &); sleep 0.2";
    let outcome = worker.run(shell(script));
    assert_ok(&outcome);
    assert_eq!(survivors("sleep\u{0}7771"), 0);
    assert!(outcome.ended.wall_us < 5_000_000);
}

#[test]
fn a_group_that_stops_itself_is_ended() {
    let mut worker = Worker::open();
    let mut order = shell("kill -STOP 0; sleep 30");
    order.limits.wall_time_us = 200_000;
    let ended = worker.run(order).ended;
    assert_eq!(ended.exit, Exit::Signal(9));
}

#[test]
fn the_agent_cannot_be_signalled_or_read() {
    let mut worker = Worker::open();
    let outcome = worker.run(shell(
        "for signal in TERM INT KILL STOP CHLD; do kill -$signal 1 2>/dev/null && echo signalled; done; \
         for file in environ maps mem auxv stack syscall; do head -c 1 /proc/1/$file 2>/dev/null; done; \
         ls /proc/1/fd /proc/1/task/1/fd 2>/dev/null; readlink /proc/1/exe /proc/1/cwd /proc/1/root; true",
    ));
    assert_ok(&outcome);
    assert_eq!(outcome.text(), "");
}

#[test]
fn a_stage_that_kills_everything_it_can_ends_only_itself() {
    let mut worker = Worker::open();
    let outcome = worker.run(shell("kill -KILL -1; echo alive"));
    assert_eq!(outcome.ended.killed, None);
    assert_ok(&worker.run(shell("true")));
}

#[test]
fn a_program_that_closes_its_outputs_and_goes_on_ends_in_its_own_time() {
    let mut worker = Worker::open();
    let outcome = worker.run(shell("exec >&- 2>&-; sleep 0.2; exit 4"));
    assert_eq!(outcome.ended.exit, Exit::Code(4));
    assert!(outcome.ended.wall_us >= 200_000);
}

#[test]
fn a_program_that_writes_single_bytes_does_not_make_a_frame_of_each() {
    let mut worker = Worker::open();
    let order = harness::stage(&["perl", "-e", "syswrite STDOUT, 'x' for 1..50_000"]);
    worker.send(&Command::Stage(Box::new(order)));
    let (mut frames, mut bytes) = (0, 0);
    loop {
        match worker.receive().expect("a report") {
            Report::Output { data, .. } => {
                frames += 1;
                bytes += data.len();
            }
            Report::Ended(_) => break,
            _ => {}
        }
    }
    assert_eq!(bytes, 50_000);
    assert!(frames < 5_000, "{frames} frames");
}

#[test]
fn everything_dies_with_the_worker() {
    let mut worker = Worker::open();
    let script = "setsid sleep 7772 & trap '' HUP TERM; while :; do sleep 7772; done";
    worker.send(&Command::Stage(Box::new(shell(script))));
    assert_eq!(worker.receive(), Some(Report::Started));
    let start = Instant::now();
    while survivors("sleep\u{0}7772") < 2 {
        assert!(start.elapsed() < Duration::from_secs(20), "no sleeper");
        std::thread::sleep(Duration::from_millis(10));
    }
    worker
        .socket
        .shutdown(std::net::Shutdown::Both)
        .expect("closes");
    assert_eq!(worker.agent_exit(), Some(0));
    assert_eq!(survivors("sleep\u{0}7772"), 0);
}

#[test]
fn a_frame_that_cannot_be_read_is_the_agents_end() {
    for bytes in [&[0, 0, 0, 0][..], &[255; 8], &[0, 0, 0, 2, 0xc1, 0xc1]] {
        let mut worker = Worker::open();
        worker.socket.write_all(bytes).expect("writes");
        let (step, error) = worker.expect_failure();
        assert_eq!(step, "read frame", "{error}");
    }
}

#[test]
fn commands_out_of_order_are_the_agents_end() {
    let file = || {
        Command::File(File {
            path: "a".into(),
            executable: false,
            append: false,
            data: vec![1],
        })
    };
    let open = || Command::Open(Open::User { uid: UID, gid: UID });
    let stage = || Command::Stage(Box::new(shell("sleep 5")));
    let stdin = || {
        Command::Stdin(Stdin {
            data: Vec::new(),
            last: true,
        })
    };
    let orders = [
        vec![file()],
        vec![stage()],
        vec![stdin()],
        vec![open(), open()],
        vec![open(), stdin()],
        vec![open(), stage(), stage()],
        vec![open(), stage(), file()],
        vec![open(), stage(), stdin()],
        vec![open(), file(), file()],
        vec![Command::Open(Open::User { uid: 0, gid: UID })],
        vec![Command::Open(Open::User { uid: UID, gid: 0 })],
    ];
    for order in orders {
        let mut worker = Worker::start(Cgroups::None);
        for command in &order {
            worker.send(command);
        }
        let mut report = worker.receive();
        if report == Some(Report::Started) {
            report = worker.receive();
        }
        assert!(
            matches!(report, Some(Report::Failed { .. })),
            "{order:?}: {report:?}"
        );
        assert_eq!(worker.agent_exit(), Some(1));
    }
}

#[test]
fn no_file_leaves_the_work_directory() {
    for path in [
        "/tmp/envicutor-x",
        "../x",
        "a/../../x",
        "",
        ".",
        "a//b",
        "a\0b",
    ] {
        let mut worker = Worker::open();
        worker.file(path, b"x", false);
        let (step, _) = worker.expect_failure();
        assert_eq!(step, "write file", "{path:?}");
    }
}

/// What `/proc` has of the agent in the file `name`.
fn agent_file(worker: &Worker, name: &str) -> String {
    let children = format!("/proc/{0}/task/{0}/children", worker.agent.id());
    let pid = fs::read_to_string(children).expect("unshare has a child");
    fs::read_to_string(format!("/proc/{}/{name}", pid.trim())).expect("lives")
}

#[test]
fn an_idle_agent_uses_no_cpu_time() {
    if harness::made_in_docker() {
        return; // There the test does not know the agent's process.
    }
    let mut worker = Worker::open();
    assert_ok(&worker.run(shell("true")));
    let ticks = || {
        let line = agent_file(&worker, "schedstat");
        line.split(' ')
            .next_back()
            .expect("a number")
            .trim()
            .to_owned()
    };
    std::thread::sleep(Duration::from_millis(50));
    let (before, start) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        before,
        ticks(),
        "it was scheduled within {:?}",
        start.elapsed()
    );
}

/// What the agent uses is nobody's limit. To look near the limit of CPU time it reads a file of each thread.
#[test]
fn sleepers_next_to_their_cpu_limit_keep_no_agent_busy() {
    const SLEEPERS: &str = r#"
        my ($until, @all) = (shift, $$);
        for (1..60) { my $pid = fork; defined $pid or die; $pid or sleep 1000; push @all, $pid }
        sub used { my $sum = 0; for (@all) { open my $f, "<", "/proc/$_/schedstat" or die; $sum += (split " ", <$f>)[0] } $sum }
        1 while used() < $until;
        $| = 1;
        print "asleep\n";
        sleep 4;
        kill "KILL", @all;
    "#;
    if harness::made_in_docker() {
        return; // There the test does not know the agent's process.
    }
    let mut worker = Worker::open();
    let limit_us = slowly(1_000_000);
    let until = ((limit_us - slowly(7_000)) * 1_000).to_string();
    let mut order = stage(&["perl", "-e", SLEEPERS, &until]);
    order.limits.cpu_time_us = limit_us;
    order.limits.processes = 64;
    order.limits.wall_time_us = slowly(60_000_000);
    let nanos = |worker: &Worker| -> u64 {
        let line = agent_file(worker, "schedstat");
        let first = line.split(' ').next().expect("a number");
        first.parse().expect("a number")
    };
    let before = nanos(&worker);
    let outcome = worker.run(order);
    let used_us = (nanos(&worker) - before) / 1_000;
    assert!(outcome.text().contains("asleep"), "{outcome:?}");
    assert!(
        used_us < outcome.ended.wall_us / 5,
        "{used_us}: {outcome:?}"
    );
}

#[test]
fn files_that_fill_the_memory_end_the_stage_and_not_the_agent() {
    if !harness::made_in_docker() {
        return; // The work directory is in memory only in a container.
    }
    let mut worker = Worker::open_in_cgroup(48 << 20, 33).expect("Docker makes it");
    let mut order = shell(
        "exec perl -e '$x = q(x) x 65536; syswrite STDOUT, $x for 1..9' & cat /dev/zero > full; cat /dev/zero > /tmp/full",
    );
    order.limits.file_size_bytes = 1 << 30;
    let ended = worker.run(order).ended;
    assert_eq!(ended.killed, Some(Killed::Memory), "{ended:?}");
    for _ in 0..5 {
        // There is next to no room: whatever comes of these stages, the agent says it.
        worker.run(shell("head -c 300000 /dev/zero"));
    }
}

#[test]
fn limits_too_small_for_any_program_fail_the_program_and_not_the_agent() {
    let mut worker = Worker::open();
    for (open_files, stack_bytes) in [(1, 8 << 20), (128, 1), (1, 1)] {
        let mut order = shell("true");
        order.limits.open_files = open_files;
        order.limits.stack_bytes = stack_bytes;
        let ended = worker.run(order).ended;
        assert_ne!(ended.exit, Exit::Code(0), "{ended:?}");
        assert_eq!(ended.killed, None, "{ended:?}");
    }
    assert_ok(&worker.run(shell("true")));
}

#[test]
fn orphans_that_end_all_the_time_do_not_keep_the_limits_from_being_kept() {
    let Some(mut worker) = Worker::open_in_cgroup(256 << 20, 33) else {
        return;
    };
    let program = "fork; fork; while (1) { my $p = fork; if (defined $p && !$p) { fork; exit } waitpid $p, 0 if $p }";
    let mut order = harness::stage(&["perl", "-e", program]);
    order.limits.wall_time_us = harness::slowly(400_000);
    let ended = worker.run(order).ended;
    assert_eq!(ended.killed, Some(Killed::WallTime), "{ended:?}");
    assert!(ended.wall_us < harness::slowly(500_000), "{ended:?}");
}
