//! From a body that anybody may have written to a [`Plan`], or to every error in it.
//!
//! The way: bytes → a bounded tree of values (`value`, `msgpack`) → the submission's fields (`read`, `contents`, `fields`) → what
//! depends on several of them, the runtime and the ceilings (`layout`, `resolve`). Each step adds to the same list of
//! errors (`errors`) and goes on as far as it can, so that a submitter learns all of them at once. No body, however
//! hostile, makes this panic, recurse without bound, or allocate by a length that it only claims; one test says so for
//! each way.
//!
//! What the contract leaves open is decided here:
//! - `null` is as if the field were absent.
//! - An integer may be written as a float without a fraction.
//! - An empty list of `tests` is as if it were absent.
//! - A test's name has up to 256 characters, a label's key 1 to 64 and its value up to 256; none holds control characters.
//! - `HOME` cannot be named: it is always the work directory. `PATH` can.
//! - `{entry}` stands for the entry file only in the runtime's own commands.
//! - A compile stage for a runtime that has none takes the run stage's default limits.
//! - An archive's content is `base64`, `bytes` or `blob`, never `text`. With an archive and without files, the entry is the
//!   runtime's source file name; whether it is in the archive is seen only when it runs.
//! - Globs follow the rules of paths, and `*` never crosses a `/`.
//! - `disk_bytes` and `inodes` of the one work directory are the largest of its stages'.

mod contents;
mod errors;
mod fields;
mod layout;
mod msgpack;
mod read;
mod resolve;
#[cfg(test)]
mod tests;
pub(super) mod value;

use std::collections::BTreeMap;

use self::{
    errors::{Errors, Path},
    fields::Walk,
    value::Value,
};
use super::{
    catalogue::{Catalogue, Ceilings},
    encoding::Encoding,
    message::{EventsWanted, Submission},
    plan::Plan,
    result::FieldError,
    units::ByteSize,
};

/// What is wrong with a path of the work directory, if anything is: it is relative, has up to 1,024 bytes, no NUL, and no component
/// that is empty, `.`, `..` or longer than 255 bytes. For whoever makes such paths, and for whoever is told one.
pub fn path_problem(path: &str) -> Option<String> {
    layout::path_problem(path)
}

/// The largest body of a submission, in bytes.
pub const MAX_BODY_BYTES: usize = 512 << 10;

/// A submission that is not valid: what its `rejected` result says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the submission is not valid: {}", show(.errors))]
pub struct Rejected {
    /// All that is wrong, not empty.
    pub errors: Vec<FieldError>,
    /// The labels, as far as they could be read.
    pub labels: BTreeMap<String, String>,
    /// The events that it wants, as far as that could be read.
    pub events: EventsWanted,
}

fn show(errors: &[FieldError]) -> String {
    let shown = errors.iter().map(|error| match error.path.as_str() {
        "" => error.message.clone(),
        path => format!("{path}: {}", error.message),
    });
    shown.collect::<Vec<_>>().join("; ")
}

impl Rejected {
    fn body(message: impl Into<String>) -> Self {
        let mut errors = Errors::default();
        errors.add(&Path::Root, message);
        Self {
            errors: errors.list(),
            labels: BTreeMap::new(),
            events: EventsWanted::default(),
        }
    }
}

/// What a worker runs of `body`, or all that is wrong with it.
pub fn check(
    body: &[u8],
    content_type: Option<&str>,
    catalogue: &Catalogue,
    ceilings: &Ceilings,
) -> Result<Plan, Rejected> {
    let encoding = Encoding::of_content_type(content_type)
        .map_err(|error| Rejected::body(error.to_string()))?;
    let mut walk = Walk {
        errors: Errors::default(),
        encoding,
        ceilings: Some(ceilings),
    };
    let draft = walk.submission(tree(body, encoding)?);
    let mut errors = walk.errors;
    let (labels, events) = (draft.labels.clone(), draft.events);
    resolve::resolve(draft, catalogue, ceilings, &mut errors).ok_or_else(|| Rejected {
        errors: errors.list(),
        labels,
        events,
    })
}

/// The submission in `body`, by itself: neither its runtime nor its limits are held against a fleet. For clients.
pub fn check_shape(body: &[u8], encoding: Encoding) -> Result<Submission, Rejected> {
    let mut walk = Walk {
        errors: Errors::default(),
        encoding,
        ceilings: None,
    };
    let draft = walk.submission(tree(body, encoding)?);
    let mut errors = walk.errors;
    layout::check(&draft, &mut errors);
    let (labels, events) = (draft.labels.clone(), draft.events);
    let sound = errors.count() == 0;
    draft
        .submission()
        .filter(|_| sound)
        .ok_or_else(|| Rejected {
            errors: errors.list(),
            labels,
            events,
        })
}

fn tree(body: &[u8], encoding: Encoding) -> Result<Value, Rejected> {
    if body.len() > MAX_BODY_BYTES {
        let (came, most) = (body.len(), ByteSize(MAX_BODY_BYTES as u64));
        let message = format!("the body has {came} bytes, expected at most {most}");
        return Err(Rejected::body(message));
    }
    Value::read(body, encoding).map_err(Rejected::body)
}
