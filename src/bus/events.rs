//! Events: told without waiting, kept for a short time. Only the result is promised.

use async_nats::HeaderMap;

use super::{
    api::{ApiError, header, header_of},
    connect::Bus,
    outage::sit_out,
    subjects::event_kind,
};
use crate::submission::{
    encoding::{Encoding, EncodingError},
    event::{Event, Happened},
    names::{SubmissionId, Tenant},
};

/// An event could not be told or read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// It has no such encoding, or is none of ours.
    #[error("an event cannot be encoded or read: {0}")]
    Encoding(#[from] EncodingError),
    /// It is too large, or the connection is closed for good.
    #[error("an event was not published: {0}")]
    Publish(#[from] async_nats::client::PublishError),
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Publishes an event of the message at `sequence` of its queue, and does not wait until it is stored.
pub async fn publish(
    bus: &Bus,
    event: &Event,
    sequence: u64,
    encoding: Encoding,
) -> Result<(), EventError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, encoding.content_type());
    headers.insert(header::GENERATION, event.generation.to_string());
    headers.insert(header::SEQUENCE, sequence.to_string());
    let subject = bus
        .names
        .event(&event.tenant, &event.id, event_kind(&event.happened));
    let body = encoding.encode(event)?;
    Ok(bus
        .client
        .publish_with_headers(subject, headers, body.into())
        .await?)
}

/// The last `started` event of a submission that still stands: who began it, and when. From any replica; EVENTS forgets soon, so
/// its absence proves nothing.
pub async fn last_started(
    bus: &Bus,
    tenant: &Tenant,
    id: &SubmissionId,
) -> Result<Option<Event>, EventError> {
    let started = last_started_of(bus, tenant, id).await?;
    Ok(started.map(|(event, _)| event))
}

/// The same with the place in its queue of the message that started: one id can be in both lanes.
pub async fn last_started_of(
    bus: &Bus,
    tenant: &Tenant,
    id: &SubmissionId,
) -> Result<Option<(Event, Option<u64>)>, EventError> {
    let subject = bus.names.event(tenant, id, event_kind(&Happened::Started));
    let stream = bus.names.events_stream();
    let look = async || match bus.get_last(&stream, &subject).await {
        // Without a stream there is nothing that it could know.
        Err(ApiError::NoResponders { .. }) => Ok(None),
        looked => looked,
    };
    let Some(stored) = sit_out(bus.outage_timeout, look).await? else {
        return Ok(None);
    };
    let encoding = Encoding::of_content_type(header_of(&stored.headers, header::CONTENT_TYPE))?;
    let sequence = header_of(&stored.headers, header::SEQUENCE);
    let sequence = sequence.and_then(|sequence| sequence.parse().ok());
    Ok(Some((encoding.decode(&stored.body)?, sequence)))
}
