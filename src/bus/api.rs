//! Requests to JetStream, with their errors told apart: what the server refused, what never got an answer, what has nobody
//! to answer it. Every caller decides for itself which of these mean "unknown".

use std::time::Duration;

use async_nats::{HeaderMap, Message, Request, RequestErrorKind, StatusCode, header::HeaderName};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, timeout_at};

use super::{
    Bus,
    outage::{Outage, sit_out},
};

/// What JetStream calls an error that passes by itself, beside its own code.
const SERVICE_UNAVAILABLE: u64 = 503;

pub mod code;

pub mod header;

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
    /// The server cannot do it at this moment: it has no leader for it, for example. It may have happened.
    #[error("the NATS server cannot do it at this moment: {description} (error {code})")]
    Unavailable {
        /// JetStream's error code; 0 where it gave none.
        code: u64,
        /// In its words.
        description: String,
    },
    /// Nobody takes this subject at this moment: no leader, no stream, no consumer, or JetStream is off. It did not happen.
    #[error(
        "nobody answers to {subject}: its stream has no leader at this moment, or is none (has `envicutor nats apply` been run?)"
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
            Self::Refused { code, .. } | Self::Unavailable { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl Outage for ApiError {
    fn is_outage(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::NoResponders { .. }
            | Self::Timeout { .. }
            | Self::NotConnected
            | Self::Refused {
                code: code::NO_PEERS | code::MORE_COPIES_THAN_STREAM,
                ..
            } => true,
            Self::Refused { .. } | Self::TooLarge | Self::Answer { .. } => false,
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
    /// Sends `body` to `subject` and waits for the answer, whatever it is, for `nats.request_timeout_us` at most. Nothing is sent
    /// while there is no connection, and nothing is waited for once it breaks.
    pub async fn ask(
        &self,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Message, ApiError> {
        self.ask_within(self.request_timeout, subject, headers, body)
            .await
    }

    async fn ask_within(
        &self,
        patience: Duration,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Message, ApiError> {
        let asked = Instant::now();
        if !self.stands_within(patience).await {
            return Err(ApiError::NotConnected);
        }
        let connects = self.connects();
        let mut request = Request::new().payload(body).timeout(Some(patience));
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        let timed_out = || ApiError::Timeout {
            subject: subject.to_owned(),
            waited: patience,
        };
        let failed = |kind| match kind {
            RequestErrorKind::NoResponders => ApiError::NoResponders {
                subject: subject.to_owned(),
            },
            RequestErrorKind::MaxPayloadExceeded => ApiError::TooLarge,
            RequestErrorKind::TimedOut if self.is_connected() => timed_out(),
            RequestErrorKind::InvalidSubject => ApiError::Answer {
                subject: subject.to_owned(),
                message: "it is not a subject".to_owned(),
            },
            RequestErrorKind::TimedOut | RequestErrorKind::Other => ApiError::NotConnected,
        };
        // The client's own time begins when it has taken the request, and its queue may be full.
        let until = asked + patience;
        let answer = timeout_at(until, self.client.send_request(subject.to_owned(), request));
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| timed_out())?.map_err(|error| failed(error.kind())),
            // What comes after all comes to nobody: it is not known what happened.
            () = self.broken(connects) => Err(ApiError::NotConnected),
        }
    }

    /// [`ask`](Self::ask) for what only the leader of a stream, a consumer or the cluster answers, and `read` of the answer.
    pub(super) async fn ask_leader<T>(
        &self,
        patience: Duration,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
        read: impl FnOnce(&str, &[u8]) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let asked = Instant::now();
        let answer = self.ask_within(patience, subject, headers, body).await;
        let answer = answer.and_then(|answer| read(subject, &answer.payload));
        self.heard(asked, &answer).await;
        answer
    }

    /// Calls JetStream's API: `$JS.API.<call>`. An outage is sat out, for `nats.outage_timeout_us`: `call` must be one that
    /// may be made twice.
    pub async fn api<T: DeserializeOwned>(&self, call: &str, body: &Value) -> Result<T, ApiError> {
        sit_out(self.outage_timeout, || self.api_once(call, body)).await
    }

    /// The same without asking again.
    pub async fn api_once<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &Value,
    ) -> Result<T, ApiError> {
        self.api_within(self.request_timeout, call, body).await
    }

    async fn api_within<T: DeserializeOwned>(
        &self,
        patience: Duration,
        call: &str,
        body: &Value,
    ) -> Result<T, ApiError> {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let subject = format!("$JS.API.{call}");
        self.ask_leader(patience, &subject, HeaderMap::new(), body, read_answer)
            .await
    }

    /// Reads by JetStream's API once, whoever answers, and without a word on the server's worth.
    pub(super) async fn read_api<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &Value,
    ) -> Result<T, ApiError> {
        let (subject, body) = (format!("$JS.API.{call}"), body.to_string().into());
        let answer = self.ask_within(self.read_timeout, &subject, HeaderMap::new(), body);
        read_answer(&subject, &answer.await?.payload)
    }

    /// Waits until the server has read everything that was sent on this connection before: a subscription stands then. (The
    /// client's own `flush` waits for the socket only.) The server itself answers, whoever leads.
    pub async fn round_trip(&self) -> Result<(), ApiError> {
        // No consumer has such a subject: what every role may send and nobody takes, the server says so itself.
        let nobody = format!("$JS.ACK.{}.nobody", self.names.results_stream());
        match self.ask(&nobody, HeaderMap::new(), Bytes::new()).await {
            Ok(_) | Err(ApiError::NoResponders { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Publishes into a stream and waits until it is stored.
    pub async fn publish_stored(
        &self,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<PublishAck, ApiError> {
        self.ask_leader(self.request_timeout, subject, headers, body, read_answer)
            .await
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
        // What a leader took with it is never answered, and only read: it is asked for again soon.
        let read = || self.api_within::<Answer>(self.read_timeout, &call, which);
        match sit_out(self.outage_timeout, read).await {
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
pub(in crate::bus) fn read_answer<T: DeserializeOwned>(
    subject: &str,
    body: &[u8],
) -> Result<T, ApiError> {
    #[derive(Deserialize)]
    struct Envelope {
        error: Option<Refusal>,
    }
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(default)]
        code: u64,
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
        // A full queue is unavailable too, in the server's words: that is for its publisher to hear.
        Some(refusal)
            if refusal.code == SERVICE_UNAVAILABLE && refusal.err_code != code::NOT_STORED =>
        {
            Err(ApiError::Unavailable {
                code: refusal.err_code,
                description: refusal.description,
            })
        }
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
mod tests;
