//! What a stage wrote to one of its streams, as a result shows it: the beginning inline, all of it in the object store where
//! that is much, with the end beside the beginning.
//!
//! The invariant: what is shown of text is text: no character is cut in two.

use std::{borrow::Cow, str};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::{ByteBuf, Bytes};

use super::{
    content::{Blob, Given, Parts},
    units::ByteSize,
};

/// What a stage wrote to one of its streams, as far as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The beginning of it, or all.
    pub data: Vec<u8>,
    /// What was written, up to the limit, in bytes.
    pub size_bytes: ByteSize,
    /// More was written than `data` shows.
    pub truncated: bool,
    /// All of it, in the object store, where it is too much to be shown.
    pub blob: Option<Blob>,
    /// The end of it, where `blob` holds all and `data` only the beginning.
    pub tail: Option<Vec<u8>>,
}

impl Output {
    /// What was kept of a stream of which `size_bytes` were written up to the limit; `more` says that the program wrote
    /// past the limit. Where `data` is not all, a character that it cuts in two is left out.
    pub fn new(data: Vec<u8>, size_bytes: ByteSize, more: bool) -> Self {
        let mut output = Self {
            truncated: more || (data.len() as u64) < size_bytes.0,
            data,
            size_bytes,
            blob: None,
            tail: None,
        };
        if output.truncated {
            drop_split_character(&mut output.data);
        }
        output
    }

    /// The same with all of it in `blob`, and its end beside its beginning: `tail` begins with a whole character.
    #[must_use]
    pub fn stored(mut self, blob: Blob, tail: Vec<u8>) -> Self {
        self.blob = Some(blob);
        self.tail = Some(tail);
        self.cut_tail(usize::MAX);
        self
    }

    /// Shows at most `most` bytes of its beginning and of its end, cut at a character's boundary where it is text.
    pub fn cut(&mut self, most: usize) {
        self.cut_tail(most);
        let kept = cut_at(&self.data, most);
        if kept < self.data.len() {
            self.data.truncate(kept);
            self.data.shrink_to_fit();
            self.truncated = true;
        }
    }
}

impl Output {
    fn cut_tail(&mut self, most: usize) {
        if let Some(tail) = &mut self.tail {
            let from = tail_at(tail, most);
            tail.drain(..from);
            tail.shrink_to_fit();
        }
    }
}

/// How many of `data`'s first `most` bytes remain when no character may be cut in two.
pub(super) fn cut_at(data: &[u8], most: usize) -> usize {
    if data.len() <= most {
        data.len()
    } else {
        whole_characters(&data[..most])
    }
}

/// Where the last `most` bytes of `data` begin when no character may be cut in two: past what continues one that began before.
pub(super) fn tail_at(data: &[u8], most: usize) -> usize {
    let from = data.len().saturating_sub(most);
    let continues = data[from..]
        .iter()
        .take(3)
        .take_while(|byte| **byte & 0xc0 == 0x80)
        .count();
    // Data that is no text keeps its length.
    if str::from_utf8(&data[from + continues..]).is_ok() {
        from + continues
    } else {
        from
    }
}

/// The length of `data` without a character whose end is missing. Data that is no text keeps its length.
fn whole_characters(data: &[u8]) -> usize {
    match str::from_utf8(data) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => data.len(),
    }
}

fn drop_split_character(data: &mut Vec<u8>) {
    data.truncate(whole_characters(data));
}

/// An [`Output`] as it is written.
#[derive(Serialize, JsonSchema)]
#[schemars(
    rename = "Output",
    description = "What a stage wrote to one of its streams: `text` where it is UTF-8, else `base64`; in MessagePack always `bytes`.",
    extend("oneOf" = [{"required": ["text"]}, {"required": ["base64"]}])
)]
struct WrittenOutput<'a> {
    /// The beginning of it, or all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    text: Option<&'a str>,
    /// The same where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    bytes: Option<&'a Bytes>,
    /// What was written, up to the limit, in bytes.
    #[schemars(with = "u64")]
    size_bytes: ByteSize,
    /// More was written than is shown.
    truncated: bool,
    /// All of it, in the object store, where it is too much to be shown.
    blob: &'a Option<Blob>,
    /// The end of it, where `blob` holds all: a string where it is UTF-8, else an object with `base64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tail")]
    tail: Option<Tail<'a>>,
}

/// The end of an output.
struct Tail<'a>(&'a [u8]);

impl Serialize for Tail<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parts = Parts::inline(self.0, serializer.is_human_readable());
        match parts.text {
            Some(text) => text.serialize(serializer),
            None => parts.serialize(serializer),
        }
    }
}

impl JsonSchema for Tail<'_> {
    fn schema_name() -> Cow<'static, str> {
        "Tail".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The end of an output: a string where it is UTF-8, else an object with `base64` (in MessagePack with `bytes`).",
            "type": ["string", "object"],
            "properties": {"base64": {"type": "string"}},
        })
    }
}

/// A [`Tail`] as it is read.
#[derive(Deserialize)]
#[serde(untagged)]
enum GivenTail {
    Text(String),
    Object(Given),
}

impl GivenTail {
    fn data<E: serde::de::Error>(self) -> Result<Vec<u8>, E> {
        match self {
            Self::Text(text) => Ok(text.into_bytes()),
            Self::Object(given) => Ok(given.data()?.unwrap_or_default()),
        }
    }
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parts = Parts::inline(&self.data, serializer.is_human_readable());
        WrittenOutput {
            text: parts.text,
            base64: parts.base64,
            bytes: parts.bytes,
            size_bytes: self.size_bytes,
            truncated: self.truncated,
            blob: &self.blob,
            tail: self.tail.as_deref().map(Tail),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            text: Option<String>,
            base64: Option<String>,
            bytes: Option<ByteBuf>,
            size_bytes: ByteSize,
            truncated: bool,
            #[serde(default)]
            blob: Option<Blob>,
            #[serde(default)]
            tail: Option<GivenTail>,
        }
        let fields = Fields::deserialize(deserializer)?;
        let given = Given {
            text: fields.text,
            base64: fields.base64,
            bytes: fields.bytes,
        };
        Ok(Self {
            data: given.data()?.unwrap_or_default(),
            size_bytes: fields.size_bytes,
            truncated: fields.truncated,
            blob: fields.blob,
            tail: fields.tail.map(GivenTail::data).transpose()?,
        })
    }
}

impl JsonSchema for Output {
    fn schema_name() -> Cow<'static, str> {
        WrittenOutput::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        WrittenOutput::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::{encoding::Encoding, names::Digest};

    fn stored(data: &[u8], tail: &[u8]) -> Output {
        let blob = Blob {
            digest: Digest::of(b"all"),
            size_bytes: ByteSize(1 << 20),
        };
        Output::new(data.to_vec(), ByteSize(1 << 20), false).stored(blob, tail.to_vec())
    }

    #[test]
    fn outputs_survive_both_encodings() {
        let samples: [&[u8]; 5] = [
            b"",
            b"hello\n",
            "\u{0}\u{e4}".as_bytes(),
            b"\xff\x00",
            b"a\xe2",
        ];
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            for data in samples {
                let whole = Output::new(data.to_vec(), ByteSize(data.len() as u64), false);
                for output in [whole, stored(b"head", data)] {
                    let body = encoding.encode(&output).expect("encodes");
                    assert_eq!(encoding.decode::<Output>(&body).expect("decodes"), output);
                }
            }
        }
    }

    #[test]
    fn an_output_in_the_store_shows_its_end_beside_its_beginning() {
        let shown = |tail: &[u8]| serde_json::to_value(stored(b"head", tail)).expect("encodes");
        assert_eq!(shown(b"tail\n")["tail"], "tail\n");
        assert_eq!(
            shown(b"\xff\xff")["tail"],
            serde_json::json!({"base64": "//8="})
        );
        assert_eq!(shown(b"")["blob"]["size_bytes"], 1 << 20);
    }

    #[test]
    fn an_end_begins_with_a_whole_character() {
        let text = "\u{1f600}ab".as_bytes();
        for (most, kept) in [(6, 6), (5, 2), (3, 2), (2, 2), (1, 1), (0, 0)] {
            let mut output = stored(b"head", text);
            output.cut(most);
            assert_eq!(output.tail.map(|tail| tail.len()), Some(kept), "{most}");
        }
        assert_eq!(stored(b"", &text[1..]).tail, Some(b"ab".to_vec()));
        assert_eq!(
            stored(b"", b"\x80\x80\xff").tail,
            Some(b"\x80\x80\xff".to_vec())
        );
    }

    #[test]
    fn an_output_names_its_size_and_whether_it_is_cut() {
        let output = Output::new(b"hello\n".to_vec(), ByteSize(6), false);
        assert_eq!(
            serde_json::to_string(&output).expect("encodes"),
            r#"{"text":"hello\n","size_bytes":6,"truncated":false,"blob":null}"#
        );
    }

    #[test]
    fn an_output_is_cut_at_a_characters_boundary() {
        let text = "ab\u{1f600}".as_bytes();
        for (most, kept) in [(6, 6), (5, 2), (3, 2), (2, 2), (1, 1), (0, 0)] {
            let mut output = Output::new(text.to_vec(), ByteSize(6), false);
            output.cut(most);
            assert_eq!((output.data.len(), output.truncated), (kept, kept < 6));
        }
        let at_the_limit = Output::new(text[..4].to_vec(), ByteSize(4), true);
        assert_eq!(at_the_limit.data, b"ab");
        assert!(at_the_limit.truncated);
        // A program that wrote half a character itself has it shown.
        let whole = Output::new(text[..4].to_vec(), ByteSize(4), false);
        assert_eq!((whole.data.len(), whole.truncated), (4, false));
    }
}
