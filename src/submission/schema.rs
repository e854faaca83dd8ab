//! The JSON Schema of every message, generated from the types; `docs/schema/` keeps the files, and `tests/schema.rs` fails
//! where they are stale.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};

use super::{
    cancellation::Cancellation,
    catalogue::{Catalogue, Ceilings},
    dead_letter::DeadLetter,
    event::Event,
    message::Submission,
    replay::Trail,
    result::SubmissionResult,
};

/// Every message with its file name in `docs/schema/`, without the extension. MessagePack has the same fields; where JSON
/// has `text` or `base64`, it may have `bytes`.
pub fn documents() -> Vec<(&'static str, Schema)> {
    vec![
        ("submission", document::<Submission>()),
        ("result", document::<SubmissionResult>()),
        ("event", document::<Event>()),
        ("dead_letter", document::<DeadLetter>()),
        ("replays", document::<Trail>()),
        ("cancellation", document::<Cancellation>()),
        ("runtimes", document::<Catalogue>()),
        ("limits", document::<Ceilings>()),
    ]
}

/// The schema of what is written of `T`: a field that is always there is required.
fn document<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<T>()
}
