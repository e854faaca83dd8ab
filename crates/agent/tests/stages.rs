//! What a worker is promised of a stage that means no harm.

mod harness;

use envicutor_protocol::{Exit, Killed, Stdin};
use harness::{Worker, assert_ok, shell, stage};

#[test]
fn a_stage_says_what_it_wrote_and_how_it_ended() {
    let mut worker = Worker::open();
    let outcome = worker.run(shell("echo out; echo err >&2; exit 3"));
    assert!(outcome.started);
    assert_eq!(outcome.stdout, b"out\n");
    assert_eq!(outcome.stderr, b"err\n");
    assert_eq!(outcome.ended.exit, Exit::Code(3));
    assert_eq!(outcome.ended.killed, None);
    assert!(outcome.ended.wall_us > 0, "{outcome:?}");
    assert!(outcome.ended.processes_peak >= 1, "{outcome:?}");
    assert!(outcome.ended.memory_peak_bytes > 0, "{outcome:?}");
}

#[test]
fn a_signal_is_reported_by_its_number() {
    let mut worker = Worker::open();
    let outcome = worker.run(shell("kill -SEGV $$"));
    assert_eq!(outcome.ended.exit, Exit::Signal(11));
    assert_eq!(outcome.ended.killed, None);
}

#[test]
fn files_are_laid_out_for_the_stages_and_what_one_writes_the_next_one_finds() {
    let mut worker = Worker::open();
    let large: Vec<u8> = (0..200_000_u32).map(|it| it.to_le_bytes()[0]).collect();
    worker.file("a/b/large", &large, false);
    worker.file("tool", b"#!/bin/sh\necho ran $1 in $(pwd)\n", true);
    assert_ok(&worker.run(shell("cksum < a/b/large > sum; ls -ln a tool > list")));
    let outcome = worker.run(shell("cat sum list; exec ./tool now"));
    assert_ok(&outcome);
    let text = outcome.text();
    assert!(text.contains(" 200000\n"), "{text}");
    assert!(text.contains("-rwxr-xr-x 1 61234 61234"), "{text}");
    assert!(text.contains(&format!("ran now in {}", worker.work_dir.display())));
}

#[test]
fn input_larger_than_a_pipe_arrives_whole() {
    let mut worker = Worker::open();
    let rest = vec![b'x'; 200 << 10];
    let mut order = shell("wc -c");
    order.stdin = Stdin {
        data: vec![b'y'; 10],
        last: false,
    };
    let outcome = worker.run_with_input(order, &rest);
    assert_ok(&outcome);
    assert_eq!(outcome.text().trim(), (rest.len() + 10).to_string());
}

#[test]
fn input_that_nobody_reads_holds_nothing_up() {
    let mut worker = Worker::open();
    for script in ["exec <&-; sleep 0.1", "true", "head -c 1 >/dev/null"] {
        let mut order = shell(script);
        order.stdin = Stdin {
            data: vec![0; 64 << 10],
            last: false,
        };
        assert_ok(&worker.run_with_input(order, &vec![0; 300 << 10]));
    }
}

#[test]
fn binary_output_arrives_as_it_is() {
    let mut worker = Worker::open();
    let outcome = worker.run(shell("printf '\\0\\377\\200\\n'"));
    assert_eq!(outcome.stdout, b"\0\xff\x80\n");
}

#[test]
fn the_standard_streams_can_be_opened_anew() {
    let mut worker = Worker::open();
    let mut order = shell("cat /dev/stdin > /dev/stdout; echo e > /dev/stderr");
    order.stdin = Stdin {
        data: b"in\n".to_vec(),
        last: true,
    };
    let outcome = worker.run(order);
    assert_ok(&outcome);
    assert_eq!(
        (&*outcome.stdout, &*outcome.stderr),
        (&b"in\n"[..], &b"e\n"[..])
    );
}

#[test]
fn a_program_finds_default_signals_no_privilege_and_no_stray_descriptor() {
    let mut worker = Worker::open();
    let outcome = worker.run(shell(
        "grep -E '^(Uid|Gid|Groups|Sig(Blk|Ign|Cgt)|Cap|NoNewPrivs)' /proc/self/status; umask; \
         echo oom $(cat /proc/self/oom_score_adj); ls /proc/self/fd | tr '\\n' ' '; ulimit -c; env | sort | head -c 300",
    ));
    assert_ok(&outcome);
    let text = outcome.text();
    let words: Vec<String> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for expected in [
        "Uid: 61234 61234 61234 61234",
        "Gid: 61234 61234 61234 61234",
        "Groups:",
        "SigBlk: 0000000000000000",
        "SigIgn: 0000000000000000",
        "CapInh: 0000000000000000",
        "CapPrm: 0000000000000000",
        "CapEff: 0000000000000000",
        "CapAmb: 0000000000000000",
        "NoNewPrivs: 1",
        "0022",
        "oom 1000",
        // 3 is ls's own, on the directory.
        "0 1 2 3 0",
    ] {
        assert!(
            words.iter().any(|it| it == expected),
            "{expected} is not in {text}"
        );
    }
}

#[test]
fn what_cannot_be_executed_is_told_by_its_error() {
    let mut worker = Worker::open();
    worker.file("data", b"no program", false);
    worker.file("broken", b"\x7fELFnot", true);
    let cases = [
        ("no-such-program", libc_errno::ENOENT),
        ("./missing", libc_errno::ENOENT),
        ("./data", libc_errno::EACCES),
        ("./broken", libc_errno::ENOEXEC),
        ("", libc_errno::ENOENT),
    ];
    for (name, errno) in cases {
        let outcome = worker.run(stage(&[name]));
        assert!(!outcome.started, "{name}");
        assert_eq!(outcome.ended.exit, Exit::NotExecuted { errno }, "{name}");
        assert_eq!(outcome.ended.killed, None, "{name}");
    }
    assert_ok(&worker.run(shell("true")));
}

#[test]
fn a_kill_ends_the_stage_and_the_next_one_runs() {
    let mut worker = Worker::open();
    worker.send(&envicutor_protocol::Command::Kill);
    worker.send(&envicutor_protocol::Command::Stage(Box::new(shell(
        "sleep 30",
    ))));
    assert_eq!(worker.receive(), Some(envicutor_protocol::Report::Started));
    worker.send(&envicutor_protocol::Command::Kill);
    let outcome = worker.collect(&[]);
    assert_eq!(outcome.ended.killed, Some(Killed::Asked));
    assert_eq!(outcome.ended.exit, Exit::Signal(9));
    assert_ok(&worker.run(shell("true")));
}

/// Linux's numbers: the tests need no crate for three of them.
mod libc_errno {
    pub const ENOENT: i32 = 2;
    pub const ENOEXEC: i32 = 8;
    pub const EACCES: i32 = 13;
}
