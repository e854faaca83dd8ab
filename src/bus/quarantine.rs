//! Removes messages that no worker can take: a publisher can write headers, or an id, that the client library cannot read from a
//! delivery. It drops the connection instead, and the message would come again, to the next worker, for ever. Such a message has
//! no result: it is no message by the protocol of NATS itself.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{api::ApiError, connect::Bus};
use crate::submission::names::{Lane, Tenant};

/// The most messages that one search looks at. Only what is in workers' hands is searched.
const MOST: usize = 1_000;

/// What the server says of a consumer.
#[derive(Deserialize)]
struct Info {
    delivered: Position,
    ack_floor: Position,
}

#[derive(Deserialize)]
struct Position {
    stream_seq: u64,
}

/// Searches what was delivered from this lane and is not acknowledged, and removes what cannot be read. Called when a pull got no
/// answer.
pub(super) async fn remove_unreadable(
    bus: &Bus,
    tenant: &Tenant,
    lane: Lane,
) -> Result<(), ApiError> {
    let stream = bus.names.submissions_stream(tenant);
    let info: Info = bus
        .api(&format!("CONSUMER.INFO.{stream}.{lane}"), &Value::Null)
        .await?;
    let subject = bus.names.submission(tenant, lane, "*");
    let mut from = info.ack_floor.stream_seq + 1;
    for _ in 0..MOST {
        // As JSON, in which nothing breaks the connection.
        let which = json!({ "seq": from, "next_by_subj": subject });
        let Some(message) = bus.get_from_leader(&stream, &which).await? else {
            break;
        };
        if message.sequence > info.delivered.stream_seq {
            break;
        }
        if !message.is_readable {
            tracing::warn!(
                subject = message.subject.escape_debug().to_string(),
                sequence = message.sequence,
                "removed a submission whose headers or id no client can read"
            );
            let call = format!("STREAM.MSG.DELETE.{stream}");
            bus.api::<Value>(&call, &json!({ "seq": message.sequence, "no_erase": true }))
                .await?;
        }
        from = message.sequence + 1;
    }
    Ok(())
}
