//! Everything that may refer to a tenant's blobs, read once and in bounded pieces.
//!
//! A submission moves on while this is read: from its queue to the dead letters and the history, and from the letters back into the
//! queue. It is stored in the new place before it leaves the old one, so the queue is read first and last.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use serde::Deserialize;
use serde_json::Value;

use super::CollectError;
use crate::{
    blobs::Blobs,
    bus::{
        Bus,
        api::{ApiError, header, header_of},
        walk::Walk,
    },
    submission::{names::Digest, references},
};

/// The most bytes of an entry of the compile cache that are read.
const ENTRY_BYTES: usize = 1 << 20;

/// How a message is searched: body and content type.
type Search = fn(&[u8], Option<&str>) -> BTreeSet<Digest>;

/// Tells `found` of every digest that something names. More may be found than is meant.
pub(super) async fn each(
    bus: &Bus,
    blobs: &Blobs,
    mut found: impl FnMut(Digest),
) -> Result<(), CollectError> {
    let (names, tenant) = (&bus.names, blobs.tenant());
    let runtimes = names.bucket("runtimes");
    let queue = || (names.submissions_stream(tenant), names.queued(tenant));
    let places: [(_, Search); 6] = [
        (queue(), references::of_message),
        (
            (
                names.dead_letters_stream(),
                names.dead_letters(Some(tenant), None),
            ),
            references::of_dead_letter,
        ),
        (
            (names.results_stream(), names.result(tenant, "*")),
            references::of_message,
        ),
        (
            (
                names.history_stream(),
                names.history_in_any_lane(tenant, "*"),
            ),
            references::of_message,
        ),
        (
            (format!("KV_{runtimes}"), format!("$KV.{runtimes}.>")),
            references::of_message,
        ),
        (queue(), references::of_message),
    ];
    for ((stream, subject), search) in places {
        walk(bus, stream, subject, search, &mut found).await?;
    }
    let mut entries = blobs.entries();
    while let Some(entry) = entries.try_next().await? {
        let data = blobs.read_entry(&entry, ENTRY_BYTES).await?;
        let referred = references::of_message(&data.unwrap_or_default(), None);
        referred.into_iter().for_each(&mut found);
    }
    Ok(())
}

/// Searches every message that is in a stream now.
async fn walk(
    bus: &Bus,
    stream: String,
    subject: String,
    search: Search,
    found: &mut impl FnMut(Digest),
) -> Result<(), ApiError> {
    let (first, last) = bounds(bus, &stream).await?;
    let mut walk = Walk::new(bus, stream, subject, first, last);
    while let Some(stored) = walk.next().await? {
        let content_type = header_of(&stored.headers, header::CONTENT_TYPE);
        let named = search(&stored.body, content_type);
        named.into_iter().for_each(&mut *found);
    }
    Ok(())
}

/// The sequences that a stream has.
async fn bounds(bus: &Bus, stream: &str) -> Result<(u64, u64), ApiError> {
    #[derive(Deserialize)]
    struct Info {
        state: State,
    }
    #[derive(Deserialize)]
    struct State {
        first_seq: u64,
        last_seq: u64,
    }
    let call = format!("STREAM.INFO.{stream}");
    let Info { state } = bus.api(&call, &Value::Null).await?;
    Ok((state.first_seq, state.last_seq))
}
