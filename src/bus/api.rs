//! Requests to JetStream, with their errors told apart: what the server refused, what never got an answer, what has nobody
//! to answer it. Every caller decides for itself which of these mean "unknown".

use std::time::Duration;

use async_nats::{HeaderMap, Message, Request, RequestErrorKind, StatusCode, header::HeaderName};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Bus;

/// JetStream's error codes that mean something to us.
pub mod code {
    /// It could not be stored: the stream is full, or the subject is; the description says which.
    pub const NOT_STORED: u64 = 10077;
    /// The message is larger than the stream takes.
    pub const MESSAGE_TOO_LARGE: u64 = 10054;
    /// There is no such stream.
    pub const STREAM_NOT_FOUND: u64 = 10059;
    /// There is no such consumer.
    pub const CONSUMER_NOT_FOUND: u64 = 10014;
    /// There is no such message.
    pub const NO_MESSAGE: u64 = 10037;
    /// There is no message under this sequence.
    pub const SEQUENCE_NOT_FOUND: u64 = 10043;
}

/// The headers that we write or read.
pub mod header {
    /// The encoding of the body.
    pub const CONTENT_TYPE: &str = "Content-Type";
    /// 0, and one more for each replay; absent is 0.
    pub const GENERATION: &str = "Envicutor-Generation";
    /// The version of the contract; absent is 1.
    pub const SCHEMA: &str = "Envicutor-Schema";
    /// The trace that a submission belongs to.
    pub const TRACE: &str = "traceparent";
    /// Compare-and-set: the sequence that the subject's last message must have, 0 for none.
    pub(in crate::bus) const EXPECTED_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
    /// What JetStream drops repeated publishes by.
    pub(in crate::bus) const MESSAGE_ID: &str = "Nats-Msg-Id";
}

/// A request that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The server refused it.
    #[error("the NATS server refused: {description} (error {code})")]
    Refused {
        /// JetStream's error code.
        code: u64,
        /// In its words.
        description: String,
    },
    /// Nobody takes this subject: no stream, no consumer, or JetStream is off.
    #[error(
        "nobody answers to {subject}: has `envicutor nats apply` been run, and is JetStream on?"
    )]
    NoResponders {
        /// Which subject.
        subject: String,
    },
    /// There was no answer in time; what was asked for may have happened.
    #[error("no answer from the NATS server for {subject} within {waited:?}")]
    Timeout {
        /// Which subject.
        subject: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The connection is lost; what was asked for may have happened.
    #[error("not connected to a NATS server")]
    NotConnected,
    /// The message is larger than the server takes at all.
    #[error("the message is larger than the NATS server's max_payload")]
    TooLarge,
    /// The answer is not one of JetStream's.
    #[error("the answer to {subject} cannot be read: {message}")]
    Answer {
        /// Which subject.
        subject: String,
        /// What is wrong.
        message: String,
    },
}

impl ApiError {
    /// JetStream's error code, where it refused.
    pub fn code(&self) -> Option<u64> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// A message of a stream.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its subject in the stream.
    pub subject: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its headers, those that can be read.
    pub headers: HeaderMap,
    /// Whether the client library could read it from a subscription. If not, it drops the connection.
    pub is_readable: bool,
    /// Its body.
    pub body: Bytes,
    /// When it was stored.
    pub stored_at: OffsetDateTime,
}

/// JetStream's acknowledgement of a publish.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PublishAck {
    /// Where it was stored.
    pub stream: String,
    /// As which sequence.
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// It was there already, by its `Nats-Msg-Id`.
    #[serde(default)]
    pub duplicate: bool,
}

/// The value of a header, where it is there.
pub fn header_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(async_nats::HeaderValue::as_str)
}

/// The generation that a message's headers name; absent is 0. `None` where it is no number.
pub fn generation_of(headers: &HeaderMap) -> Option<u64> {
    header_of(headers, header::GENERATION).map_or(Some(0), |value| value.trim().parse().ok())
}

impl Bus {
    /// Sends `body` to `subject` and waits for the answer, whatever it is.
    pub async fn ask(
        &self,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Message, ApiError> {
        let mut request = Request::new()
            .payload(body)
            .timeout(Some(self.request_timeout));
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        let failed = |kind| match kind {
            RequestErrorKind::NoResponders => ApiError::NoResponders {
                subject: subject.to_owned(),
            },
            RequestErrorKind::MaxPayloadExceeded => ApiError::TooLarge,
            RequestErrorKind::TimedOut if self.is_connected() => ApiError::Timeout {
                subject: subject.to_owned(),
                waited: self.request_timeout,
            },
            RequestErrorKind::InvalidSubject => ApiError::Answer {
                subject: subject.to_owned(),
                message: "it is not a subject".to_owned(),
            },
            RequestErrorKind::TimedOut | RequestErrorKind::Other => ApiError::NotConnected,
        };
        self.client
            .send_request(subject.to_owned(), request)
            .await
            .map_err(|error| failed(error.kind()))
    }

    /// Calls JetStream's API: `$JS.API.<call>`.
    pub async fn api<T: DeserializeOwned>(&self, call: &str, body: &Value) -> Result<T, ApiError> {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let subject = format!("$JS.API.{call}");
        let answer = self.ask(&subject, HeaderMap::new(), body).await?;
        read_answer(&subject, &answer.payload)
    }

    /// Waits until the server has read everything that was sent on this connection before: a subscription stands then. (The
    /// client's own `flush` waits for the socket only.)
    pub async fn round_trip(&self) -> Result<(), ApiError> {
        self.api::<Value>("INFO", &Value::Null).await.map(drop)
    }

    /// Publishes into a stream and waits until it is stored.
    pub async fn publish_stored(
        &self,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<PublishAck, ApiError> {
        let answer = self.ask(subject, headers, body).await?;
        read_answer(subject, &answer.payload)
    }

    /// One message of `stream` from its leader, by `{"last_by_subj"}`, `{"seq"}` or `{"seq", "next_by_subj"}`. What it says is
    /// never older than what was acknowledged.
    pub async fn get_from_leader(
        &self,
        stream: &str,
        which: &Value,
    ) -> Result<Option<Stored>, ApiError> {
        #[derive(Deserialize)]
        struct Answer {
            message: Raw,
        }
        let call = format!("STREAM.MSG.GET.{stream}");
        match self.api::<Answer>(&call, which).await {
            Ok(answer) => answer
                .message
                .read()
                .map(Some)
                .map_err(|message| ApiError::Answer {
                    subject: call,
                    message,
                }),
            Err(error)
                if matches!(
                    error.code(),
                    Some(code::NO_MESSAGE | code::SEQUENCE_NOT_FOUND)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The last message of a subject, from any replica: fast, and on a cluster perhaps a moment old.
    pub async fn get_last(&self, stream: &str, subject: &str) -> Result<Option<Stored>, ApiError> {
        let call = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
        let answer = self.ask(&call, HeaderMap::new(), Bytes::new()).await?;
        read_direct(&call, answer)
    }

    /// The last message of a subject with wildcards.
    pub async fn get_last_matching(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<Stored>, ApiError> {
        let call = format!("$JS.API.DIRECT.GET.{stream}");
        let body = json!({ "last_by_subj": subject }).to_string();
        let answer = self.ask(&call, HeaderMap::new(), body.into()).await?;
        read_direct(&call, answer)
    }
}

/// JetStream's answer: what was asked for, or its error.
fn read_answer<T: DeserializeOwned>(subject: &str, body: &[u8]) -> Result<T, ApiError> {
    #[derive(Deserialize)]
    struct Envelope {
        error: Option<Refusal>,
    }
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(default)]
        err_code: u64,
        #[serde(default)]
        description: String,
    }
    let unreadable = |error: serde_json::Error| ApiError::Answer {
        subject: subject.to_owned(),
        message: error.to_string(),
    };
    let envelope: Envelope = serde_json::from_slice(body).map_err(unreadable)?;
    match envelope.error {
        Some(refusal) => Err(ApiError::Refused {
            code: refusal.err_code,
            description: refusal.description,
        }),
        None => serde_json::from_slice(body).map_err(unreadable),
    }
}

/// A message of a stream as `STREAM.MSG.GET` shows it.
#[derive(Deserialize)]
struct Raw {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

impl Raw {
    fn read(self) -> Result<Stored, String> {
        let bytes = |text: &str| BASE64.decode(text).map_err(|error| error.to_string());
        let headers = bytes(&self.hdrs)?;
        Ok(Stored {
            // The server's JSON has U+FFFD in the place of bytes that are no UTF-8.
            is_readable: is_readable(&headers) && !self.subject.contains('\u{fffd}'),
            subject: self.subject,
            sequence: self.seq,
            headers: read_headers(&headers),
            body: bytes(&self.data)?.into(),
            stored_at: OffsetDateTime::parse(&self.time, &Rfc3339)
                .map_err(|error| error.to_string())?,
        })
    }
}

/// The headers in their wire form. A line that is none is left out.
fn read_headers(wire: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let text = String::from_utf8_lossy(wire);
    for (name, value) in text.lines().skip(1).filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (
            name.parse::<HeaderName>(),
            value.trim().parse::<async_nats::HeaderValue>(),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

/// Whether the client library reads these headers, by its own rules: none at all, or a version, perhaps a status, and lines with
/// a name that is valid.
fn is_readable(wire: &[u8]) -> bool {
    if wire.is_empty() {
        return true;
    }
    let Ok(text) = std::str::from_utf8(wire) else {
        return false;
    };
    let mut lines = text.lines();
    let Some(rest) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return false;
    };
    let status = rest.trim();
    let status = status.split_once(' ').map_or(status, |(status, _)| status);
    let valid_line = |line: &str| {
        let continues = line.starts_with(char::is_whitespace);
        line.is_empty()
            || continues
            || line
                .split_once(':')
                .is_some_and(|(name, _)| name.parse::<HeaderName>().is_ok())
    };
    (status.is_empty() || status.parse::<StatusCode>().is_ok()) && lines.all(valid_line)
}

/// The answer to a direct get: a message with its place in `Nats-` headers, or a status.
fn read_direct(call: &str, answer: Message) -> Result<Option<Stored>, ApiError> {
    if let Some(status) = answer.status.filter(|status| *status != StatusCode::OK) {
        return match status {
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(ApiError::Refused {
                code: u64::from(status.as_u16()),
                description: answer.description.unwrap_or_default(),
            }),
        };
    }
    read_direct_message(answer)
        .map(Some)
        .ok_or_else(|| ApiError::Answer {
            subject: call.to_owned(),
            message: "it lacks the headers of a direct get".to_owned(),
        })
}

/// The message that a direct get answered with; `None` where its place in the stream is missing.
pub(super) fn read_direct_message(answer: Message) -> Option<Stored> {
    let headers = answer.headers?;
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    Some(Stored {
        subject: text("Nats-Subject")?,
        sequence: text("Nats-Sequence")?.parse().ok()?,
        stored_at: OffsetDateTime::parse(&text("Nats-Time-Stamp")?, &Rfc3339).ok()?,
        headers,
        is_readable: true,
        body: answer.payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_from_their_wire_form() {
        let headers = read_headers(
            b"NATS/1.0\r\nContent-Type: application/json\r\nA: 1\r\nA:2\r\nnone\r\n\r\n",
        );
        assert_eq!(
            headers.get("Content-Type").expect("there").as_str(),
            "application/json"
        );
        assert_eq!(headers.get_all("A").count(), 2);
        assert!(read_headers(b"").is_empty());
    }

    #[test]
    fn headers_that_break_a_connection_are_known() {
        for good in [
            "",
            "NATS/1.0\r\n\r\n",
            "NATS/1.0\r\nA: b\r\n c\r\n\r\n",
            "NATS/1.0 404 No Messages\r\n\r\n",
        ] {
            assert!(is_readable(good.as_bytes()), "{good:?}");
        }
        for bad in [
            "x",
            "NATS/1.0\r\nno colon\r\n\r\n",
            "NATS/1.0\r\na b: c\r\n\r\n",
            "NATS/1.0 x\r\n\r\n",
        ] {
            assert!(!is_readable(bad.as_bytes()), "{bad:?}");
        }
        assert!(!is_readable(b"NATS/1.0\r\nA: \xff\r\n\r\n"));
    }

    #[test]
    fn a_refusal_keeps_its_code() {
        let answer = br#"{"error":{"code":400,"err_code":10077,"description":"maximum messages per subject exceeded"}}"#;
        let error = read_answer::<PublishAck>("s", answer).expect_err("refused");
        assert_eq!(error.code(), Some(code::NOT_STORED));
        assert!(read_answer::<PublishAck>("s", b"nonsense").is_err());
    }
}
