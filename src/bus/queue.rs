//! A worker's side of a tenant's queue: take one message, renew it, hand it back, acknowledge it; and whether an id is queued.
//!
//! The invariant: a message that the server handed out is given to the caller, handed back, or left to its `ack_wait`; it is
//! never acknowledged here, but for one that no result can be published for (see [`MAX_RAW_ID_BYTES`]).

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use time::OffsetDateTime;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    api::{ApiError, Stored},
    connect::Bus,
    outage::{Outage, sit_out},
    quarantine,
    subjects::Address,
};
use crate::submission::names::{Lane, SubmissionId, Tenant};

/// The longest id that a result is published for, in bytes. A subject that is only a little longer than what the server reads
/// as one line closes the connection of whoever publishes to it, and a result's line is longer than its submission's was.
pub const MAX_RAW_ID_BYTES: usize = 1_024;

/// How long an inbox that is given up is listened to for what was on its way.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Nothing could be taken from a queue, or a delivery not be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue has no leader at this moment, or the tenant is not provisioned.
    #[error(
        "nobody hands out messages of the tenant {tenant} and the lane {lane}: the queue has no leader at this moment, or is none (`envicutor nats apply` with the tenant in nats.tenants makes it)"
    )]
    Nobody {
        /// Whose.
        tenant: Tenant,
        /// Which.
        lane: Lane,
    },
    /// The pull got no answer: who led the queue is gone, or the connection broke.
    #[error("a pull of the tenant {tenant} and the lane {lane} got no answer")]
    Unanswered {
        /// Whose.
        tenant: Tenant,
        /// Which.
        lane: Lane,
    },
    /// The connection is closed.
    #[error("the connection to NATS is closed: {0}")]
    Closed(String),
    /// The server did not confirm. For a delivery that means: unknown.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Outage for QueueError {
    fn is_outage(&self) -> bool {
        match self {
            Self::Nobody { .. } | Self::Unanswered { .. } => true,
            Self::Api(error) => error.is_outage(),
            Self::Closed(_) => false,
        }
    }
}

/// Takes messages for one slot, one at a time, over an inbox of its own.
#[derive(Debug)]
pub struct Puller {
    bus: Bus,
    inbox: String,
    answers: Subscriber,
    /// Counts the pulls of this inbox, so that the answer to an earlier one is not taken for this one's.
    pulls: u64,
    /// A pull was sent whose answer has not been seen.
    outstanding: bool,
    /// What is listened to for the last words of inboxes that were given up. Ends with this.
    late: JoinSet<()>,
}

impl Puller {
    /// A puller with a standing inbox.
    pub async fn new(bus: &Bus) -> Result<Self, QueueError> {
        let (inbox, answers) = open_inbox(bus).await?;
        Ok(Self {
            bus: bus.clone(),
            inbox,
            answers,
            pulls: 0,
            outstanding: false,
            late: JoinSet::new(),
        })
    }

    /// The next message of this lane, where one waits. Never waits for one to come. A pull that is dropped before it is done, or
    /// that gets no answer, loses nothing: what comes after all is handed back.
    pub async fn pull(
        &mut self,
        tenant: &Tenant,
        lane: Lane,
    ) -> Result<Option<Delivery>, QueueError> {
        let asked = Instant::now();
        let pulled = self.pull_once(tenant, lane).await;
        self.bus.heard(asked, &pulled).await;
        pulled
    }

    async fn pull_once(
        &mut self,
        tenant: &Tenant,
        lane: Lane,
    ) -> Result<Option<Delivery>, QueueError> {
        while self.late.try_join_next().is_some() {}
        let patience = self.bus.read_timeout;
        if !self.bus.stands_within(patience).await {
            return Err(ApiError::NotConnected.into());
        }
        if self.outstanding {
            self.renew_inbox().await?;
        }
        let connects = self.bus.connects();
        let bus = self.bus.clone();
        let asked_at = Instant::now();
        let answer = tokio::select! {
            biased;
            answer = timeout(patience, self.ask(tenant, lane)) => answer.ok(),
            () = bus.broken(connects) => None,
        };
        let Some(answer) = answer else {
            self.renew_inbox().await?;
            if self.bus.connects() != connects || !self.bus.is_connected() {
                self.search(tenant, lane).await;
            }
            return Err(QueueError::Unanswered {
                tenant: tenant.clone(),
                lane,
            });
        };
        let (reply, message) = answer?;
        self.outstanding = false;
        match message.status {
            _ if message.subject.as_str() != reply => self.delivery(message, asked_at).await,
            Some(StatusCode::NO_RESPONDERS) => Err(QueueError::Nobody {
                tenant: tenant.clone(),
                lane,
            }),
            // 404: nothing waits. 408, 409: nothing for us now.
            _ => Ok(None),
        }
    }

    /// Sends a pull and waits for its answer: the subject that it was expected on, and the message.
    async fn ask(&mut self, tenant: &Tenant, lane: Lane) -> Result<(String, Message), QueueError> {
        self.pulls += 1;
        let reply = format!("{}.{}", self.inbox, self.pulls);
        let stream = self.bus.names.submissions_stream(tenant);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{lane}");
        self.outstanding = true;
        let sent = self.bus.client.publish_with_reply(
            subject,
            reply.clone(),
            r#"{"batch":1,"no_wait":true}"#.into(),
        );
        sent.await
            .map_err(|error| QueueError::Closed(error.to_string()))?;
        let message = self.answer(&reply).await?;
        Ok((reply, message))
    }

    /// The connection broke while a message may have been on its way: perhaps one that nobody can read, and that breaks it again.
    async fn search(&self, tenant: &Tenant, lane: Lane) {
        let search = quarantine::remove_unreadable(&self.bus, tenant, lane);
        match timeout(self.bus.request_timeout, search).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%tenant, %lane, %error, "the queue could not be searched for messages that nobody can read");
            }
            Err(_) => {
                tracing::warn!(%tenant, %lane, "the queue was not searched to its end for messages that nobody can read");
            }
        }
    }

    /// The answer to the pull with this reply subject, or any message that was delivered. A delivery is known by its subject: a
    /// publisher may have written a status into its headers.
    async fn answer(&mut self, reply: &str) -> Result<Message, QueueError> {
        loop {
            let message = self.answers.next().await;
            let message =
                message.ok_or_else(|| QueueError::Closed("its inbox ended".to_owned()))?;
            let to_earlier_pull =
                message.subject.starts_with(&self.inbox) && message.subject.as_str() != reply;
            if !to_earlier_pull {
                return Ok(message);
            }
        }
    }

    async fn delivery(
        &self,
        message: Message,
        asked_at: Instant,
    ) -> Result<Option<Delivery>, QueueError> {
        let Some(delivery) = Delivery::read(&self.bus, message, asked_at) else {
            return Err(QueueError::Api(ApiError::Answer {
                subject: self.inbox.clone(),
                message: "a message came that is not a submission's delivery".to_owned(),
            }));
        };
        if delivery.address.raw_id.len() > MAX_RAW_ID_BYTES {
            tracing::warn!(
                tenant = %delivery.address.tenant,
                bytes = delivery.address.raw_id.len(),
                "dropped a submission whose id is too long for a result"
            );
            delivery.ack().await?;
            return Ok(None);
        }
        Ok(Some(delivery))
    }

    /// Gives up the inbox and hands back what was still delivered to it. The server drops a pull whose inbox is gone.
    async fn renew_inbox(&mut self) -> Result<(), QueueError> {
        let (inbox, answers) = open_inbox(&self.bus).await?;
        let mut old = std::mem::replace(&mut self.answers, answers);
        self.inbox = inbox;
        self.outstanding = false;
        old.drain()
            .await
            .map_err(|error| QueueError::Closed(error.to_string()))?;
        let bus = self.bus.clone();
        let hand_back_late = async move {
            while let Some(message) = old.next().await {
                if let Some(late) = Delivery::read(&bus, message, Instant::now()) {
                    tracing::info!(tenant = %late.address.tenant, id = %late.address.raw_id, "handed back a late delivery");
                    if let Err(error) = late.hand_back(Duration::ZERO).await {
                        tracing::warn!(%error, "a late delivery waits for its ack_wait");
                    }
                }
            }
        };
        // Past this the message waits for its `ack_wait`. The next pull need not wait for it.
        self.late.spawn(async move {
            let _ = timeout(LAST_WORDS, hand_back_late).await;
        });
        Ok(())
    }
}

async fn open_inbox(bus: &Bus) -> Result<(String, Subscriber), QueueError> {
    let inbox = bus.client.new_inbox();
    let answers = bus.client.subscribe(format!("{inbox}.*")).await;
    answers
        .map(|answers| (inbox, answers))
        .map_err(|error| QueueError::Closed(error.to_string()))
}

/// A submission in this worker's hands, until it is acknowledged, handed back, or not renewed for `ack_wait`.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Whose it is, and its id as the subject holds it.
    pub address: Address,
    /// As published.
    pub body: Bytes,
    /// As published.
    pub headers: HeaderMap,
    /// How often this message was handed out, this time included.
    pub num_delivered: u64,
    /// How many more wait in this lane.
    pub num_pending: u64,
    /// Its place in the tenant's queue.
    pub stream_sequence: u64,
    /// When JetStream stored it.
    pub published_at: OffsetDateTime,
    /// When it was asked for: the server's `ack_wait` began no earlier.
    pub asked_at: Instant,
    reply: String,
    bus: Bus,
}

impl Delivery {
    /// `None` for a message that is no delivery of a submission.
    fn read(bus: &Bus, message: Message, asked_at: Instant) -> Option<Self> {
        let address = bus.names.address(&message.subject)?;
        let reply = message.reply?.to_string();
        let place = Place::read(&reply)?;
        Some(Self {
            address,
            body: message.payload,
            headers: message.headers.unwrap_or_default(),
            num_delivered: place.num_delivered,
            num_pending: place.num_pending,
            stream_sequence: place.stream_sequence,
            published_at: place.published_at,
            asked_at,
            reply,
            bus: bus.clone(),
        })
    }

    /// Another `ack_wait` from now on. An error means that the server may not know: the delivery ends when none of these
    /// succeeded for `ack_wait`. A success says nothing about a cancellation.
    pub async fn renew(&self) -> Result<(), QueueError> {
        self.tell("+WPI".into()).await
    }

    /// Gives it to another worker (or this one again) after `delay`; at zero the workers are woken for it. Told now or not at all: a
    /// late one would take the next delivery from its worker, and without one the message comes again after `ack_wait`.
    pub async fn hand_back(&self, delay: Duration) -> Result<(), QueueError> {
        if !self.bus.is_connected() {
            return Err(ApiError::NotConnected.into());
        }
        if !delay.is_zero() {
            let nak = format!(
                "-NAK {}",
                json!({ "delay": u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX / 2) })
            );
            return self.tell(nak.into()).await;
        }
        self.tell("-NAK".into()).await?;
        let Address {
            tenant,
            lane,
            raw_id,
        } = &self.address;
        let wake = self.bus.names.wake(tenant, *lane, raw_id);
        let woken = self.bus.client.publish(wake, Bytes::new()).await;
        woken.map_err(|error| QueueError::Closed(error.to_string()))
    }

    /// Removes it from the queue, and waits until the server has. Only after its result is stored: then it may be told late, and
    /// again, so that an outage is sat out.
    pub async fn ack(&self) -> Result<(), QueueError> {
        sit_out(self.bus.outage_timeout, || self.tell("+ACK".into())).await
    }

    /// Sends an acknowledgement of any kind and waits for the server's own.
    async fn tell(&self, what: Bytes) -> Result<(), QueueError> {
        let (patience, headers) = (self.bus.request_timeout, HeaderMap::new());
        // The server confirms with an empty message; what else comes is no confirmation.
        let read = |subject: &str, answer: &[u8]| {
            if answer.is_empty() {
                return Ok(());
            }
            Err(ApiError::Answer {
                subject: subject.to_owned(),
                message: format!("expected nothing, got {} bytes", answer.len()),
            })
        };
        let told = self
            .bus
            .ask_leader(patience, &self.reply, headers, what, read);
        Ok(told.await?)
    }
}

/// What the reply subject of a delivery says about it.
#[derive(Debug, PartialEq)]
struct Place {
    num_delivered: u64,
    stream_sequence: u64,
    published_at: OffsetDateTime,
    num_pending: u64,
}

impl Place {
    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<nanoseconds>.<pending>`, or with domain and
    /// account before the stream, and perhaps more behind.
    fn read(reply: &str) -> Option<Self> {
        let tokens: Vec<_> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let numbers = match tokens.len() {
            7 => &tokens[2..],
            count if count >= 9 => &tokens[4..],
            _ => return None,
        };
        Some(Self {
            num_delivered: numbers[0].parse().ok()?,
            stream_sequence: numbers[1].parse().ok()?,
            published_at: OffsetDateTime::from_unix_timestamp_nanos(numbers[3].parse().ok()?)
                .ok()?,
            num_pending: numbers[4].parse().ok()?,
        })
    }
}

/// The submission of this id that is queued or running, in whatever lane.
pub async fn find_queued(
    bus: &Bus,
    tenant: &Tenant,
    id: &SubmissionId,
) -> Result<Option<(Lane, Stored)>, ApiError> {
    let stream = bus.names.submissions_stream(tenant);
    let subject = bus.names.submission_in_any_lane(tenant, id.as_str());
    let stored = bus.get_last_matching(&stream, &subject).await?;
    Ok(stored.and_then(|stored| Some((bus.names.address(&stored.subject)?.lane, stored))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_delivery_are_read() {
        let old = Place::read("$JS.ACK.SUBMISSIONS_default.batch.2.17.40.1700000000000000001.5")
            .expect("valid");
        assert_eq!(
            (old.num_delivered, old.stream_sequence, old.num_pending),
            (2, 17, 5)
        );
        assert_eq!(
            old.published_at.unix_timestamp_nanos(),
            1_700_000_000_000_000_001
        );
        let new = "$JS.ACK._.ACC.SUBMISSIONS_default.batch.2.17.40.1700000000000000001.5";
        assert_eq!(Place::read(new), Some(old));
        assert_eq!(Place::read(&format!("{new}.x")), Place::read(new));
        for bad in ["", "_INBOX.a", "$JS.ACK.S.C.1.2.3", "$JS.ACK.S.C.a.b.c.d.e"] {
            assert_eq!(Place::read(bad), None, "{bad}");
        }
    }
}
