//! Which dead letters: by sequence, or by what they say.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::submission::{
    dead_letter::DeadLetter,
    names::{RuntimeRef, SubmissionId, Tenant},
    result::FailureCode,
};

/// Dead letters: those of these sequences, or all that every condition holds of. Without any condition it is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// These alone, in ascending order; where there is one, no other condition counts.
    pub sequences: Vec<u64>,
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// Of this id.
    pub id: Option<SubmissionId>,
    /// That name this runtime; one without a version stands for all of its versions.
    pub runtime: Option<RuntimeRef>,
    /// For one of these reasons; empty is any.
    pub reasons: Vec<FailureCode>,
    /// With every one of these labels.
    pub labels: Vec<Label>,
    /// That died then or later.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
}

/// A label that a submission has: of any value, or of this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value; absent is any.
    pub value: Option<String>,
}

impl Selection {
    /// Whether it names letters by nothing at all, and so all of them.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether every condition but that of the sequence holds of `letter`.
    pub fn holds_of(&self, letter: &DeadLetter) -> bool {
        let is_runtime = |wanted: &RuntimeRef| {
            letter.runtime().is_some_and(|runtime| {
                runtime.name == wanted.name
                    && (wanted.version.is_none() || runtime.version == wanted.version)
            })
        };
        self.tenant.as_ref().is_none_or(|it| *it == letter.tenant)
            && self.id.as_ref().is_none_or(|it| *it == letter.id)
            && (self.reasons.is_empty() || self.reasons.contains(&letter.reason.code))
            && self.since.is_none_or(|since| letter.dead_at >= since)
            && self.labels.iter().all(|label| label.is_on(letter))
            && self.runtime.as_ref().is_none_or(is_runtime)
    }
}

impl Label {
    fn is_on(&self, letter: &DeadLetter) -> bool {
        letter
            .labels
            .get(&self.key)
            .is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

impl FromStr for Label {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::submission::{
        dead_letter::{Original, Reason},
        names::Lane,
    };

    fn letter() -> DeadLetter {
        DeadLetter {
            tenant: Tenant::default_tenant(),
            id: "a1".parse().expect("valid"),
            generation: 0,
            lane: Lane::Batch,
            reason: Reason {
                code: FailureCode::WorkerLost,
                message: String::new(),
                stage: String::new(),
            },
            attempts: Vec::new(),
            submission: Original {
                content_type: None,
                headers: BTreeMap::new(),
                body: br#"{"runtime": "python@3.11"}"#.to_vec(),
            },
            log_tail: Vec::new(),
            dead_at: time::macros::datetime!(2026-01-02 03:04:05 UTC),
            labels: BTreeMap::from([("course".into(), "cs101".into())]),
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let since = |at| Selection {
            since: Some(at),
            ..Selection::default()
        };
        let runtime = |text: &str| Selection {
            runtime: Some(text.parse().expect("valid")),
            ..Selection::default()
        };
        let label = |text: &str| Selection {
            labels: vec![text.parse().expect("valid")],
            ..Selection::default()
        };
        let reasons = |reasons: &[FailureCode]| Selection {
            reasons: reasons.to_vec(),
            ..Selection::default()
        };
        for (selection, holds) in [
            (Selection::default(), true),
            (runtime("python"), true),
            (runtime("python@3.11"), true),
            (runtime("python@3.12"), false),
            (runtime("bash"), false),
            (label("course"), true),
            (label("course=cs101"), true),
            (label("course=cs102"), false),
            (label("year"), false),
            (
                since(time::macros::datetime!(2026-01-02 03:04:05 UTC)),
                true,
            ),
            (
                since(time::macros::datetime!(2026-01-02 03:04:06 UTC)),
                false,
            ),
            (
                reasons(&[FailureCode::Image, FailureCode::WorkerLost]),
                true,
            ),
            (reasons(&[FailureCode::Image]), false),
        ] {
            assert_eq!(selection.holds_of(&letter()), holds, "{selection:?}");
            let kept = serde_json::to_string(&selection).expect("encodes");
            assert_eq!(
                serde_json::from_str::<Selection>(&kept).expect("decodes"),
                selection
            );
        }
    }

    #[test]
    fn a_body_that_cannot_be_read_names_no_runtime() {
        let mut letter = letter();
        letter.submission.body = b"{".to_vec();
        let selection = Selection {
            runtime: Some("python".parse().expect("valid")),
            ..Selection::default()
        };
        assert!(!selection.holds_of(&letter));
        assert!(Selection::default().holds_of(&letter));
    }
}
