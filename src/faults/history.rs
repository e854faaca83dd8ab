//! What was done and seen from outside while the faults struck: one list, in the order in which it was noted. It judges nothing.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::HeaderMap;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::plan::Kind;
use crate::{
    bus::api::{header, header_of},
    submission::{
        encoding::{Encoding, EncodingError},
        names::Digest,
        result::{FailureCode, Isolation, Outcome, SubmissionResult, Verdict},
    },
};

/// One thing that was done or seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When it was noted.
    pub at: OffsetDateTime,
    /// What.
    pub what: What,
}

/// What was done or seen.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A client did something, or was told something.
    Client {
        /// The submission.
        id: String,
        /// What.
        operation: Operation,
    },
    /// A plain subscriber got a result.
    Live {
        /// Which subscriber.
        subscriber: usize,
        /// What it got.
        seen: Seen,
    },
    /// A worker told of an attempt.
    Event {
        /// The submission.
        id: String,
        /// Which start.
        attempt: u64,
        /// The worker.
        worker: String,
        /// `started`, `stage_started`, `stage_ended`.
        kind: &'static str,
        /// When, as the worker has it.
        at: OffsetDateTime,
    },
    /// A fault struck.
    Fault {
        /// Which.
        kind: Kind,
        /// Whom, and what else is known of it.
        whom: String,
    },
    /// A worker's process began.
    WorkerStarted {
        /// Which.
        worker: String,
    },
    /// A worker's process ended.
    WorkerEnded {
        /// Which.
        worker: String,
        /// Why.
        cause: Cause,
        /// Its status, and what else is known of it.
        how: String,
        /// For how long it had run.
        after: Duration,
    },
    /// Anything else that whoever reads this should know.
    Note(String),
}

/// What a client did, and what it was told. A content is named by the digest of its message's body.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// It publishes a content, whose program prints `nonce`.
    Invoked {
        /// Which content.
        content: Digest,
        /// What its program prints.
        nonce: String,
    },
    /// It was told that the content is stored.
    Acknowledged {
        /// Which content.
        content: Digest,
        /// In the server's words, or by what else it knows.
        by: String,
    },
    /// It was told that the content is not stored by this publish.
    Refused {
        /// Which content.
        content: Digest,
        /// Why.
        why: String,
    },
    /// It was told nothing that says either.
    Unknown {
        /// Which content.
        content: Digest,
        /// Why.
        why: String,
    },
    /// It read what stands under the id.
    Read(Option<Seen>),
    /// It waits no longer for a result.
    GaveUp,
}

/// Why a worker's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was killed.
    Killed,
    /// It was asked to drain.
    Drained,
    /// Nobody asked it to.
    Itself,
}

/// A result, as far as it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Of which submission.
    pub id: String,
    /// Of which generation.
    pub generation: u64,
    /// Of which start.
    pub attempt: u64,
    /// Whether it ran.
    pub outcome: Outcome,
    /// What came out.
    pub verdict: Option<Verdict>,
    /// Why the fleet could not run it.
    pub failure: Option<FailureCode>,
    /// The digest of the body that ran, as the result has it.
    pub content: Digest,
    /// What its last run wrote.
    pub stdout: Option<Vec<u8>>,
    /// Who ran it.
    pub worker: String,
    /// The isolation it ran in.
    pub isolation: Option<Isolation>,
    /// Its sequence in RESULTS.
    pub sequence: u64,
    /// The digest of the result's own bytes.
    pub body: Digest,
}

impl Seen {
    /// The result in a message, whose stream sequence is known.
    pub fn read(headers: &HeaderMap, body: &[u8], sequence: u64) -> Result<Self, EncodingError> {
        let encoding = Encoding::of_content_type(header_of(headers, header::CONTENT_TYPE))?;
        let result: SubmissionResult = encoding.decode(body)?;
        Ok(Self::of(result, sequence, Digest::of(body)))
    }

    fn of(result: SubmissionResult, sequence: u64, body: Digest) -> Self {
        Self {
            id: result.id,
            generation: result.generation,
            attempt: result.attempt,
            outcome: result.outcome,
            verdict: result.verdict,
            failure: result.failure.map(|failure| failure.code),
            content: result.submission_digest,
            stdout: result
                .runs
                .into_iter()
                .next_back()
                .map(|run| run.stdout.data),
            worker: result.worker,
            isolation: result.isolation,
            sequence,
            body,
        }
    }

    /// Whether both are one and the same stored result.
    pub fn is(&self, other: &Self) -> bool {
        (self.sequence, &self.body) == (other.sequence, &other.body)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            generation,
            attempt,
            outcome,
            worker,
            sequence,
            ..
        } = self;
        write!(f, "generation {generation} attempt {attempt} {outcome:?}")?;
        if let Some(verdict) = self.verdict {
            write!(f, " {verdict:?}")?;
        }
        if let Some(failure) = self.failure {
            write!(f, " {failure:?}")?;
        }
        if let Some(stdout) = &self.stdout {
            write!(f, " stdout {:?}", String::from_utf8_lossy(stdout))?;
        }
        write!(
            f,
            " of content {} by {worker}, stored as {sequence}",
            short(&self.content)
        )
    }
}

/// The first digits of a digest: enough to tell two of one submission apart.
pub fn short(digest: &Digest) -> &str {
    digest.as_str().get(7..15).unwrap_or_default()
}

impl What {
    /// The submission that it is about.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Client { id, .. } | Self::Event { id, .. } => Some(id),
            Self::Live { seen, .. } => Some(&seen.id),
            Self::Fault { .. }
            | Self::WorkerStarted { .. }
            | Self::WorkerEnded { .. }
            | Self::Note(_) => None,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client { operation, .. } => write!(f, "client: {operation}"),
            Self::Live { subscriber, seen } => write!(f, "subscriber {subscriber}: {seen}"),
            Self::Event {
                attempt,
                worker,
                kind,
                at,
                ..
            } => {
                let at = at.format(&Rfc3339).unwrap_or_default();
                write!(f, "event: {kind} attempt {attempt} by {worker} at {at}")
            }
            Self::Fault { kind, whom } => write!(f, "fault: {}: {whom}", kind.as_str()),
            Self::WorkerStarted { worker } => write!(f, "worker {worker} started"),
            Self::WorkerEnded {
                worker, cause, how, ..
            } => write!(f, "worker {worker} ended ({cause:?}): {how}"),
            Self::Note(note) => f.write_str(note),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invoked { content, nonce } => {
                write!(
                    f,
                    "publishes content {}, which prints {nonce}",
                    short(content)
                )
            }
            Self::Acknowledged { content, by } => {
                write!(f, "content {} is stored: {by}", short(content))
            }
            Self::Refused { content, why } => {
                write!(f, "content {} is refused: {why}", short(content))
            }
            Self::Unknown { content, why } => {
                write!(f, "content {} may be stored: {why}", short(content))
            }
            Self::Read(Some(seen)) => write!(f, "reads {seen}"),
            Self::Read(None) => f.write_str("reads that there is no result"),
            Self::GaveUp => f.write_str("waits no longer"),
        }
    }
}

/// Notes what is done and seen. Clones write into one history. It grows with what is submitted and with the length of the run.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Entry>>>);

impl Recorder {
    /// Notes it, now.
    pub fn note(&self, what: What) {
        let mut entries = self.entries();
        // Taken under the lock: the order of the list is the order of its times.
        let at = OffsetDateTime::now_utc();
        entries.push(Entry { at, what });
    }

    /// Notes what a client did or was told.
    pub fn client(&self, id: &str, operation: Operation) {
        let id = id.to_owned();
        self.note(What::Client { id, operation });
    }

    /// What was noted so far.
    pub fn history(&self) -> Vec<Entry> {
        self.entries().clone()
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
