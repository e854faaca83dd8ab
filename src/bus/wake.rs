//! Wakes: the server republishes the headers of each submission that it stores. No wake is sent for a message that is delivered
//! again, so whoever hands one back at once sends the wake itself, and a sweep finds the rest.
//!
//! Listen on a connection of its own, and to requests of services there too: a publisher can send headers (or a subject) that
//! the client library cannot read, and the library then drops the connection that they came on. Nothing but time may be lost so.

use async_nats::Subscriber;
use futures_util::StreamExt as _;

use super::{
    api::ApiError,
    connect::Bus,
    subjects::{Address, Names},
};

/// The queue group of all workers: each wake goes to one of them.
const GROUP: &str = "workers";

/// Wakes cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum WakeError {
    /// The connection is closed.
    #[error("wakes cannot be subscribed to: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The server does not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Listens to wakes. One that is lost (the connection broke, the buffer was full) costs time, never a submission.
#[derive(Debug)]
pub struct Wakes {
    names: Names,
    subscriber: Subscriber,
}

impl Wakes {
    /// The wakes that are this worker's: each goes to one worker of the fleet.
    pub async fn shared(bus: &Bus) -> Result<Self, WakeError> {
        let subject = bus.names.wakes();
        let subscriber = bus
            .client
            .queue_subscribe(subject, GROUP.to_owned())
            .await?;
        Self::listening(bus, subscriber).await
    }

    /// Every wake, for a worker to remember while all its slots are full.
    pub async fn all(bus: &Bus) -> Result<Self, WakeError> {
        let subscriber = bus.client.subscribe(bus.names.wakes()).await?;
        Self::listening(bus, subscriber).await
    }

    async fn listening(bus: &Bus, subscriber: Subscriber) -> Result<Self, WakeError> {
        bus.round_trip().await?;
        Ok(Self {
            names: bus.names.clone(),
            subscriber,
        })
    }

    /// The next wake; `None` once the connection is closed for good. May be dropped while it waits: no wake is lost.
    pub async fn next(&mut self) -> Option<Address> {
        loop {
            let message = self.subscriber.next().await?;
            if let Some(address) = self.names.address(&message.subject) {
                return Some(address);
            }
        }
    }
}
