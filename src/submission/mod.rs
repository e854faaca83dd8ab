//! The words of the contract: names, limits, the submission, its result, events and dead letter, their two encodings,
//! and the validation. No I/O, and nothing else of ours is imported here.
//!
//! | in the order of a submission's way | |
//! | --- | --- |
//! | [`names`] | tenant, lane, id, runtime, digest: parsed once, trusted inside |
//! | [`units`] | bytes and microseconds, as people write them |
//! | [`limits`] | what a stage may use, and the ceilings |
//! | [`encoding`] | JSON and MessagePack |
//! | [`content`] | bytes as the contract shows them: `text`, `base64`, `bytes` or a blob |
//! | [`message`] | the submission as published |
//! | [`check`] | from a body that anybody may have written to a [`plan::Plan`], or every error in it |
//! | [`plan`] | what a worker runs |
//! | [`compare`] | a run's output held against what was expected |
//! | [`event`] | what happens on the way |
//! | [`result`] | what came out |
//! | [`verdict`] | what came of a stage, from what the agent reports |
//! | [`budget`] | a result that fits a message |
//! | [`dead_letter`] | what could not be run, and why |
//! | [`catalogue`] | runtimes and ceilings, as asked for by request |
//! | [`schema`] | the JSON Schema of every message |

pub mod budget;
pub mod catalogue;
pub mod check;
pub mod compare;
pub mod content;
pub mod dead_letter;
pub mod encoding;
pub mod event;
pub mod limits;
pub mod message;
pub mod names;
pub mod plan;
pub mod result;
pub mod schema;
pub mod units;
pub mod verdict;
mod wire;
