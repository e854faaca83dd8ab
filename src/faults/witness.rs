//! Who sees what the fleet tells while it is under way: plain subscribers of results, one at each server and none of them
//! behind a cable, and one of events. They note what they see, and tell the clients that wait for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::{Message, SubscribeError, Subscriber};
use futures_util::StreamExt as _;
use tokio::{sync::oneshot, task::JoinSet};

use super::history::{Recorder, Seen, What};
use crate::{
    bus::{
        Bus,
        api::{header, header_of},
    },
    submission::{
        encoding::Encoding,
        event::{Event, Happened},
    },
};

/// Where a republished message stood in its stream.
const SEQUENCE: &str = "Nats-Sequence";

/// The witnesses of a run. Dropped, they see nothing more.
#[derive(Debug)]
pub(super) struct Witness {
    waiting: Waiting,
    watchers: JoinSet<()>,
}

/// The clients that wait, by the ids that they wait for.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>);

impl Waiting {
    /// Hears when a result of `id` is seen from now on.
    pub(super) fn hear(&self, id: &str) -> oneshot::Receiver<()> {
        let (tell, heard) = oneshot::channel();
        self.clients().insert(id.to_owned(), tell);
        heard
    }

    /// Nobody waits for `id` any more.
    pub(super) fn forget(&self, id: &str) {
        self.clients().remove(id);
    }

    fn tell(&self, id: &str) {
        if let Some(client) = self.clients().remove(id) {
            // A client that has just given up does not care.
            let _ = client.send(());
        }
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness {
    /// Subscribes at each of `servers`, and waits until every subscription stands.
    pub(super) async fn start(
        servers: &[Bus],
        recorder: &Recorder,
    ) -> Result<Self, SubscribeError> {
        let (waiting, mut watchers) = (Waiting::default(), JoinSet::new());
        for (number, bus) in servers.iter().enumerate() {
            let results = format!("{}.results.>", bus.names.prefix());
            let results = bus.client.subscribe(results).await?;
            watchers.spawn(see_results(
                number,
                results,
                recorder.clone(),
                waiting.clone(),
            ));
            let events = format!("{}.events.>", bus.names.prefix());
            if number == 0 {
                let events = bus.client.subscribe(events).await?;
                watchers.spawn(see_events(events, recorder.clone()));
            }
            // A subscription that the server has not read yet sees nothing; this one is as good as any question.
            if let Err(error) = bus.round_trip().await {
                recorder.note(What::Note(format!("subscriber {number}: {error}")));
            }
        }
        Ok(Self { waiting, watchers })
    }

    /// Who waits for results.
    pub(super) fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    /// Sees nothing more.
    pub(super) async fn stop(mut self) {
        self.watchers.shutdown().await;
    }
}

async fn see_results(
    subscriber: usize,
    mut results: Subscriber,
    recorder: Recorder,
    waiting: Waiting,
) {
    while let Some(message) = results.next().await {
        match read_result(&message) {
            Ok(seen) => {
                let id = seen.id.clone();
                recorder.note(What::Live { subscriber, seen });
                waiting.tell(&id);
            }
            Err(problem) => {
                let subject = &message.subject;
                recorder.note(What::Note(format!("{subject} cannot be read: {problem}")));
            }
        }
    }
}

fn read_result(message: &Message) -> Result<Seen, String> {
    let headers = message.headers.clone().unwrap_or_default();
    let sequence = header_of(&headers, SEQUENCE)
        .and_then(|sequence| sequence.parse().ok())
        .ok_or("it has no sequence: nobody stored it")?;
    Seen::read(&headers, &message.payload, sequence).map_err(|error| error.to_string())
}

async fn see_events(mut events: Subscriber, recorder: Recorder) {
    while let Some(message) = events.next().await {
        match read_event(&message) {
            Ok(Some(event)) => recorder.note(event),
            Ok(None) => {}
            Err(problem) => {
                let subject = &message.subject;
                recorder.note(What::Note(format!("{subject} cannot be read: {problem}")));
            }
        }
    }
}

fn read_event(message: &Message) -> Result<Option<What>, String> {
    let headers = message.headers.clone().unwrap_or_default();
    let encoding = Encoding::of_content_type(header_of(&headers, header::CONTENT_TYPE));
    let event = encoding.and_then(|encoding| encoding.decode::<Event>(&message.payload));
    let event = event.map_err(|error| error.to_string())?;
    // What it writes stands in the result.
    if matches!(event.happened, Happened::Output { .. }) {
        return Ok(None);
    }
    Ok(Some(What::Event {
        id: event.id.to_string(),
        attempt: event.attempt,
        worker: event.worker,
        kind: event.happened.kind(),
        at: event.at,
    }))
}
