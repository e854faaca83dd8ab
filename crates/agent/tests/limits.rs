//! Every limit holds, and is told apart from the others.

mod harness;

use std::time::{Duration, Instant};

use envicutor_protocol::{Command, Exit, Killed, MemoryFrom, Report};
use harness::{Worker, assert_ok, shell, slowly, slowness, stage};

const SPIN: &str = "while :; do :; done";

#[test]
fn cpu_time_ends_a_stage_close_to_its_limit() {
    for mut worker in [Some(Worker::open()), Worker::open_in_cgroup(256 << 20, 33)]
        .into_iter()
        .flatten()
    {
        let mut order = shell(SPIN);
        order.limits.cpu_time_us = slowly(100_000);
        order.limits.extra_time_us = slowly(50_000);
        let ended = worker.run(order).ended;
        let used = ended.cpu_user_us + ended.cpu_system_us;
        assert_eq!(ended.killed, Some(Killed::CpuTime), "{ended:?}");
        assert!(ended.touched.cpu_time, "{ended:?}");
        assert!(
            (slowly(150_000)..slowly(200_000)).contains(&used),
            "{ended:?}"
        );
    }
}

#[test]
fn the_cpu_time_of_children_counts_even_if_nobody_waits_for_them() {
    let Some(mut worker) = Worker::open_in_cgroup(256 << 20, 33) else {
        return;
    };
    // With SIGCHLD ignored the kernel forgets the children's times.
    let mut order = stage(&[
        "perl",
        "-e",
        "$SIG{CHLD} = 'IGNORE'; while (1) { if (!fork) { for (1..300000) {} exit } select undef, undef, undef, 0.005 }",
    ]);
    order.limits.cpu_time_us = slowly(300_000);
    let ended = worker.run(order).ended;
    assert_eq!(ended.killed, Some(Killed::CpuTime), "{ended:?}");
    assert!(
        ended.cpu_user_us + ended.cpu_system_us >= slowly(300_000),
        "{ended:?}"
    );
}

#[test]
fn wall_time_ends_a_sleeper() {
    let mut worker = Worker::open();
    let mut order = shell("sleep 1000");
    order.limits.wall_time_us = slowly(200_000);
    let ended = worker.run(order).ended;
    assert_eq!(ended.killed, Some(Killed::WallTime), "{ended:?}");
    assert!(ended.touched.wall_time);
    assert!(
        (slowly(200_000)..slowly(260_000)).contains(&ended.wall_us),
        "{ended:?}"
    );
}

#[test]
fn wall_time_ends_a_stage_whose_worker_reads_nothing() {
    let mut worker = Worker::open();
    let mut order = shell("exec head -c 100000000 /dev/zero");
    order.limits.output_bytes = 1 << 30;
    order.limits.wall_time_us = slowly(300_000);
    let start = Instant::now();
    worker.send(&Command::Stage(Box::new(order)));
    std::thread::sleep(Duration::from_millis(900) * slowness());
    let outcome = worker.collect(&[]);
    assert!(start.elapsed() < Duration::from_secs(3) * slowness());
    assert_eq!(outcome.ended.killed, Some(Killed::WallTime));
    assert!(
        outcome.ended.wall_us < slowly(400_000),
        "{:?}",
        outcome.ended
    );
    assert!(outcome.stdout.len() < 8 << 20, "{}", outcome.stdout.len());
}

#[test]
fn output_is_cut_at_its_limit() {
    let mut worker = Worker::open();
    let mut order = shell("exec cat /dev/zero");
    order.limits.output_bytes = 100_000;
    let outcome = worker.run(order);
    assert_eq!(outcome.stdout.len(), 100_000);
    assert_eq!(outcome.ended.killed, Some(Killed::Output));
    assert!(outcome.ended.touched.output);
}

#[test]
fn output_of_exactly_its_limit_is_fine_and_one_byte_more_is_not() {
    let mut worker = Worker::open();
    for (bytes, killed) in [(1000, None), (1001, Some(Killed::Output))] {
        let mut order = shell(&format!("head -c {bytes} /dev/zero >&2"));
        order.limits.output_bytes = 1000;
        let outcome = worker.run(order);
        assert_eq!(outcome.stderr.len(), 1000);
        assert_eq!(outcome.ended.killed, killed, "{bytes} bytes");
        assert_eq!(outcome.ended.touched.output, killed.is_some());
    }
}

#[test]
fn large_output_arrives_whole() {
    let mut worker = Worker::open();
    let mut order = shell("exec head -c 20000000 /dev/zero");
    order.limits.output_bytes = 20_000_000;
    let outcome = worker.run(order);
    assert_ok(&outcome);
    assert_eq!(outcome.stdout.len(), 20_000_000);
}

#[test]
fn a_file_over_its_limit_ends_by_its_signal() {
    let mut worker = Worker::open();
    let mut order = shell("exec head -c 100000 /dev/zero > file");
    order.limits.file_size_bytes = 50_000;
    let ended = worker.run(order).ended;
    assert_eq!(ended.exit, Exit::Signal(25));
    assert!(ended.touched.file_size);
    assert_eq!(ended.killed, None);
}

#[test]
fn memory_ends_a_stage_and_the_peak_is_told() {
    let Some(mut worker) = Worker::open_in_cgroup(48 << 20, 33) else {
        return;
    };
    let ended = worker
        .run(stage(&["perl", "-e", "my $x = 'x' x 200_000_000"]))
        .ended;
    assert_eq!(ended.killed, Some(Killed::Memory), "{ended:?}");
    assert!(ended.touched.memory);
    assert_eq!(ended.memory_from, MemoryFrom::Cgroup);
    assert!(ended.memory_peak_bytes > 40 << 20, "{ended:?}");
    let small = worker.run(shell("true")).ended;
    assert_eq!(small.killed, None);
    assert_eq!(small.memory_from, MemoryFrom::Rusage);
    assert!(small.memory_peak_bytes < 40 << 20, "{small:?}");
}

#[test]
fn a_child_that_ran_out_of_memory_is_the_stages_verdict() {
    let Some(mut worker) = Worker::open_in_cgroup(48 << 20, 33) else {
        return;
    };
    let script = "perl -e 'my $x = \"x\" x 200_000_000'; exit 0";
    let ended = worker.run(shell(script)).ended;
    assert_eq!(ended.killed, Some(Killed::Memory), "{ended:?}");
}

#[test]
fn a_kill_for_want_of_memory_above_the_container_is_not_the_stages_verdict() {
    let Some(mut worker) = Worker::open_below(48 << 20, 256 << 20, 33) else {
        return;
    };
    let order = stage(&["perl", "-e", "my $x = 'x' x 200_000_000"]);
    worker.send(&Command::Stage(Box::new(order)));
    assert_eq!(worker.receive(), Some(Report::Started));
    let (step, error) = worker.expect_failure();
    assert_eq!(step, "run the stage");
    assert!(error.contains("within its memory limit"), "{error}");
}

#[test]
fn a_fork_bomb_touches_the_process_limit_and_is_gone_afterwards() {
    let Some(mut worker) = Worker::open_in_cgroup(256 << 20, 21) else {
        return;
    };
    let mut order = stage(&["perl", "-e", "fork while 1"]);
    order.limits.processes = 20;
    order.limits.wall_time_us = slowly(300_000);
    let ended = worker.run(order).ended;
    assert!(ended.touched.processes, "{ended:?}");
    assert_eq!(ended.processes_peak, 20, "{ended:?}");
    assert_ok(&worker.run(shell("true")));
}

#[test]
fn the_cpu_time_of_a_program_is_its_own() {
    let Some(mut worker) = Worker::open_in_cgroup(256 << 20, 33) else {
        return;
    };
    let ended = worker.run(stage(&["true"])).ended;
    let used = ended.cpu_user_us + ended.cpu_system_us;
    assert!((100..slowly(20_000)).contains(&used), "{ended:?}");
    assert!(!ended.touched.cpu_time);
}
