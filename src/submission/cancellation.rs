//! What a request to cancel a submission is answered.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The answer to a request to `envicutor.cancel.<tenant>.<id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancellation {
    /// What the submission is now.
    pub state: Cancelled,
}

/// What a submission is after it was asked to be cancelled. To ask again is always safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cancelled {
    /// Its result stands, and says `cancelled`.
    Cancelled,
    /// It was over before: another result stands.
    Finished,
    /// It is neither queued nor running, and no result of it stands. Nothing was done.
    Unknown,
}
