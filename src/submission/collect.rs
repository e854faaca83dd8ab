//! What of the work directory is kept after the last run, and what a result says of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{content::Blob, units::ByteSize};

/// Which files of the work directory are kept after the last run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collect {
    /// Globs of paths relative to the work directory: `*`, `?` and `[…]` (none of it: `[!…]`) stay within a component, `**`
    /// is any number of them, `{a,b}` one of several; `\` takes the meaning of what follows it.
    pub paths: Vec<String>,
    /// The most files; absent is the fleet's ceiling.
    pub max_files: Option<u64>,
    /// The most bytes of all files together; absent is the fleet's ceiling.
    pub max_bytes: Option<ByteSize>,
}

/// A file that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Collected {
    /// Where it was in the work directory. The program chose it: whoever writes it anywhere does not trust it.
    pub path: String,
    /// Its size in bytes.
    #[schemars(with = "u64")]
    pub size_bytes: ByteSize,
    /// Whether its owner might execute it.
    pub executable: bool,
    /// What was in it.
    pub blob: Blob,
}

/// A file that a glob found and that was not kept, or a bound that was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CollectError {
    /// Where it is in the work directory; empty where no single file is meant.
    pub path: String,
    /// Why it was not kept.
    pub message: String,
}
