//! A result that fits a message: past [`MAX_RESULT_BYTES`] all its outputs are cut evenly, to the same number of bytes.
//!
//! How long a result is encoded is known without encoding it for every try: its length with empty outputs, once, and what
//! each output adds to that. What remains without outputs is bounded too (a submission has at most 1,000 runs, names,
//! labels and errors are short), so that every result fits; where long names stand in the way, they are cut as well.

use std::str;

use super::{
    content::{Output, base64_len, cut_at, json_text_len},
    encoding::{Encoding, EncodingError},
    result::{Run, SubmissionResult},
};

/// The largest encoded result, in bytes.
pub const MAX_RESULT_BYTES: usize = 768 << 10;

/// The bytes of output that a worker keeps of all runs together; more can never be shown.
pub const MAX_STORED_BYTES: usize = MAX_RESULT_BYTES;

/// Bytes of a test's name where not even the names fit.
const SHORT_NAME: usize = 32;

/// Bytes of a failure's message.
const MAX_MESSAGE: usize = 4_096;

/// `result` encoded, within [`MAX_RESULT_BYTES`]: where it is longer, each of its outputs is cut to the largest number of
/// bytes with which it fits, the same for all.
pub fn fit(mut result: SubmissionResult, encoding: Encoding) -> Result<Vec<u8>, EncodingError> {
    if let Some(failure) = &mut result.failure {
        shorten(&mut failure.message, MAX_MESSAGE);
    }
    let taken = take_outputs(&mut result);
    let mut bare = encoding.encode(&result)?.len();
    if bare > MAX_RESULT_BYTES {
        for name in result.runs.iter_mut().filter_map(|run| run.name.as_mut()) {
            shorten(name, SHORT_NAME);
        }
        bare = encoding.encode(&result)?.len();
    }
    let cap = largest_cap(&taken, MAX_RESULT_BYTES.saturating_sub(bare), encoding);
    for (output, data) in outputs(&mut result).zip(taken) {
        output.data = data;
        output.cut(cap);
    }
    encoding.encode(&result)
}

/// Cuts what `runs` hold evenly, so that it is [`MAX_STORED_BYTES`] at most: for a worker, after each run.
pub fn trim(runs: &mut [Run]) {
    let mut lengths: Vec<usize> = runs
        .iter()
        .flat_map(|run| [run.stdout.data.len(), run.stderr.data.len()])
        .collect();
    let cap = even_cap(&mut lengths, MAX_STORED_BYTES);
    for run in runs {
        run.stdout.cut(cap);
        run.stderr.cut(cap);
    }
}

/// The largest number to which all `lengths` may be cut, so that their sum is at most `budget`.
fn even_cap(lengths: &mut [usize], budget: usize) -> usize {
    lengths.sort_unstable();
    let mut left = budget;
    for (index, length) in lengths.iter().enumerate() {
        let share = left / (lengths.len() - index);
        if *length > share {
            return share;
        }
        left -= length;
    }
    usize::MAX
}

fn outputs(result: &mut SubmissionResult) -> impl Iterator<Item = &mut Output> {
    result
        .compile
        .iter_mut()
        .chain(&mut result.runs)
        .flat_map(|run| [&mut run.stdout, &mut run.stderr])
}

fn take_outputs(result: &mut SubmissionResult) -> Vec<Vec<u8>> {
    outputs(result)
        .map(|output| std::mem::take(&mut output.data))
        .collect()
}

/// The largest cap with which the outputs add at most `budget` bytes.
fn largest_cap(outputs: &[Vec<u8>], budget: usize, encoding: Encoding) -> usize {
    let fits = |cap: usize| {
        let mut left = budget;
        outputs.iter().all(|data| {
            let added = added(&data[..cut_at(data, cap)], encoding);
            left.checked_sub(added).map(|rest| left = rest).is_some()
        })
    };
    // `low` always fits; `high` is one past what was not found to fit.
    let longest = outputs.iter().map(Vec::len).max().unwrap_or_default();
    let (mut low, mut high) = (0, longest + 1);
    if fits(longest) {
        return longest;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// How much longer a result is with `data` in an output than with nothing, at most.
fn added(data: &[u8], encoding: Encoding) -> usize {
    match (encoding, str::from_utf8(data)) {
        (Encoding::Json, Ok(text)) => json_text_len(text),
        // The field is `base64` instead of `text`.
        (Encoding::Json, Err(_)) => base64_len(data.len()) + 2,
        // The length may take 4 bytes instead of 1.
        (Encoding::MessagePack, _) => data.len() + 3,
    }
}

/// Cuts `text` to at most `most` bytes, at a character's boundary.
fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::{
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

    #[test]
    fn the_largest_result_fits() {
        for encoding in ENCODINGS {
            let cut = fitted(largest(), encoding);
            assert_eq!(cut.runs.len(), 1_000);
            assert_eq!(cut.labels.len(), 16);
        }
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
}
