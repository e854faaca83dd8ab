//! What a worker logged of one submission: every line goes to `tracing`, the last ones are kept for a dead letter.

use std::{collections::VecDeque, sync::Mutex};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The last lines about a submission.
#[derive(Debug)]
pub(crate) struct Journal {
    lines: Mutex<VecDeque<String>>,
    most: usize,
}

impl Journal {
    /// Keeps the last `most` lines.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            lines: Mutex::new(VecDeque::new()),
            most,
        }
    }

    /// Logs what was done.
    pub(crate) fn note(&self, line: &str) {
        tracing::info!("{line}");
        self.keep(line);
    }

    /// Logs what went wrong.
    pub(crate) fn warn(&self, line: &str) {
        tracing::warn!("{line}");
        self.keep(line);
    }

    /// The lines kept, oldest first.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.lines
            .lock()
            .map(|lines| lines.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn keep(&self, line: &str) {
        let now = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default();
        if let Ok(mut lines) = self.lines.lock() {
            while lines.len() >= self.most.max(1) {
                lines.pop_front();
            }
            lines.push_back(format!("{now} {line}"));
        }
    }
}
