//! A result that fits a message: past [`MAX_RESULT_BYTES`] all its outputs are cut evenly, to the same number of bytes.
//!
//! Of one that is too long, how long it is encoded is known without encoding it for every try: its length with empty outputs,
//! once, and what each output adds to that. What remains without outputs is bounded too (a submission has at most 1,000 runs, names,
//! labels and errors are short), so that every result fits; where long names stand in the way, they are cut as well, and in the end
//! the names of what is in the object store are left out.

use std::str;

use super::{
    collect::{CollectError, Collected},
    content::{base64_len, json_text_len},
    encoding::{Encoding, EncodingError},
    output::{Output, cut_at, tail_at},
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

/// The most errors of collecting that are listed.
const MOST_COLLECT_ERRORS: usize = 32;

/// Bytes of each text of such an error.
const MAX_COLLECT_TEXT: usize = 256;

/// What a blob adds to an output at least, in either encoding.
const LEAST_OF_A_BLOB: usize = 90;

/// What the list of collected files may take of the space that the rest leaves: so many parts in `COLLECTED_OF`.
const COLLECTED_PARTS: usize = 3;
const COLLECTED_OF: usize = 4;

/// What an end takes more as an object than as a string: `{"base64":""}`.
const TAIL_OBJECT: usize = 16;

/// Bytes for the error that says what was left out.
const LEFT_OUT: usize = 256;

/// `result` encoded, within [`MAX_RESULT_BYTES`]: where it is longer, each of its outputs is cut to the largest number of
/// bytes with which it fits, the same for all, beginnings and ends. Collected files that there is no room for are left out, last
/// ones first; in the end outputs' blobs too.
pub fn fit(mut result: SubmissionResult, encoding: Encoding) -> Result<Vec<u8>, EncodingError> {
    if let Some(failure) = &mut result.failure {
        shorten(&mut failure.message, MAX_MESSAGE);
    }
    bound_collect_errors(&mut result.collect_errors);
    let whole = encoding.encode(&result)?;
    if whole.len() <= MAX_RESULT_BYTES {
        return Ok(whole);
    }
    let (taken, cap) = take_too_much(&mut result, encoding)?;
    for (output, taken) in outputs(&mut result).zip(taken) {
        output.data = taken.data;
        // One whose blob was left out has no end to show.
        if output.tail.is_some() {
            output.tail = taken.tail;
        }
        output.cut(cap);
    }
    encoding.encode(&result)
}

/// The number of bytes to which [`fit`] would cut each output of `result`; `None` where it would not.
pub fn cap(result: &SubmissionResult, encoding: Encoding) -> Result<Option<usize>, EncodingError> {
    if encoding.encode(result)?.len() <= MAX_RESULT_BYTES {
        return Ok(None);
    }
    let (_, cap) = take_too_much(&mut result.clone(), encoding)?;
    Ok(Some(cap))
}

/// Takes out the outputs of a result that is too long, and what else there is no room for; and to how many bytes the outputs are to
/// be cut.
fn take_too_much(
    result: &mut SubmissionResult,
    encoding: Encoding,
) -> Result<(Vec<Taken>, usize), EncodingError> {
    let taken = take_outputs(result);
    let collected = std::mem::take(&mut result.collected);
    let bare = bare(result, encoding)?;
    let mut left = MAX_RESULT_BYTES.saturating_sub(bare);
    left -= keep_collected(result, collected, left, encoding)?;
    let cap = largest_cap(&taken, left, encoding);
    Ok((taken, cap))
}

/// The length of `result`, whose outputs and collected files were taken out, with as much else left out as it takes.
fn bare(result: &mut SubmissionResult, encoding: Encoding) -> Result<usize, EncodingError> {
    let bare = encoding.encode(result)?.len();
    if bare <= MAX_RESULT_BYTES {
        return Ok(bare);
    }
    for name in result.runs.iter_mut().filter_map(|run| run.name.as_mut()) {
        shorten(name, SHORT_NAME);
    }
    result.collect_errors.truncate(1);
    let bare = encoding.encode(result)?.len();
    let mut over = bare.saturating_sub(MAX_RESULT_BYTES);
    if over == 0 {
        return Ok(bare);
    }
    let mut all: Vec<_> = outputs(result).collect();
    for output in all.iter_mut().rev().filter(|output| output.blob.is_some()) {
        (output.blob, output.tail) = (None, None);
        over = over.saturating_sub(LEAST_OF_A_BLOB);
        if over == 0 {
            break;
        }
    }
    Ok(encoding.encode(result)?.len())
}

/// Puts back as many of the `collected` files as there is room for in `left` bytes, and says how many bytes they take.
fn keep_collected(
    result: &mut SubmissionResult,
    mut collected: Vec<Collected>,
    left: usize,
    encoding: Encoding,
) -> Result<usize, EncodingError> {
    let room = (left / COLLECTED_OF * COLLECTED_PARTS).saturating_sub(LEFT_OUT);
    let (mut taken, mut kept) = (0, 0);
    for file in &collected {
        // With the comma, and the names of the lists.
        let more = encoding.encode(file)?.len() + 1;
        if taken + more > room {
            break;
        }
        (taken, kept) = (taken + more, kept + 1);
    }
    if collected.is_empty() {
        return Ok(0);
    }
    let over = collected.split_off(kept).len();
    if over > 0 {
        result.collect_errors.push(CollectError {
            path: String::new(),
            message: format!("{over} files more were found, for which the result has no room"),
        });
    }
    result.collected = collected;
    Ok((taken + LEFT_OUT).min(left))
}

fn bound_collect_errors(errors: &mut Vec<CollectError>) {
    let over = errors.len().saturating_sub(MOST_COLLECT_ERRORS);
    errors.truncate(MOST_COLLECT_ERRORS);
    for error in errors.iter_mut() {
        shorten(&mut error.path, MAX_COLLECT_TEXT);
        shorten(&mut error.message, MAX_COLLECT_TEXT);
    }
    if over > 0 {
        errors.push(CollectError {
            path: String::new(),
            message: format!("and {over} more"),
        });
    }
}

/// Cuts what `runs` hold evenly, so that it is [`MAX_STORED_BYTES`] at most: for a worker, after each run.
pub fn trim(runs: &mut [Run]) {
    let cap = cap_of(runs);
    for run in runs {
        run.stdout.cut(cap);
        run.stderr.cut(cap);
    }
}

/// The number of bytes to which [`trim`] would cut.
pub fn cap_of(runs: &[Run]) -> usize {
    let outputs = runs.iter().flat_map(|run| [&run.stdout, &run.stderr]);
    let tail = |output: &Output| output.tail.as_ref().map(Vec::len);
    let mut lengths: Vec<usize> = outputs
        .flat_map(|output| [Some(output.data.len()), tail(output)])
        .flatten()
        .collect();
    even_cap(&mut lengths, MAX_STORED_BYTES)
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

/// What is shown of an output, taken out of it.
struct Taken {
    data: Vec<u8>,
    tail: Option<Vec<u8>>,
}

impl Taken {
    /// How many bytes are added with at most `cap` bytes of its beginning and of its end.
    fn added(&self, cap: usize, encoding: Encoding) -> usize {
        let tail = self.tail.as_ref().map_or(0, |tail| {
            let shown = &tail[tail_at(tail, cap)..];
            // Where it is an object instead of a string.
            added(shown, encoding) + if shown.is_empty() { 0 } else { TAIL_OBJECT }
        });
        added(&self.data[..cut_at(&self.data, cap)], encoding) + tail
    }
}

/// Takes out what the outputs show; of an end an empty one stays.
fn take_outputs(result: &mut SubmissionResult) -> Vec<Taken> {
    let take = |output: &mut Output| Taken {
        data: std::mem::take(&mut output.data),
        tail: output.tail.as_mut().map(std::mem::take),
    };
    outputs(result).map(take).collect()
}

/// The largest cap with which the outputs add at most `budget` bytes.
fn largest_cap(outputs: &[Taken], budget: usize, encoding: Encoding) -> usize {
    let fits = |cap: usize| {
        let mut left = budget;
        outputs.iter().all(|taken| {
            let added = taken.added(cap, encoding);
            left.checked_sub(added).map(|rest| left = rest).is_some()
        })
    };
    // `low` always fits; `high` is one past what was not found to fit.
    let length = |taken: &Taken| {
        taken
            .data
            .len()
            .max(taken.tail.as_ref().map_or(0, Vec::len))
    };
    let longest = outputs.iter().map(length).max().unwrap_or_default();
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
mod tests;
