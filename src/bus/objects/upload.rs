//! Chunks on their way into a bucket: sent in their order without waiting for each, held in memory until JetStream has acknowledged
//! them, and sent again after an outage. Each has an id, so that what had arrived after all is dropped the second time.
//!
//! The invariant: an upload ends well only if every chunk was acknowledged and each one's sequence is above that of the one before. A
//! change of leader may lose one and store the next; what is then sent again would stand behind it, and the upload fails.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use async_nats::{HeaderMap, Subscriber};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};

use super::{Bucket, FIRST, Info, OFFSET, Options};
use crate::bus::{
    api::{ApiError, PublishAck, header, read_answer},
    outage::{Backoff, Outage as _},
};

/// The bytes of a chunk. Larger ones cost the server fewer syncs; NATS takes 1 MiB by default.
const CHUNK: usize = 512 << 10;

/// What a chunk's subject and headers take of the server's `max_payload` at most.
const HEAD: usize = 4 << 10;

/// The bytes that are on their way, unacknowledged.
const WINDOW: usize = 2 << 20;

/// A cluster has not agreed yet on the message of which this is a copy.
const IN_FLIGHT: u64 = 10158;

/// An upload. What it stored is visible to nobody before it is described.
#[derive(Debug)]
pub struct Upload {
    bucket: Bucket,
    nuid: String,
    /// Where the acknowledgements go: this, `.` and the number of the chunk.
    inbox: String,
    acks: Subscriber,
    chunk: usize,
    /// Those that are not known to be stored in their order, oldest first.
    window: VecDeque<Sent>,
    /// Of the last chunk that is; 0 before the first.
    last: u64,
    first: u64,
    chunks: u64,
    size: u64,
    hash: Sha256,
    /// Since when nothing but outages was seen.
    trouble: Option<(Instant, Backoff)>,
}

/// A chunk that was sent.
#[derive(Debug)]
struct Sent {
    number: u64,
    offset: u64,
    data: Bytes,
    sequence: Option<u64>,
}

impl Upload {
    pub(super) async fn begin(bucket: &Bucket) -> Result<Self, ApiError> {
        let client = &bucket.bus.client;
        let inbox = client.new_inbox();
        let acks = client.subscribe(format!("{inbox}.*")).await;
        let max_payload = client.server_info().max_payload;
        Ok(Self {
            bucket: bucket.clone(),
            // Sorts by the time at which it was made.
            nuid: uuid::Uuid::now_v7().simple().to_string(),
            inbox,
            acks: acks.map_err(|_| ApiError::NotConnected)?,
            chunk: CHUNK.min(max_payload.saturating_sub(HEAD)).max(1),
            window: VecDeque::new(),
            last: 0,
            first: 0,
            chunks: 0,
            size: 0,
            hash: Sha256::new(),
            trouble: None,
        })
    }

    /// What its chunks are stored under.
    pub fn nuid(&self) -> &str {
        &self.nuid
    }

    /// Stores `data` behind what was written before. Returns when it is on its way.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), ApiError> {
        self.hash.update(&data);
        while data.has_remaining() {
            let chunk = data.split_to(self.chunk.min(data.len()));
            while !self.window.is_empty() && self.on_their_way() + chunk.len() > WINDOW {
                self.hear().await?;
            }
            let sent = Sent {
                number: self.chunks,
                offset: self.size,
                data: chunk,
                sequence: None,
            };
            self.chunks += 1;
            self.size += sent.data.len() as u64;
            let is_sent = self.send(&sent).await;
            self.window.push_back(sent);
            if let Err(error) = is_sent {
                self.send_again(error).await?;
            }
        }
        Ok(())
    }

    /// Waits until everything is stored, and says what it is.
    pub async fn finish(&mut self, name: &str) -> Result<Info, ApiError> {
        while !self.window.is_empty() {
            self.hear().await?;
        }
        let digest = self.hash.clone().finalize();
        Ok(Info {
            name: name.to_owned(),
            description: None,
            metadata: BTreeMap::from([(FIRST.to_owned(), self.first.to_string())]),
            options: Some(Options {
                link: None,
                max_chunk_size: Some(self.chunk as u64),
            }),
            bucket: self.bucket.name.clone(),
            nuid: self.nuid.clone(),
            size: self.size,
            chunks: self.chunks,
            mtime: Some(OffsetDateTime::now_utc()),
            digest: Some(format!("SHA-256={}", URL_SAFE.encode(digest))),
            deleted: false,
        })
    }

    fn on_their_way(&self) -> usize {
        self.window.iter().map(|sent| sent.data.len()).sum()
    }

    async fn send(&self, sent: &Sent) -> Result<(), ApiError> {
        let bus = &self.bucket.bus;
        if !bus.stands_within(bus.request_timeout).await {
            return Err(ApiError::NotConnected);
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, format!("{}.{}", self.nuid, sent.number));
        headers.insert(OFFSET, sent.offset.to_string());
        let publish = bus.client.publish_with_reply_and_headers(
            self.bucket.chunk(&self.nuid),
            format!("{}.{}", self.inbox, sent.number),
            headers,
            sent.data.clone(),
        );
        // The client's queue may be full of what a dead connection does not take.
        match timeout(bus.request_timeout, publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ApiError::NotConnected),
            Err(_) => Err(self.timed_out()),
        }
    }

    /// Hears one acknowledgement; after an outage everything that lacks one is sent again.
    async fn hear(&mut self) -> Result<(), ApiError> {
        let asked = Instant::now();
        let heard = self.ack().await;
        let heard = match heard {
            Ok((number, ack)) => self.note(number, &ack),
            Err(error) => Err(error),
        };
        self.bucket.bus.heard(asked, &heard).await;
        match heard {
            Ok(()) => {
                self.trouble = None;
                Ok(())
            }
            Err(error) if error.is_outage() || error.code() == Some(IN_FLIGHT) => {
                self.send_again(error).await
            }
            Err(error) => Err(error),
        }
    }

    async fn ack(&mut self) -> Result<(u64, PublishAck), ApiError> {
        let timed_out = self.timed_out();
        let bus = &self.bucket.bus;
        let connects = bus.connects();
        let answer = tokio::select! {
            biased;
            answer = timeout(bus.request_timeout, self.acks.next()) => answer.map_err(|_| timed_out)?,
            () = bus.broken(connects) => return Err(ApiError::NotConnected),
        };
        let answer = answer.ok_or(ApiError::NotConnected)?;
        let subject = self.bucket.chunk(&self.nuid);
        if answer.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
            return Err(ApiError::NoResponders { subject });
        }
        let number = answer.subject.rsplit('.').next();
        let number = number.and_then(|number| number.parse().ok());
        let number = number.ok_or_else(|| ApiError::Answer {
            subject: answer.subject.to_string(),
            message: "it names no chunk".to_owned(),
        })?;
        Ok((number, read_answer(&subject, &answer.payload)?))
    }

    /// Notes where a chunk is stored, and lets go of those that are stored in their order.
    fn note(&mut self, number: u64, ack: &PublishAck) -> Result<(), ApiError> {
        let sent = self.window.iter_mut().find(|sent| sent.number == number);
        if let Some(sent) = sent {
            sent.sequence = Some(ack.sequence);
        }
        while let Some(sequence) = self.window.front().and_then(|sent| sent.sequence) {
            if sequence <= self.last {
                return Err(ApiError::Answer {
                    subject: self.bucket.chunk(&self.nuid),
                    message: "an outage left the chunks out of their order".to_owned(),
                });
            }
            if self.last == 0 {
                self.first = sequence;
            }
            self.last = sequence;
            self.window.pop_front();
        }
        Ok(())
    }

    /// Sits an outage out, and sends again what is not known to be stored.
    async fn send_again(&mut self, mut error: ApiError) -> Result<(), ApiError> {
        loop {
            let patience = self.bucket.bus.outage_timeout;
            let (since, backoff) = self.trouble.get_or_insert_with(|| {
                let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
                (Instant::now(), backoff)
            });
            let wait = backoff.next_wait();
            if since.elapsed() + wait > patience {
                return Err(error);
            }
            tracing::debug!(%error, "an upload waits for NATS");
            sleep(wait).await;
            match self.send_all().await {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
    }

    async fn send_all(&self) -> Result<(), ApiError> {
        for sent in self.window.iter().filter(|sent| sent.sequence.is_none()) {
            self.send(sent).await?;
        }
        Ok(())
    }

    fn timed_out(&self) -> ApiError {
        ApiError::Timeout {
            subject: self.bucket.chunk(&self.nuid),
            waited: self.bucket.bus.request_timeout,
        }
    }
}
