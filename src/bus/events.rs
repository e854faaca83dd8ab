//! Events: told without waiting, kept for a short time. Only the result is promised.

use async_nats::HeaderMap;

use super::{
    api::{ApiError, header, header_of},
    connect::Bus,
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

/// Publishes an event, and does not wait until it is stored.
pub async fn publish(bus: &Bus, event: &Event, encoding: Encoding) -> Result<(), EventError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, encoding.content_type());
    headers.insert(header::GENERATION, event.generation.to_string());
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
    let subject = bus.names.event(tenant, id, event_kind(&Happened::Started));
    let Some(stored) = bus.get_last(&bus.names.events_stream(), &subject).await? else {
        return Ok(None);
    };
    let encoding = Encoding::of_content_type(header_of(&stored.headers, header::CONTENT_TYPE))?;
    Ok(Some(encoding.decode(&stored.body)?))
}
