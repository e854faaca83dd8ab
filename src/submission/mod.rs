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
//! | [`archive`], [`collect`] | a project as one archive; what a program leaves and is kept |
//! | [`message`] | the submission as published |
//! | [`check`] | from a body that anybody may have written to a [`plan::Plan`], or every error in it |
//! | [`plan`] | what a worker runs |
//! | [`compare`] | a run's output held against what was expected |
//! | [`event`] | what happens on the way |
//! | [`result`], [`output`] | what came out; what a stage wrote |
//! | [`verdict`] | what came of a stage, from what the agent reports |
//! | [`budget`] | a result that fits a message |
//! | [`cancellation`] | what a request to cancel is answered |
//! | [`dead_letter`] | what could not be run, and why |
//! | [`edit`], [`replay`] | what an operator changes of a submission to run it again; the trail that this leaves |
//! | [`references`] | what a message names in the object store |
//! | [`catalogue`] | runtimes and ceilings, as asked for by request |
//! | [`schema`] | the JSON Schema of every message |

pub mod archive;
pub mod budget;
pub mod cancellation;
pub mod catalogue;
pub mod check;
pub mod collect;
pub mod compare;
pub mod content;
pub mod dead_letter;
pub mod edit;
pub mod encoding;
pub mod event;
pub mod installation;
pub mod limits;
pub mod message;
pub mod names;
pub mod output;
pub mod plan;
pub mod references;
pub mod replay;
pub mod result;
pub mod schema;
pub mod units;
pub mod verdict;
mod wire;
