//! The trail that replays leave: who had a submission run again, when, from where, and with what changed. It travels in the
//! header `Envicutor-Replays` of each new generation, and from there into its dead letter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{names::SubmissionId, result::FailureCode};

/// The replays that a trail keeps: the last ones.
const MOST: usize = 16;

/// The replays of a submission, the oldest first, at most the last 16.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Trail {
    replays: Vec<Replay>,
}

/// One replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Replay {
    /// The generation that it made.
    pub generation: u64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: OffsetDateTime,
    /// Who: the user and the host of the command.
    pub by: String,
    /// The dead letter that it came from; absent for a submission that had a result of another outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<u64>,
    /// Why it was dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<FailureCode>,
    /// The batch that it was part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<SubmissionId>,
    /// What differs from the generation before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// A field that a replay changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Of the submission; `lane` for its lane.
    pub path: String,
    /// What it was; null where it was absent. What is large is told in words.
    pub from: serde_json::Value,
    /// What it became.
    pub to: serde_json::Value,
}

impl Trail {
    /// The header that it travels in.
    pub const HEADER: &str = "Envicutor-Replays";

    /// The trail in a header. What cannot be read is none of ours, and begins anew.
    pub fn of_header(value: Option<&str>) -> Self {
        value
            .and_then(|value| serde_json::from_str(value).ok())
            .unwrap_or_default()
    }

    /// As a header: one line. `None` where it has no JSON form.
    pub fn to_header(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// This trail and one replay more.
    #[must_use]
    pub fn and(mut self, replay: Replay) -> Self {
        self.replays.push(replay);
        let over = self.replays.len().saturating_sub(MOST);
        self.replays.drain(..over);
        self
    }

    /// The replays, the oldest first.
    pub fn replays(&self) -> &[Replay] {
        &self.replays
    }

    /// The replay that made this generation.
    pub fn last(&self) -> Option<&Replay> {
        self.replays.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(generation: u64) -> Replay {
        Replay {
            generation,
            at: time::macros::datetime!(2026-01-02 03:04:05 UTC),
            by: "ann@ops".into(),
            letter: Some(17),
            reason: Some(FailureCode::WorkerLost),
            batch: None,
            changes: vec![Change {
                path: "labels.note".into(),
                from: serde_json::Value::Null,
                to: "two\nlines".into(),
            }],
        }
    }

    #[test]
    fn a_trail_is_one_line_and_survives_it() {
        let trail = Trail::default().and(replay(1)).and(replay(2));
        let header = trail.to_header().expect("a header");
        assert!(!header.contains('\n'), "{header}");
        assert_eq!(Trail::of_header(Some(&header)), trail);
        assert_eq!(trail.last().map(|replay| replay.generation), Some(2));
    }

    #[test]
    fn a_trail_is_bounded_and_begins_anew_where_it_cannot_be_read() {
        let long = (1..100).fold(Trail::default(), |trail, n| trail.and(replay(n)));
        assert_eq!(long.replays().len(), MOST);
        assert_eq!(long.last().map(|replay| replay.generation), Some(99));
        for none in [None, Some(""), Some("{"), Some("[{}]")] {
            assert_eq!(Trail::of_header(none), Trail::default());
        }
    }
}
