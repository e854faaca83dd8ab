//! What an installation says: its end is kept, and told live, as much of it as a second takes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{bus::Bus, runtimes::progress::Progress};

/// Lines that wait to be told; more are only kept.
const WAITING: usize = 64;

/// The time between two lines that are told: a flood of them must not become one of events.
const PACE: Duration = Duration::from_millis(10);

/// A line of an installation's log, as `envicutor.events._installations.<name>.log` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The message's place in the stream.
    pub sequence: u64,
    /// Whether it is a step, a line for people, and not of the script.
    pub step: bool,
    /// The line.
    pub line: String,
}

/// The log of one installation.
pub(super) struct InstallationLog {
    kept: Arc<Mutex<String>>,
    most: usize,
    sequence: u64,
    waiting: mpsc::Sender<LogLine>,
    telling: JoinHandle<()>,
}

impl InstallationLog {
    /// Keeps `most` bytes.
    pub(super) fn new(bus: &Bus, name: &str, sequence: u64, most: usize) -> Self {
        let (waiting, mut lines) = mpsc::channel::<LogLine>(WAITING);
        let bus = bus.clone();
        let subject = bus.names.installation_event(name, "log");
        let telling = tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                let Ok(body) = serde_json::to_vec(&line) else {
                    continue;
                };
                // A view that misses a line has the record's log.
                let _ = bus.client.publish(subject.clone(), body.into()).await;
                tokio::time::sleep(PACE).await;
            }
        });
        Self {
            kept: Arc::default(),
            most,
            sequence,
            waiting,
            telling,
        }
    }

    /// Takes what happened.
    pub(super) fn take(&self, progress: Progress) {
        let (step, line) = match progress {
            Progress::Step(line) => (true, line),
            Progress::Log(line) => (false, line),
        };
        if step {
            tracing::info!(target: "envicutor::installer", "{line}");
        }
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_str(&line);
            kept.push('\n');
            // Cut rarely: each cut moves what stays.
            if kept.len() > 2 * self.most {
                cut(&mut kept, self.most);
            }
        }
        let _ = self.waiting.try_send(LogLine {
            sequence: self.sequence,
            step,
            line,
        });
    }

    /// The end of all that was said.
    pub(super) fn end(&self) -> String {
        let mut kept = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        cut(&mut kept, self.most);
        kept
    }
}

impl Drop for InstallationLog {
    fn drop(&mut self) {
        self.telling.abort();
    }
}

/// Leaves the last `most` bytes, from a line's beginning on.
fn cut(text: &mut String, most: usize) {
    let Some(excess) = text.len().checked_sub(most).filter(|excess| *excess > 0) else {
        return;
    };
    let from = text.ceil_char_boundary(excess);
    let line = text[from..].find('\n').map_or(from, |end| from + end + 1);
    text.drain(..line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_kept_in_whole_lines() {
        let mut text = "one\ntwö\nthree\n".to_owned();
        cut(&mut text, 100);
        assert_eq!(text, "one\ntwö\nthree\n");
        cut(&mut text, 9);
        assert_eq!(text, "three\n");
    }
}
