//! Looking at what waits in a queue and was never handed out, without taking it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{ApiError, Stored},
    connect::Bus,
};
use crate::submission::names::{Lane, Tenant};

/// A look ends after so many bytes of bodies.
const MOST_BYTES: usize = 8 << 20;

/// What the server says of a consumer.
#[derive(Deserialize)]
struct Info {
    delivered: Position,
    num_pending: u64,
}

#[derive(Deserialize)]
struct Position {
    stream_seq: u64,
}

/// What was seen of a lane.
#[derive(Debug)]
pub struct Look {
    /// Messages that nobody took before the look began, in the order in which they were stored.
    pub messages: Vec<Stored>,
    /// The sequence to go on from; `None` where the end was seen.
    pub next: Option<u64>,
}

/// Looks at up to `most` messages of a lane, and not many more bytes than 8 MiB, from the sequence `from` on.
pub async fn look(
    bus: &Bus,
    tenant: &Tenant,
    lane: Lane,
    from: u64,
    most: usize,
) -> Result<Look, ApiError> {
    let stream = bus.names.submissions_stream(tenant);
    let call = format!("CONSUMER.INFO.{stream}.{lane}");
    let info: Info = bus.api(&call, &Value::Null).await?;
    let mut look = Look {
        messages: Vec::new(),
        next: None,
    };
    if info.num_pending == 0 {
        return Ok(look);
    }
    // A redelivery is as old as what was delivered first: it waits for its time, not for a worker.
    let mut from = from.max(info.delivered.stream_seq + 1);
    let subject = bus.names.submission(tenant, lane, "*");
    let mut bytes = 0;
    while look.messages.len() < most && bytes < MOST_BYTES {
        // As JSON: in a direct get's answer a publisher's headers could break the connection.
        let which = json!({ "seq": from, "next_by_subj": subject });
        let Some(message) = bus.get_from_leader(&stream, &which).await? else {
            return Ok(look);
        };
        from = message.sequence + 1;
        bytes += message.body.len();
        look.messages.push(message);
    }
    look.next = Some(from);
    Ok(look)
}
