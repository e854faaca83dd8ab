//! That every result fits, and how evenly it is cut.

use super::*;
use crate::submission::{
    content::Blob,
    names::{Digest, Tenant},
    result::{Failure, FailureCode, Outcome, Verdict},
    units::{ByteSize, Micros},
};

const ENCODINGS: [Encoding; 2] = [Encoding::Json, Encoding::MessagePack];

fn output(data: Vec<u8>) -> Output {
    let size = ByteSize(data.len() as u64);
    Output::new(data, size, false)
}

fn run(stdout: Vec<u8>, stderr: Vec<u8>) -> Run {
    Run {
        stdout: output(stdout),
        stderr: output(stderr),
        ..Run::skipped(None)
    }
}

fn result(runs: Vec<Run>) -> SubmissionResult {
    let at = time::macros::datetime!(2026-01-02 03:04:05.123456 UTC);
    SubmissionResult {
        tenant: Tenant::default_tenant(),
        id: "a1".into(),
        generation: 0,
        attempt: 1,
        outcome: Outcome::Finished,
        verdict: Some(Verdict::Ok),
        runtime: None,
        image: None,
        submission_digest: Digest::of(b""),
        isolation: None,
        start: None,
        worker: "host-1".into(),
        compile: None,
        runs,
        collected: Vec::new(),
        collect_errors: Vec::new(),
        errors: Vec::new(),
        failure: None,
        published_at: at,
        started_at: at,
        finished_at: at,
        queued_us: Micros(900),
        labels: std::collections::BTreeMap::new(),
    }
}

/// Fits `result` and checks that it could not be cut less.
fn fitted(result: SubmissionResult, encoding: Encoding) -> SubmissionResult {
    let body = fit(result, encoding).expect("encodes");
    assert!(body.len() <= MAX_RESULT_BYTES, "{}", body.len());
    encoding.decode(&body).expect("decodes")
}

#[test]
fn a_result_that_fits_stays_as_it_is() {
    for encoding in ENCODINGS {
        let whole = result(vec![run(b"hello\n".to_vec(), vec![0xff; 1_000])]);
        assert_eq!(fitted(whole.clone(), encoding), whole);
    }
}

#[test]
fn outputs_are_cut_evenly_and_no_more_than_needed() {
    for encoding in ENCODINGS {
        for byte in [b'x', 0, 0xff, b'"'] {
            let runs = vec![
                run(vec![byte; 2 << 20], b"short".to_vec()),
                run(vec![byte; 1 << 20], vec![]),
            ];
            let cut = fitted(result(runs), encoding);
            let lengths: Vec<_> = cut.runs.iter().map(|run| run.stdout.data.len()).collect();
            assert_eq!(lengths[0], lengths[1]);
            assert!(
                cut.runs
                    .iter()
                    .all(|run| run.stdout.truncated && !run.stderr.truncated)
            );
            assert_eq!(cut.runs[0].stderr.data, b"short");
            assert_eq!(cut.runs[0].stdout.size_bytes, ByteSize(2 << 20));
            assert!(encoding.encode(&cut).expect("encodes").len() > MAX_RESULT_BYTES - 64);
        }
    }
}

#[test]
fn a_compile_stages_outputs_are_cut_with_the_others() {
    let mut whole = result(vec![run(vec![b'x'; 1 << 20], vec![])]);
    whole.compile = Some(run(vec![], vec![b'y'; 1 << 20]));
    let cut = fitted(whole, Encoding::Json);
    let compile = cut.compile.expect("there");
    assert_eq!(compile.stderr.data.len(), cut.runs[0].stdout.data.len());
}

#[test]
fn a_cut_leaves_characters_whole() {
    let text = "\u{1f600}".repeat(300_000).into_bytes();
    for encoding in ENCODINGS {
        let cut = fitted(result(vec![run(text.clone(), text.clone())]), encoding);
        for output in [&cut.runs[0].stdout, &cut.runs[0].stderr] {
            assert!(output.truncated && str::from_utf8(&output.data).is_ok());
        }
    }
}

/// The largest result that a submission can bring about, without its outputs: names of the most characters, each of
/// which JSON escapes, every limit hit, the largest numbers.
fn largest() -> SubmissionResult {
    let largest = Run {
        name: Some("\"".repeat(256)),
        verdict: Verdict::FileSizeExceeded,
        signal: Some("SIGXFSZ".into()),
        limits_hit: [
            "cpu_time_us",
            "wall_time_us",
            "memory_bytes",
            "processes",
            "file_size_bytes",
            "output_bytes",
        ]
        .map(String::from)
        .to_vec(),
        cpu_user_us: Micros(u64::MAX),
        cpu_system_us: Micros(u64::MAX),
        wall_us: Micros(u64::MAX),
        memory_peak_bytes: ByteSize(u64::MAX),
        memory_from: Some(envicutor_protocol::MemoryFrom::Cgroup),
        processes_peak: u64::MAX,
        ..run(vec![0; 700], vec![0xff; 700])
    };
    let mut largest = result(vec![largest; 1_000]);
    largest.id = "x".repeat(4_096);
    largest.labels = (0..16)
        .map(|index| (format!("{index:064}"), "\u{1f600}".repeat(256)))
        .collect();
    largest.failure = Some(Failure {
        code: FailureCode::Internal,
        message: "\0".repeat(1 << 20),
        stage: "run".into(),
        attempts: 3,
    });
    largest
}

fn blob() -> Blob {
    Blob {
        digest: Digest::of(b"all"),
        size_bytes: ByteSize(u64::MAX),
    }
}

fn collected(count: usize, path: &str) -> Vec<Collected> {
    let file = |index| Collected {
        path: format!("{index}{path}"),
        size_bytes: ByteSize(u64::MAX),
        executable: false,
        blob: blob(),
    };
    (0..count).map(file).collect()
}

#[test]
fn the_largest_result_fits() {
    for encoding in ENCODINGS {
        for tail in [b"x".repeat(900), vec![0xff; 900], vec![0; 900]] {
            let mut largest = largest();
            for output in outputs(&mut largest) {
                *output = std::mem::take(output).stored(blob(), tail.clone());
            }
            largest.collected = collected(5_000, &"\u{1}".repeat(1_000));
            largest.collect_errors = vec![
                CollectError {
                    path: "\u{1}".repeat(1_000),
                    message: "\u{1}".repeat(1_000),
                };
                5_000
            ];
            let cut = fitted(largest, encoding);
            assert_eq!(cut.runs.len(), 1_000);
            assert_eq!(cut.labels.len(), 16);
        }
        let cut = fitted(largest(), encoding);
        assert_eq!(cut.runs.len(), 1_000);
    }
}

#[test]
fn an_end_is_cut_as_its_beginning_is_and_stays_an_end() {
    for encoding in ENCODINGS {
        for byte in [b'x', 0, 0xff] {
            let end = [vec![byte; 1 << 20], b"the end".to_vec()].concat();
            let output = output(vec![byte; 1 << 20]).stored(blob(), end);
            let mut whole = result(vec![run(vec![], vec![])]);
            whole.runs[0].stdout = output;
            let cut = fitted(whole, encoding);
            let Output {
                data, tail, blob, ..
            } = &cut.runs[0].stdout;
            let tail = tail.as_ref().expect("kept");
            assert_eq!((data.len(), blob.is_some()), (tail.len(), true));
            assert!(tail.ends_with(b"the end") && data.len() > 50_000);
        }
    }
}

#[test]
fn collected_files_without_room_are_told() {
    for encoding in ENCODINGS {
        let mut whole = result(vec![run(vec![b'x'; 1 << 20], vec![])]);
        whole.collected = collected(20_000, "/out/plot.png");
        let cut = fitted(whole, encoding);
        let kept = cut.collected.len();
        assert!(kept > 2_000, "{kept}");
        assert!(cut.runs[0].stdout.data.len() > 100_000);
        let told = format!("{} files more", 20_000 - kept);
        assert!(cut.collect_errors[0].message.contains(&told));
    }
    let mut small = result(vec![run(vec![b'x'; 1 << 20], vec![])]);
    small.collected = collected(100, "/out/plot.png");
    let cut = fitted(small, Encoding::Json);
    assert_eq!((cut.collected.len(), cut.collect_errors.len()), (100, 0));
}

#[test]
fn a_thousand_runs_share_the_space() {
    let runs = vec![run(vec![b'x'; 800], vec![b'y'; 800]); 1_000];
    for encoding in ENCODINGS {
        let cut = fitted(result(runs.clone()), encoding);
        let length = cut.runs[0].stdout.data.len();
        assert!(length > 100, "{length}");
        assert!(
            cut.runs
                .iter()
                .all(|run| run.stdout.data.len() == length && run.stderr.data.len() == length)
        );
    }
}

#[test]
fn what_a_worker_keeps_is_bounded() {
    let mut runs = Vec::new();
    for _ in 0..50 {
        runs.push(run(vec![b'x'; 1 << 20], b"short".to_vec()));
        trim(&mut runs);
        let kept: usize = runs
            .iter()
            .map(|run| run.stdout.data.len() + run.stderr.data.len())
            .sum();
        assert!(kept <= MAX_STORED_BYTES);
    }
    let lengths: Vec<_> = runs.iter().map(|run| run.stdout.data.len()).collect();
    assert!(lengths.iter().all(|length| *length == lengths[0]));
    assert!(lengths[0] > MAX_STORED_BYTES / 50 - 10);
    assert!(
        runs.iter()
            .all(|run| run.stdout.truncated && !run.stderr.truncated)
    );
}

#[test]
fn an_even_cap_gives_what_the_short_ones_leave() {
    assert_eq!(even_cap(&mut [], 10), usize::MAX);
    assert_eq!(even_cap(&mut [5, 5], 10), usize::MAX);
    assert_eq!(even_cap(&mut [1, 20, 20], 11), 5);
    assert_eq!(even_cap(&mut [1, 1, 1], 0), 0);
}

#[test]
fn what_would_be_cut_is_known_before() {
    for encoding in ENCODINGS {
        let whole = result(vec![run(vec![b'x'; 2 << 20], vec![b'y'; 10])]);
        let cap = cap(&whole, encoding).expect("encodes").expect("too long");
        let cut = fitted(whole, encoding);
        assert_eq!(cut.runs[0].stdout.data.len(), cap);
        assert_eq!(super::cap(&cut, encoding).expect("encodes"), None);
    }
}
