//! A run's standard output held against what was expected.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How output is compared.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// Byte for byte.
    Exact,
    /// White space at line ends and empty lines at the end do not count.
    #[default]
    Trimmed,
    /// Only the white-space separated words count.
    Tokens,
}
