//! What happens on a submission's way, for live views. Only the result is promised; an event may be lost.

use std::{borrow::Cow, collections::BTreeMap};

use envicutor_protocol::Stream;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_bytes::{ByteBuf, Bytes};
use time::OffsetDateTime;

use super::{
    content::{Given, Parts},
    names::{SubmissionId, Tenant},
    output::Output,
    result::Verdict,
    units::ByteSize,
};

/// An event, as it stands under `envicutor.events.<tenant>.<id>.<kind>`: one flat object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whose submission.
    pub tenant: Tenant,
    /// Which.
    pub id: SubmissionId,
    /// 0, and one more for each replay.
    pub generation: u64,
    /// Which start of this generation, from 1.
    pub attempt: u64,
    /// Counts the events of an attempt, from 0.
    pub sequence: u64,
    /// When.
    pub at: OffsetDateTime,
    /// Who runs it.
    pub worker: String,
    /// The submission's.
    pub labels: BTreeMap<String, String>,
    /// What happened: the field `kind` and the kind's own fields.
    pub happened: Happened,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// An attempt began.
    Started,
    /// A stage began.
    StageStarted {
        /// Which.
        stage: StageName,
    },
    /// A stage wrote something.
    Output {
        /// Which.
        stage: StageName,
        /// To which stream.
        stream: Stream,
        /// How much of the stream came before, in bytes.
        offset_bytes: ByteSize,
        /// What it wrote: only `data` goes into the event, as `text`, `base64` or `bytes`.
        data: Output,
    },
    /// A stage is over.
    StageEnded {
        /// Which.
        stage: StageName,
        /// What came of it.
        verdict: Verdict,
    },
}

/// The compile stage or one of the runs: `"stage": "compile"`, or `"stage": "run", "run": 0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StageName {
    /// The build.
    Compile,
    /// A run, from 0.
    Run {
        /// Its place among the runs.
        run: usize,
    },
}

impl Happened {
    /// The kind, as it stands in the subject and in the field `kind`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::StageStarted { .. } => "stage_started",
            Self::Output { .. } => "output",
            Self::StageEnded { .. } => "stage_ended",
        }
    }
}

/// `kind`.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Kind {
    Started,
    StageStarted,
    Output,
    StageEnded,
}

/// `stage`.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Stage {
    Compile,
    Run,
}

/// An [`Event`] as it is written.
#[derive(Serialize, JsonSchema)]
#[schemars(
    rename = "Event",
    description = "What happened on a submission's way. `stage_started`, `output` and `stage_ended` carry `stage` and, of a run, `run`; `output` carries `stream`, `offset_bytes` and the data as `text` or `base64` (in MessagePack `bytes`); `stage_ended` carries `verdict`."
)]
struct Written<'a> {
    /// Whose submission.
    tenant: &'a Tenant,
    /// Which.
    id: &'a SubmissionId,
    /// 0, and one more for each replay.
    generation: u64,
    /// Which start of this generation, from 1.
    attempt: u64,
    /// What happened.
    kind: Kind,
    /// Counts the events of an attempt, from 0.
    sequence: u64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    at: OffsetDateTime,
    /// Who runs it.
    worker: &'a str,
    /// The submission's.
    labels: &'a BTreeMap<String, String>,
    /// The compile stage or one of the runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Stage")]
    stage: Option<Stage>,
    /// The run's place among the runs, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize")]
    run: Option<usize>,
    /// `stdout` or `stderr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("enum" = ["stdout", "stderr"]))]
    stream: Option<Stream>,
    /// How much of the stream came before, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    offset_bytes: Option<ByteSize>,
    /// What the stage wrote, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    text: Option<&'a str>,
    /// What the stage wrote, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    bytes: Option<&'a Bytes>,
    /// What came of the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Verdict")]
    verdict: Option<Verdict>,
}

impl<'a> Written<'a> {
    fn of(event: &'a Event, readable: bool) -> Self {
        let mut written = Self {
            tenant: &event.tenant,
            id: &event.id,
            generation: event.generation,
            attempt: event.attempt,
            kind: Kind::Started,
            sequence: event.sequence,
            at: event.at,
            worker: &event.worker,
            labels: &event.labels,
            stage: None,
            run: None,
            stream: None,
            offset_bytes: None,
            text: None,
            base64: None,
            bytes: None,
            verdict: None,
        };
        written.add(&event.happened, readable);
        written
    }

    fn add(&mut self, happened: &'a Happened, readable: bool) {
        match happened {
            Happened::Started => {}
            Happened::StageStarted { stage } => {
                self.kind = Kind::StageStarted;
                self.add_stage(*stage);
            }
            Happened::Output {
                stage,
                stream,
                offset_bytes,
                data,
            } => {
                self.kind = Kind::Output;
                self.add_stage(*stage);
                self.stream = Some(*stream);
                self.offset_bytes = Some(*offset_bytes);
                let parts = Parts::inline(&data.data, readable);
                (self.text, self.base64, self.bytes) = (parts.text, parts.base64, parts.bytes);
            }
            Happened::StageEnded { stage, verdict } => {
                self.kind = Kind::StageEnded;
                self.add_stage(*stage);
                self.verdict = Some(*verdict);
            }
        }
    }

    fn add_stage(&mut self, stage: StageName) {
        (self.stage, self.run) = match stage {
            StageName::Compile => (Some(Stage::Compile), None),
            StageName::Run { run } => (Some(Stage::Run), Some(run)),
        };
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written::of(self, serializer.is_human_readable()).serialize(serializer)
    }
}

/// An [`Event`] as it is read.
#[derive(Deserialize)]
struct Read {
    tenant: Tenant,
    id: SubmissionId,
    generation: u64,
    attempt: u64,
    kind: Kind,
    sequence: u64,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    worker: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    stage: Option<Stage>,
    run: Option<usize>,
    stream: Option<Stream>,
    offset_bytes: Option<ByteSize>,
    text: Option<String>,
    base64: Option<String>,
    bytes: Option<ByteBuf>,
    verdict: Option<Verdict>,
}

impl Read {
    fn stage<E: de::Error>(&self) -> Result<StageName, E> {
        match (self.stage, self.run) {
            (Some(Stage::Compile), _) => Ok(StageName::Compile),
            (Some(Stage::Run), Some(run)) => Ok(StageName::Run { run }),
            (Some(Stage::Run), None) => Err(E::missing_field("run")),
            (None, _) => Err(E::missing_field("stage")),
        }
    }

    fn happened<E: de::Error>(&mut self) -> Result<Happened, E> {
        Ok(match self.kind {
            Kind::Started => Happened::Started,
            Kind::StageStarted => Happened::StageStarted {
                stage: self.stage()?,
            },
            Kind::Output => Happened::Output {
                stage: self.stage()?,
                stream: self.stream.ok_or_else(|| E::missing_field("stream"))?,
                offset_bytes: self
                    .offset_bytes
                    .ok_or_else(|| E::missing_field("offset_bytes"))?,
                data: self.data()?,
            },
            Kind::StageEnded => Happened::StageEnded {
                stage: self.stage()?,
                verdict: self.verdict.ok_or_else(|| E::missing_field("verdict"))?,
            },
        })
    }

    fn data<E: de::Error>(&mut self) -> Result<Output, E> {
        let given = Given {
            text: self.text.take(),
            base64: self.base64.take(),
            bytes: self.bytes.take(),
        };
        let data = given.data()?.ok_or_else(|| E::missing_field("text"))?;
        let size_bytes = ByteSize(data.len() as u64);
        Ok(Output::new(data, size_bytes, false))
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut read = Read::deserialize(deserializer)?;
        Ok(Self {
            happened: read.happened()?,
            tenant: read.tenant,
            id: read.id,
            generation: read.generation,
            attempt: read.attempt,
            sequence: read.sequence,
            at: read.at,
            worker: read.worker,
            labels: read.labels,
        })
    }
}

impl JsonSchema for Event {
    fn schema_name() -> Cow<'static, str> {
        Written::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Written::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::encoding::Encoding;

    fn event(happened: Happened) -> Event {
        Event {
            tenant: Tenant::default_tenant(),
            id: "a1".parse().expect("valid"),
            generation: 0,
            attempt: 1,
            sequence: 2,
            at: time::macros::datetime!(2026-01-02 03:04:05.000006 UTC),
            worker: "host-1".into(),
            labels: BTreeMap::from([("course".into(), "cs101".into())]),
            happened,
        }
    }

    fn output(data: &[u8]) -> Event {
        event(Happened::Output {
            stage: StageName::Run { run: 3 },
            stream: Stream::Stderr,
            offset_bytes: ByteSize(7),
            data: Output::new(data.to_vec(), ByteSize(data.len() as u64), false),
        })
    }

    #[test]
    fn every_kind_survives_both_encodings() {
        let stage = StageName::Compile;
        let events = [
            event(Happened::Started),
            event(Happened::StageStarted { stage }),
            event(Happened::StageEnded {
                stage: StageName::Run { run: 0 },
                verdict: Verdict::WrongAnswer,
            }),
            output(b"text"),
            output(b"\xff"),
            output(b""),
        ];
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            for event in &events {
                let body = encoding.encode(event).expect("encodes");
                assert_eq!(
                    encoding.decode::<Event>(&body).as_ref().expect("decodes"),
                    event
                );
            }
        }
    }

    #[test]
    fn an_event_is_one_flat_object() {
        assert_eq!(
            serde_json::to_value(output(b"hi")).expect("encodes"),
            serde_json::json!({
                "tenant": "default", "id": "a1", "generation": 0, "attempt": 1, "kind": "output", "sequence": 2,
                "at": "2026-01-02T03:04:05.000006Z", "worker": "host-1", "labels": {"course": "cs101"},
                "stage": "run", "run": 3, "stream": "stderr", "offset_bytes": 7, "text": "hi",
            })
        );
        let started = serde_json::to_value(event(Happened::Started)).expect("encodes");
        assert_eq!(started["kind"], "started");
        assert_eq!(started.get("stage"), None);
    }

    #[test]
    fn message_pack_carries_bytes_and_instants_as_text() {
        let body = Encoding::MessagePack
            .encode(&output(b"hi"))
            .expect("encodes");
        let holds = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
        assert!(holds(b"\xa5bytes\xc4\x02hi"));
        assert!(holds(b"2026-01-02T03:04:05.000006Z"));
    }

    #[test]
    fn a_field_that_the_kind_needs_may_not_be_missing() {
        let mut value = serde_json::to_value(output(b"hi")).expect("encodes");
        for field in ["stage", "run", "stream", "offset_bytes", "text"] {
            let kept = value
                .as_object_mut()
                .expect("an object")
                .remove(field)
                .expect("there");
            assert!(
                serde_json::from_value::<Event>(value.clone()).is_err(),
                "{field}"
            );
            value[field] = kept;
        }
    }
}
