//! What is told while an image is made, and the end of its log, which is kept for the error.

use std::{collections::VecDeque, fmt};

/// The lines of a log that are kept for an error.
const TAIL_LINES: usize = 40;
/// The longest line that is kept; the rest of it is dropped.
const LINE_BYTES: usize = 1_000;

/// Something that happened while an image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A step began: a line for people.
    Step(String),
    /// A line of the log, without control characters.
    Log(String),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(line) | Self::Log(line) => f.write_str(line),
        }
    }
}

/// Who is told.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// The target of what [`trace`] writes, by which a program shows it as progress.
pub const TARGET: &str = "envicutor::progress";

/// A listener that writes to the program's log: steps as `info`, the rest as `debug`.
pub fn trace(progress: Progress) {
    match progress {
        Progress::Step(step) => tracing::info!(target: TARGET, "{step}"),
        Progress::Log(line) => tracing::debug!(target: TARGET, "{line}"),
    }
}

/// A log that is read in pieces: each whole line is told, the last ones are kept.
pub(super) struct Log<'a> {
    listener: Listener<'a>,
    lines: VecDeque<String>,
    partial: Vec<u8>,
}

impl<'a> Log<'a> {
    pub(super) fn new(listener: Listener<'a>) -> Self {
        Self {
            listener,
            lines: VecDeque::new(),
            partial: Vec::new(),
        }
    }

    /// Tells that a step began.
    pub(super) fn step(&mut self, step: impl Into<String>) {
        (self.listener)(Progress::Step(step.into()));
    }

    /// Takes a piece of output, which may end amid a line.
    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// Takes one line.
    pub(super) fn line(&mut self, line: &str) {
        self.write(line.as_bytes());
        self.end_line();
    }

    /// The last lines.
    pub(super) fn tail(&self) -> String {
        let partial = show(&self.partial);
        let lines = self.lines.iter().map(String::as_str);
        let lines: Vec<&str> = lines
            .chain((!partial.is_empty()).then_some(partial.as_str()))
            .collect();
        if lines.is_empty() {
            "(it wrote nothing)".to_owned()
        } else {
            lines.join("\n")
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES.saturating_sub(self.partial.len());
        self.partial.extend(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self) {
        let line = show(&std::mem::take(&mut self.partial));
        if line.is_empty() {
            return;
        }
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.clone());
        (self.listener)(Progress::Log(line));
    }
}

/// The bytes as text that may be shown on a terminal.
fn show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .filter(|c| !c.is_control() || *c == '\t')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn pieces_become_lines_and_the_last_ones_are_kept() {
        let told = Mutex::new(Vec::new());
        let listener = |progress: Progress| told.lock().expect("whole").push(progress.to_string());
        let mut log = Log::new(&listener);
        for number in 0..50 {
            log.write(format!("line {number}\r\nha").as_bytes());
            log.write(b"lf\n");
        }
        log.write(b"\x1b[31mthe end");
        assert_eq!(told.lock().expect("whole").len(), 100);
        let tail = log.tail();
        assert!(tail.starts_with("line 30\nhalf\n"), "{tail}");
        assert!(tail.ends_with("half\n[31mthe end"), "{tail}");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut log = Log::new(&|_| ());
        for _ in 0..100 {
            log.write(&[b'x'; 1_000]);
        }
        assert_eq!(log.tail().len(), LINE_BYTES);
    }
}
