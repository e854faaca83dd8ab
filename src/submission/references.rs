//! What a message refers to in the object store: what the collector may not remove.
//!
//! The invariant: more may be found than is meant, never less. Any digest anywhere in a message counts, whatever its field is
//! called, so that a message of a later version keeps what it names too.

use std::collections::BTreeSet;

use super::{check::value::Value, dead_letter::DeadLetter, encoding::Encoding, names::Digest};

/// What every digest begins with, and how many characters follow.
const PREFIX: &str = "sha256:";
const HEX: usize = 64;

/// Every digest in a submission's or a result's `body`. What cannot be read is searched byte by byte.
pub fn of_message(body: &[u8], content_type: Option<&str>) -> BTreeSet<Digest> {
    let mut found = BTreeSet::new();
    let tree = Encoding::of_content_type(content_type)
        .ok()
        .and_then(|encoding| Value::read(body, encoding).ok());
    match tree {
        Some(tree) => walk(&tree, &mut found),
        None => scan(body, &mut found),
    }
    found
}

/// Every digest in a dead letter's `body`, those of the submission in it among them.
pub fn of_dead_letter(body: &[u8], content_type: Option<&str>) -> BTreeSet<Digest> {
    let mut found = of_message(body, content_type);
    let letter = Encoding::of_content_type(content_type)
        .ok()
        .and_then(|encoding| encoding.decode::<DeadLetter>(body).ok());
    if let Some(DeadLetter { submission, .. }) = letter {
        found.extend(of_message(
            &submission.body,
            submission.content_type.as_deref(),
        ));
    }
    found
}

fn walk(value: &Value, found: &mut BTreeSet<Digest>) {
    match value {
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {}
        Value::Text(text) => found.extend(text.parse::<Digest>()),
        // A dead letter's original, or a program's text that looks like one.
        Value::Bytes(bytes) => scan(bytes, found),
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        Value::Map(fields) => fields.values().for_each(|field| walk(field, found)),
    }
}

/// The digests that stand in `bytes` as they are.
fn scan(bytes: &[u8], found: &mut BTreeSet<Digest>) {
    let length = PREFIX.len() + HEX;
    let digests = bytes.windows(length).filter_map(|window| {
        let rest = window.strip_prefix(PREFIX.as_bytes())?;
        let is_hex = rest.iter().all(u8::is_ascii_hexdigit);
        let text = is_hex.then(|| std::str::from_utf8(window).ok()).flatten()?;
        text.parse::<Digest>().ok()
    });
    found.extend(digests);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::submission::{
        archive::{Archive, ArchiveFormat},
        content::Blob,
        dead_letter::{Original, Reason},
        message::{Submission, Test},
        names::{Lane, Tenant},
        result::FailureCode,
        units::ByteSize,
    };

    const ENCODINGS: [Encoding; 2] = [Encoding::Json, Encoding::MessagePack];

    fn blob(name: &str) -> Blob {
        Blob {
            digest: Digest::of(name.as_bytes()),
            size_bytes: ByteSize(1),
        }
    }

    fn submission() -> Submission {
        let mut submission = Submission::new("python".parse().expect("valid"))
            .file("a", blob("file"))
            .test(Test::new(blob("stdin")).expecting(blob("expected")));
        submission.archive = Some(Archive {
            format: ArchiveFormat::Tar,
            content: blob("archive").into(),
            strip_components: 0,
        });
        submission
    }

    fn expected() -> BTreeSet<Digest> {
        let names = ["file", "stdin", "expected", "archive"];
        names.map(|name| blob(name).digest).into()
    }

    #[test]
    fn a_submission_refers_to_what_it_names_in_both_encodings() {
        for encoding in ENCODINGS {
            let body = encoding.encode(&submission()).expect("encodes");
            let content_type = Some(encoding.content_type());
            assert_eq!(of_message(&body, content_type), expected());
            // One that breaks off in the middle too.
            let cut = &body[..body.len() - 1];
            assert_eq!(of_message(cut, content_type), expected());
        }
    }

    #[test]
    fn a_message_of_a_later_version_keeps_what_it_names() {
        let digest = blob("later").digest;
        let body = serde_json::to_vec(&serde_json::json!({"later": [{"deep": digest}]}));
        let found = of_message(&body.expect("encodes"), None);
        assert!(found.contains(&digest));
    }

    #[test]
    fn a_dead_letter_keeps_what_its_submission_names() {
        for outer in ENCODINGS {
            for inner in ENCODINGS {
                // What is no UTF-8 has the letter show the body in base64.
                let submission = submission().file("b", b"\xff");
                let letter = DeadLetter {
                    tenant: Tenant::default_tenant(),
                    id: "a1".parse().expect("valid"),
                    generation: 0,
                    lane: Lane::Batch,
                    reason: Reason {
                        code: FailureCode::Store,
                        message: String::new(),
                        stage: String::new(),
                    },
                    attempts: Vec::new(),
                    submission: Original {
                        content_type: Some(inner.content_type().to_owned()),
                        headers: BTreeMap::new(),
                        body: inner.encode(&submission).expect("encodes"),
                    },
                    log_tail: Vec::new(),
                    dead_at: time::macros::datetime!(2026-01-02 03:04:05 UTC),
                    labels: BTreeMap::new(),
                };
                let body = outer.encode(&letter).expect("encodes");
                let found = of_dead_letter(&body, Some(outer.content_type()));
                assert_eq!(found, expected());
            }
        }
    }
}
