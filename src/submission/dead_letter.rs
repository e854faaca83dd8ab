//! A submission that the fleet could not run, whole, with the reason: what an operator replays.

use std::{borrow::Cow, collections::BTreeMap, str};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_bytes::{ByteBuf, Bytes};
use time::OffsetDateTime;

use super::{
    content::{Given, Parts, base64_len, json_text_len},
    encoding::Encoding,
    names::{Lane, RuntimeRef, SubmissionId, Tenant},
    replay::Trail,
    result::FailureCode,
};

/// A dead letter, as it stands under `envicutor.dead.<tenant>.<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// Whose submission.
    pub tenant: Tenant,
    /// Which.
    pub id: SubmissionId,
    /// 0, and one more for each replay.
    pub generation: u64,
    /// Where it was queued.
    pub lane: Lane,
    /// Why it is here.
    pub reason: Reason,
    /// Every start of this generation.
    pub attempts: Vec<Attempt>,
    /// The message as published.
    pub submission: Original,
    /// The last lines that the worker logged of it.
    pub log_tail: Vec<String>,
    /// When it was given up.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub dead_at: OffsetDateTime,
    /// The submission's, where it could be read.
    pub labels: BTreeMap<String, String>,
}

/// Why a submission is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// For programs.
    pub code: FailureCode,
    /// For people.
    pub message: String,
    /// What was being done.
    pub stage: String,
}

/// A start of a submission, and how it ended. Also what KV `attempts` keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// The worker's id.
    pub worker: String,
    /// The worker's host name.
    pub host: String,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: OffsetDateTime,
    /// When it ended, or was found to have.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub ended_at: OffsetDateTime,
    /// What went wrong.
    pub error: String,
}

impl DeadLetter {
    /// The runtime that the submission names, where it can be read.
    pub fn runtime(&self) -> Option<RuntimeRef> {
        #[derive(Deserialize)]
        struct Named {
            runtime: RuntimeRef,
        }
        let content_type = self.submission.content_type.as_deref();
        let encoding = Encoding::of_content_type(content_type).ok()?;
        let named: Named = encoding.decode(&self.submission.body).ok()?;
        Some(named.runtime)
    }

    /// The replays that its generation came from.
    pub fn trail(&self) -> Trail {
        let header = self.submission.headers.get(Trail::HEADER);
        Trail::of_header(header.map(String::as_str))
    }
}

/// A published message: its body as `text`, `base64` or `bytes`, whichever is shortest in the letter's own encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The `Content-Type` header as it came.
    pub content_type: Option<String>,
    /// The other headers that are ours or the trace's.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// An [`Original`] as it is written.
#[derive(Serialize, JsonSchema)]
#[schemars(
    rename = "Original",
    description = "A published message, its body as `text` or `base64` (in MessagePack `text` or `bytes`), whichever is shortest.",
    extend("oneOf" = [{"required": ["text"]}, {"required": ["base64"]}])
)]
struct Written<'a> {
    /// The `Content-Type` header as it came.
    content_type: &'a Option<String>,
    /// The other headers that are ours or the trace's.
    headers: &'a BTreeMap<String, String>,
    /// The body as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    text: Option<&'a str>,
    /// The body in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    bytes: Option<&'a Bytes>,
}

/// The shortest form of `body`. Text needs escapes in JSON but none in MessagePack, where its field name is the shorter.
fn shortest(body: &[u8], readable: bool) -> Parts<'_> {
    match str::from_utf8(body) {
        Ok(text) if !readable || json_text_len(text) <= base64_len(body.len()) => Parts::text(text),
        _ if readable => Parts::base64(body),
        _ => Parts::inline(body, readable),
    }
}

impl Serialize for Original {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parts = shortest(&self.body, serializer.is_human_readable());
        Written {
            content_type: &self.content_type,
            headers: &self.headers,
            text: parts.text,
            base64: parts.base64,
            bytes: parts.bytes,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Original {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            content_type: Option<String>,
            #[serde(default)]
            headers: BTreeMap<String, String>,
            text: Option<String>,
            base64: Option<String>,
            bytes: Option<ByteBuf>,
        }
        let fields = Fields::deserialize(deserializer)?;
        let given = Given {
            text: fields.text,
            base64: fields.base64,
            bytes: fields.bytes,
        };
        Ok(Self {
            content_type: fields.content_type,
            headers: fields.headers,
            body: given
                .data()?
                .ok_or_else(|| de::Error::missing_field("text"))?,
        })
    }
}

impl JsonSchema for Original {
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

    fn letter(body: &[u8]) -> DeadLetter {
        let at = time::macros::datetime!(2026-01-02 03:04:05 UTC);
        DeadLetter {
            tenant: Tenant::default_tenant(),
            id: "a1".parse().expect("valid"),
            generation: 2,
            lane: Lane::Batch,
            reason: Reason {
                code: FailureCode::WorkerLost,
                message: "gone".into(),
                stage: "run".into(),
            },
            attempts: vec![Attempt {
                worker: "w".into(),
                host: "h".into(),
                started_at: at,
                ended_at: at,
                error: "lost".into(),
            }],
            submission: Original {
                content_type: None,
                headers: BTreeMap::from([("traceparent".into(), "00".into())]),
                body: body.to_vec(),
            },
            log_tail: vec!["line".into()],
            dead_at: at,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_dead_letter_survives_both_encodings() {
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            for body in [&b"{}"[..], b"\xff\x00", b"", &[0; 100]] {
                let letter = letter(body);
                let encoded = encoding.encode(&letter).expect("encodes");
                assert_eq!(
                    encoding.decode::<DeadLetter>(&encoded).expect("decodes"),
                    letter
                );
            }
        }
    }

    #[test]
    fn the_body_takes_the_shortest_form() {
        let fields = |body: &[u8]| {
            let value = serde_json::to_value(&letter(body).submission).expect("encodes");
            (value.get("text").is_some(), value.get("base64").is_some())
        };
        assert_eq!(fields(b"{\"runtime\": \"python\"}"), (true, false));
        assert_eq!(fields(b"\xff"), (false, true));
        // NULs take six characters each as text.
        assert_eq!(fields(&[0; 100]), (false, true));
        let packed =
            |body: &[u8]| rmp_serde::to_vec_named(&letter(body).submission).expect("encodes");
        let holds =
            |body: &[u8], part: &[u8]| packed(body).windows(part.len()).any(|at| at == part);
        assert!(holds(b"\xff", b"\xa5bytes\xc4\x01\xff"));
        assert!(holds(b"{}", b"\xa4text\xa2{}"));
    }
}
