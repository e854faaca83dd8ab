//! Watching a submission: its events as they come, and its result as the last thing.
//!
//! Events are told without a promise: one may be missed while the connection is broken. The result is not: it is waited for
//! as [`super::wait`] does.

use std::collections::HashSet;

use async_nats::{
    Message, Subscriber,
    jetstream::{self, consumer, stream::ConsumerErrorKind},
};
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::time::timeout;

use super::{Client, ClientError, wait::Waiting};
use crate::{
    bus::{
        api::{ApiError, header, header_of},
        outage::sit_out,
    },
    submission::{
        encoding::Encoding,
        event::Event,
        names::{SubmissionId, Tenant},
        result::SubmissionResult,
    },
};

/// How long the server keeps the consumer that reads what happened before, should we not get to remove it.
const CONSUMER_AGE: std::time::Duration = std::time::Duration::from_secs(30);

/// The events that are fetched at a time.
const BATCH: usize = 500;

/// What is told of a submission that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Something happened.
    Event(Box<Event>),
    /// It is over. Nothing follows.
    Result(Box<SubmissionResult>),
}

/// A submission that is watched.
#[derive(Debug)]
pub struct Watch {
    waiting: Waiting,
    events: Subscriber,
    /// What happened before, the next one last.
    earlier: Vec<Event>,
    /// The earlier ones, which may come again live.
    seen: HashSet<(u64, u64, u64)>,
    result: Option<SubmissionResult>,
    is_over: bool,
}

impl Client {
    /// Watches a submission from here on. Called before [`submit`](Client::submit), it misses nothing.
    pub async fn watch(&self, tenant: &Tenant, id: &SubmissionId) -> Result<Watch, ClientError> {
        let subject = self.bus.names.events(tenant, id);
        let events = self.bus.client.subscribe(subject).await;
        let events = events.map_err(|error| ClientError::Events(error.to_string()))?;
        // The second subscription waits until the server has both.
        Ok(Watch {
            waiting: Waiting::start(self, tenant, id).await?,
            events,
            earlier: Vec::new(),
            seen: HashSet::new(),
            result: None,
            is_over: false,
        })
    }

    /// Watches a submission, beginning with the events that the server still has of it.
    ///
    /// ```no_run
    /// # async fn example(client: envicutor::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use envicutor::{client::Update, submission::names::Tenant};
    /// use futures_util::{StreamExt as _, pin_mut};
    ///
    /// let watch = client.watch_all(&Tenant::default_tenant(), &"a1".parse()?).await?;
    /// let updates = watch.into_stream();
    /// pin_mut!(updates);
    /// while let Some(update) = updates.next().await {
    ///     match update? {
    ///         Update::Event(event) => println!("{}", event.happened.kind()),
    ///         Update::Result(result) => println!("{:?}", result.verdict),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn watch_all(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Watch, ClientError> {
        let mut watch = self.watch(tenant, id).await?;
        // What is read through a server that dies meanwhile, or while nobody leads the events, is read again.
        let mut earlier = sit_out(self.bus.outage_timeout, || self.earlier(tenant, id)).await?;
        watch.seen = earlier.iter().map(place).collect();
        earlier.reverse();
        watch.earlier = earlier;
        Ok(watch)
    }

    /// The events that the server has of a submission.
    async fn earlier(&self, tenant: &Tenant, id: &SubmissionId) -> Result<Vec<Event>, ClientError> {
        let failed = |error: &dyn std::fmt::Display| ClientError::Events(error.to_string());
        let away = |error: &dyn std::fmt::Display| {
            let description = format!("events: {error}");
            ClientError::Api(ApiError::Unavailable {
                code: 0,
                description,
            })
        };
        let context = jetstream::new(self.bus.client.clone());
        let stream = context
            .get_stream_no_info(self.bus.names.events_stream())
            .await
            .map_err(|error| failed(&error))?;
        let consumer = stream
            .create_consumer(consumer::pull::Config {
                // Without a name the call has another subject, which a service may not use.
                name: Some(SubmissionId::generate().to_string()),
                filter_subject: self.bus.names.events(tenant, id),
                ack_policy: consumer::AckPolicy::None,
                deliver_policy: consumer::DeliverPolicy::All,
                inactive_threshold: CONSUMER_AGE,
                memory_storage: true,
                num_replicas: 1,
                ..Default::default()
            })
            .await
            .map_err(|error| match error.kind() {
                ConsumerErrorKind::JetStream(refusal) if refusal.code() != 503 => failed(&error),
                _ => away(&error),
            })?;
        let mut left = usize::try_from(consumer.cached_info().num_pending).unwrap_or(usize::MAX);
        let mut events = Vec::new();
        while left > 0 {
            let fetch = consumer.fetch().max_messages(left.min(BATCH)).messages();
            let mut batch = fetch.await.map_err(|error| away(&error))?;
            let mut came = 0;
            let patience = self.bus.request_timeout;
            while let Some(message) = timeout(patience, batch.next())
                .await
                .map_err(|error| away(&error))?
            {
                let message = message.map_err(|error| away(&error))?;
                events.extend(read(&message));
                came += 1;
            }
            // Some may have aged out meanwhile.
            left = if came == 0 {
                0
            } else {
                left.saturating_sub(came)
            };
        }
        let name = &consumer.cached_info().name;
        if let Err(error) = stream.delete_consumer(name).await {
            tracing::debug!(%error, "the consumer is left to age out");
        }
        Ok(events)
    }
}

impl Watch {
    /// The next thing; `None` after the result. May be dropped while it waits, and called again. There is no time limit: wrap
    /// it in one where that is wanted.
    pub async fn next(&mut self) -> Option<Result<Update, ClientError>> {
        if let Some(event) = self.earlier.pop() {
            return Some(Ok(Update::Event(Box::new(event))));
        }
        while !self.is_over {
            let Some(update) = self.step().await.transpose() else {
                continue;
            };
            self.is_over = !matches!(update, Ok(Update::Event(_)));
            return Some(update);
        }
        None
    }

    /// As a stream, which ends after the result or an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Update, ClientError>> + Send {
        stream::unfold(self, |mut watch| async move {
            let update = watch.next().await?;
            Some((update, watch))
        })
    }

    /// Takes one thing in; `None` where it is nothing to tell.
    async fn step(&mut self) -> Result<Option<Update>, ClientError> {
        let message = if self.result.is_some() {
            // A worker tells its events before it settles, so they are here already.
            self.events.next().now_or_never().flatten()
        } else {
            tokio::select! {
                message = self.events.next() => Some(message.ok_or(ClientError::Closed)?),
                result = self.waiting.result() => {
                    self.result = Some(result?);
                    return Ok(None);
                }
            }
        };
        if let Some(message) = message {
            let event = self.fresh(&message).map(Box::new);
            return Ok(event.map(Update::Event));
        }
        let result = self.result.take().map(Box::new);
        Ok(result.map(Update::Result))
    }

    /// The event, unless it is none or was told already.
    fn fresh(&mut self, message: &Message) -> Option<Event> {
        read(message).filter(|event| !self.seen.remove(&place(event)))
    }
}

/// What tells an event of a submission from all others.
fn place(event: &Event) -> (u64, u64, u64) {
    (event.generation, event.attempt, event.sequence)
}

/// The event in a message; what cannot be read is another version's and left out.
fn read(message: &Message) -> Option<Event> {
    let content_type = message
        .headers
        .as_ref()
        .and_then(|headers| header_of(headers, header::CONTENT_TYPE));
    let encoding = Encoding::of_content_type(content_type).ok()?;
    encoding.decode(&message.payload).ok()
}
