//! Runtimes on their way into the fleet: published, taken by an installer, renewed while it is at it, and what became of them.
//!
//! One installation of a name at a time, whoever publishes it and however many installers there are: the stream takes no second
//! message under a subject.

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::{
    api::{ApiError, code},
    connect::Bus,
    kv::Bucket,
};
use crate::submission::{
    installation::Installation,
    names::{RuntimeName, RuntimeRef},
};

/// The durable consumer of the installers.
const CONSUMER: &str = "installer";

/// An installation could not be published, taken or told of.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// Another one of the same name waits or is under way.
    #[error(
        "an installation of {0} waits or is under way: wait until it is over (`envicutor runtime show {0}`)"
    )]
    Underway(RuntimeName),
    /// Too many wait.
    #[error("too many installations wait: {0}")]
    Full(String),
    /// The record has no JSON form, or is none.
    #[error("what became of an installation cannot be read or written: {0}")]
    Record(#[from] serde_json::Error),
    /// The server did not do it.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Publishes the definition of a runtime; its place in the stream.
pub async fn publish(
    bus: &Bus,
    name: &RuntimeName,
    definition: &str,
) -> Result<u64, InstallationError> {
    let subject = bus.names.installation(name.as_str());
    let body = Bytes::from(definition.to_owned());
    match bus.publish_stored(&subject, HeaderMap::new(), body).await {
        Ok(ack) => Ok(ack.sequence),
        Err(
            ApiError::Refused {
                code: code::NOT_STORED,
                description,
            }
            | ApiError::Unavailable {
                code: code::NOT_STORED,
                description,
            },
        ) => Err(if description.contains("per subject") {
            InstallationError::Underway(name.clone())
        } else {
            InstallationError::Full(description)
        }),
        Err(error) => Err(error.into()),
    }
}

/// Whether an installation of `name` waits or is under way.
pub async fn is_underway(bus: &Bus, name: &RuntimeName) -> Result<bool, ApiError> {
    let stream = bus.names.installations_stream();
    let subject = bus.names.installation(name.as_str());
    Ok(bus.get_last_matching(&stream, &subject).await?.is_some())
}

/// An installation that an installer has taken. Not acknowledged and not renewed, it is given to another one.
#[derive(Debug)]
pub struct Taken {
    bus: Bus,
    reply: String,
    /// The name, as the subject has it: any token.
    pub name: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// How often it was handed out, this time included.
    pub deliveries: u64,
    /// The definition.
    pub body: Bytes,
}

/// The next installation, where one waits.
pub async fn take(bus: &Bus) -> Result<Option<Taken>, ApiError> {
    let subject = format!(
        "$JS.API.CONSUMER.MSG.NEXT.{}.{CONSUMER}",
        bus.names.installations_stream()
    );
    if !bus.stands_within(bus.request_timeout).await {
        return Err(ApiError::NotConnected);
    }
    let inbox = bus.client.new_inbox();
    let closed = |_| ApiError::NotConnected;
    // A message keeps its own subject, so that the client's way of matching answers to requests does not see it.
    let mut answers = bus
        .client
        .subscribe(inbox.clone())
        .await
        .map_err(|_| ApiError::NotConnected)?;
    let pull = json!({"batch": 1, "no_wait": true}).to_string();
    bus.client
        .publish_with_reply(subject.clone(), inbox, pull.into())
        .await
        .map_err(closed)?;
    let answer = timeout(bus.request_timeout, answers.next()).await;
    let answer = answer.map_err(|_| ApiError::Timeout {
        subject: subject.clone(),
        waited: bus.request_timeout,
    })?;
    let message = answer.ok_or(ApiError::NotConnected)?;
    match message.status {
        None => Ok(read(bus, message)),
        Some(StatusCode::NO_RESPONDERS) => Err(ApiError::NoResponders { subject }),
        // 404: nothing waits. 408, 409: nothing for us now.
        Some(_) => Ok(None),
    }
}

fn read(bus: &Bus, message: Message) -> Option<Taken> {
    let reply = message.reply.as_ref()?.to_string();
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    // With domain and account before the stream in the newer form.
    let numbers = if tokens.len() >= 9 {
        tokens.get(4..)?
    } else {
        tokens.get(2..)?
    };
    let deliveries = numbers.first()?.parse().ok()?;
    let sequence = numbers.get(1)?.parse().ok()?;
    Some(Taken {
        name: bus.names.installation_name(&message.subject)?.to_owned(),
        bus: bus.clone(),
        sequence,
        deliveries,
        body: message.payload,
        reply,
    })
}

impl Taken {
    /// Says that it goes on.
    pub async fn renew(&self) -> Result<(), ApiError> {
        self.say("+WPI".to_owned()).await
    }

    /// Gives it back, for `delay` from now on.
    pub async fn hand_back(&self, delay: Duration) -> Result<(), ApiError> {
        let delay = json!({"delay": u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)});
        self.say(format!("-NAK {delay}")).await
    }

    /// It is over. Confirmed by the server.
    pub async fn ack(&self) -> Result<(), ApiError> {
        let body = Bytes::from_static(b"+ACK");
        self.bus.ask(&self.reply, HeaderMap::new(), body).await?;
        Ok(())
    }

    async fn say(&self, word: String) -> Result<(), ApiError> {
        let said = self.bus.client.publish(self.reply.clone(), word.into());
        said.await.map_err(|_| ApiError::NotConnected)
    }
}

/// What became of installations: KV `installations`, under the runtime's name.
#[derive(Debug, Clone)]
pub struct Records {
    bucket: Bucket,
}

impl Records {
    /// Those that this connection reaches.
    pub fn new(bus: &Bus) -> Self {
        Self {
            bucket: Bucket::new(bus, "installations"),
        }
    }

    /// Notes how far it is.
    pub async fn put(&self, record: &Installation) -> Result<(), InstallationError> {
        let body = serde_json::to_vec(record)?;
        self.bucket.put(record.name.as_str(), body.into()).await?;
        Ok(())
    }

    /// The last one of `name`.
    pub async fn last(
        &self,
        name: &RuntimeName,
    ) -> Result<Option<Installation>, InstallationError> {
        let entry = self.bucket.get(name.as_str()).await?;
        let read = entry.value.map(|body| serde_json::from_slice(&body));
        Ok(read.transpose()?)
    }

    /// The one that was published as `sequence`, as far as the bucket remembers.
    pub async fn of(
        &self,
        name: &RuntimeName,
        sequence: u64,
    ) -> Result<Option<Installation>, InstallationError> {
        self.find(name, |it| it.sequence == sequence).await
    }

    /// The last one of a runtime, as far as the bucket remembers; where it names a version, of that version.
    pub async fn last_of(
        &self,
        runtime: &RuntimeRef,
    ) -> Result<Option<Installation>, InstallationError> {
        let is_meant =
            |it: &Installation| runtime.version.is_none() || it.version == runtime.version;
        self.find(&runtime.name, is_meant).await
    }

    /// The newest one of `name` that `is_meant`.
    async fn find(
        &self,
        name: &RuntimeName,
        is_meant: impl Fn(&Installation) -> bool,
    ) -> Result<Option<Installation>, InstallationError> {
        let last = self.last(name).await?;
        if last.as_ref().is_none_or(&is_meant) {
            return Ok(last);
        }
        let history = self.bucket.history(name.as_str()).await?;
        let records = history
            .into_iter()
            .rev()
            .filter_map(|(_, body)| serde_json::from_slice::<Installation>(&body?).ok());
        Ok(records.into_iter().find(is_meant))
    }
}
