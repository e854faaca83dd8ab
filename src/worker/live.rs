//! The events of one attempt, in order, without ever holding the run back.
//!
//! What happens is queued at once and published a moment later, beside the run: a short stage's events go out in one write
//! with its result. Output that waits is joined into larger events, and when a flood of it fills the queue, output events are
//! dropped: the result has the output, an event may be lost.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
    time::Duration,
};

use envicutor_protocol::{CHUNK_BYTES, Stream};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, events},
    submission::{
        encoding::Encoding,
        event::{Event, Happened, StageName},
        message::EventsWanted,
        names::{SubmissionId, Tenant},
        output::Output,
        units::ByteSize,
    },
};

/// The most events that wait to be published.
const MOST_WAITING: usize = 256;

/// How long what happens is gathered before it is published.
const GATHER: Duration = Duration::from_millis(20);

/// Whose events these are.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) tenant: Tenant,
    pub(crate) id: SubmissionId,
    pub(crate) generation: u64,
    pub(crate) attempt: u64,
    pub(crate) worker: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// The message's place in its queue.
    pub(crate) message: u64,
}

/// The queue of an attempt's events.
#[derive(Debug)]
pub(crate) struct Live {
    origin: Origin,
    wanted: EventsWanted,
    encoding: Encoding,
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(OffsetDateTime, Happened)>,
    sequence: u64,
}

impl Live {
    pub(crate) fn new(origin: Origin, wanted: EventsWanted, encoding: Encoding) -> Self {
        Self {
            origin,
            wanted,
            encoding,
            queue: Mutex::default(),
            more: Notify::new(),
        }
    }

    /// Queues what happened, where it is wanted. `started` always is: the delivery protocol reads it.
    pub(crate) fn tell(&self, happened: Happened) {
        let wanted = match happened {
            Happened::Started => true,
            Happened::StageStarted { .. } | Happened::StageEnded { .. } => {
                self.wanted != EventsWanted::None
            }
            Happened::Output { .. } => self.wanted == EventsWanted::Output,
        };
        if wanted {
            self.queue()
                .waiting
                .push_back((OffsetDateTime::now_utc(), happened));
            self.more.notify_one();
        }
    }

    /// Queues what a stage wrote, joined to what waits of the same stream.
    pub(crate) fn output(&self, stage: StageName, stream: Stream, offset_bytes: u64, data: &[u8]) {
        if self.wanted != EventsWanted::Output {
            return;
        }
        let mut queue = self.queue();
        if let Some((
            _,
            Happened::Output {
                stage: last_stage,
                stream: last_stream,
                data: last,
                ..
            },
        )) = queue.waiting.back_mut()
            && (*last_stage, *last_stream) == (stage, stream)
            && last.data.len() + data.len() <= CHUNK_BYTES
        {
            last.data.extend_from_slice(data);
            return;
        }
        if queue.waiting.len() < MOST_WAITING {
            let data = Output {
                data: data.to_vec(),
                ..Output::default()
            };
            let offset_bytes = ByteSize(offset_bytes);
            queue.waiting.push_back((
                OffsetDateTime::now_utc(),
                Happened::Output {
                    stage,
                    stream,
                    offset_bytes,
                    data,
                },
            ));
            self.more.notify_one();
        }
    }

    /// Publishes what is queued until `over` is cancelled, and then the rest.
    pub(crate) async fn publish(&self, bus: &Bus, over: &CancellationToken) {
        loop {
            tokio::select! {
                () = self.gather() => self.flush(bus).await,
                () = over.cancelled() => return self.flush(bus).await,
            }
        }
    }

    /// Waits until something is queued, and a little longer.
    async fn gather(&self) {
        self.more.notified().await;
        tokio::time::sleep(GATHER).await;
    }

    /// Publishes all that is queued now.
    pub(crate) async fn flush(&self, bus: &Bus) {
        while let Some(event) = self.next() {
            if let Err(error) =
                events::publish(bus, &event, self.origin.message, self.encoding).await
            {
                tracing::warn!(%error, "an event was not published");
            }
        }
    }

    fn next(&self) -> Option<Event> {
        let mut queue = self.queue();
        let (at, happened) = queue.waiting.pop_front()?;
        let sequence = queue.sequence;
        queue.sequence += 1;
        let Origin {
            tenant,
            id,
            generation,
            attempt,
            worker,
            labels,
            ..
        } = self.origin.clone();
        Some(Event {
            tenant,
            id,
            generation,
            attempt,
            sequence,
            at,
            worker,
            labels,
            happened,
        })
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
