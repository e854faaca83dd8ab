//! Bytes as the contract shows them. JSON: `text` where they are UTF-8, else `base64`; MessagePack: `bytes`; or a blob.
//!
//! What is read may come in any of these forms. Which one is written is decided once, at the top of a message, by
//! `Parts`: serde's `flatten` and tagged enums buffer their fields and would take MessagePack for a readable format.

use std::str;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_bytes::{ByteBuf, Bytes};

use super::{names::Digest, units::ByteSize};

/// A file in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blob {
    /// The SHA-256 of its content.
    pub digest: Digest,
    /// Its size in bytes.
    #[schemars(with = "u64")]
    pub size_bytes: ByteSize,
}

/// What a file, a standard input or an expected output holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In the message itself.
    Inline(Vec<u8>),
    /// In the object store.
    Blob(Blob),
}

impl Default for Content {
    fn default() -> Self {
        Self::Inline(Vec::new())
    }
}

impl From<&[u8]> for Content {
    fn from(data: &[u8]) -> Self {
        Self::Inline(data.to_vec())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Inline(text.as_bytes().to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Content {
    fn from(data: &[u8; N]) -> Self {
        Self::Inline(data.to_vec())
    }
}

impl From<Vec<u8>> for Content {
    fn from(data: Vec<u8>) -> Self {
        Self::Inline(data)
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Inline(text.into_bytes())
    }
}

impl From<Blob> for Content {
    fn from(blob: Blob) -> Self {
        Self::Blob(blob)
    }
}

/// The fields of which exactly one holds a content, as they are written.
#[derive(Debug, Default, Serialize)]
pub(super) struct Parts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<&'a Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<&'a Blob>,
}

impl<'a> Parts<'a> {
    /// `data` in the form that suits the encoding: `readable` is the serializer's `is_human_readable()`.
    pub(super) fn inline(data: &'a [u8], readable: bool) -> Self {
        if !readable {
            return Self {
                bytes: Some(Bytes::new(data)),
                ..Self::default()
            };
        }
        match str::from_utf8(data) {
            Ok(text) => Self::text(text),
            Err(_) => Self::base64(data),
        }
    }

    /// `text` as it is.
    pub(super) fn text(text: &'a str) -> Self {
        Self {
            text: Some(text),
            ..Self::default()
        }
    }

    /// `data` in base64.
    pub(super) fn base64(data: &[u8]) -> Self {
        Self {
            base64: Some(STANDARD.encode(data)),
            ..Self::default()
        }
    }

    /// `content`, wherever it is.
    pub(super) fn of(content: &'a Content, readable: bool) -> Self {
        match content {
            Content::Inline(data) => Self::inline(data, readable),
            Content::Blob(blob) => Self {
                blob: Some(blob),
                ..Self::default()
            },
        }
    }
}

/// The fields of which one holds inline data, as they are read.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Given {
    pub(super) text: Option<String>,
    pub(super) base64: Option<String>,
    pub(super) bytes: Option<ByteBuf>,
}

impl Given {
    /// The data, where one field is there.
    pub(super) fn data<E: de::Error>(self) -> Result<Option<Vec<u8>>, E> {
        match (self.text, self.base64, self.bytes) {
            (Some(text), None, None) => Ok(Some(text.into_bytes())),
            (None, Some(text), None) => decode_base64(&text).map(Some).map_err(E::custom),
            (None, None, Some(bytes)) => Ok(Some(bytes.into_vec())),
            (None, None, None) => Ok(None),
            _ => Err(E::custom("expected one of `text`, `base64`, `bytes`")),
        }
    }
}

/// The bytes that standard, padded base64 stands for; the error says where it breaks.
pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(text)
        .map_err(|error| format!("it is not standard base64 with padding: {error}"))
}

/// How many bytes `text` has within the quotes of a JSON string as we write it.
pub(super) fn json_text_len(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..=0x1f => 6,
            _ => 1,
        })
        .sum()
}

/// How many characters the base64 of `length` bytes has.
pub(super) const fn base64_len(length: usize) -> usize {
    length.div_ceil(3) * 4
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Parts::of(self, serializer.is_human_readable()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            text: Option<String>,
            base64: Option<String>,
            bytes: Option<ByteBuf>,
            blob: Option<Blob>,
        }
        let fields = Fields::deserialize(deserializer)?;
        let data = Given {
            text: fields.text,
            base64: fields.base64,
            bytes: fields.bytes,
        }
        .data()?;
        match (data, fields.blob) {
            (Some(data), None) => Ok(Self::Inline(data)),
            (None, Some(blob)) => Ok(Self::Blob(blob)),
            _ => Err(de::Error::custom(
                "expected one of `text`, `base64`, `bytes`, `blob`",
            )),
        }
    }
}

/// What a stage wrote to one of its streams, as far as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The beginning of it, or all.
    pub data: Vec<u8>,
    /// What was written, up to the limit, in bytes.
    pub size_bytes: ByteSize,
    /// More was written than `data` shows.
    pub truncated: bool,
    /// All of it, once blobs exist.
    pub blob: Option<Blob>,
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
        };
        if output.truncated {
            drop_split_character(&mut output.data);
        }
        output
    }

    /// Shows at most `most` bytes of it, cut at a character's boundary where it is text.
    pub fn cut(&mut self, most: usize) {
        let kept = cut_at(&self.data, most);
        if kept < self.data.len() {
            self.data.truncate(kept);
            self.data.shrink_to_fit();
            self.truncated = true;
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
    /// All of it, in the object store.
    blob: &'a Option<Blob>,
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
        })
    }
}

impl JsonSchema for Output {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        WrittenOutput::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        WrittenOutput::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::encoding::Encoding;

    const SAMPLES: [&[u8]; 5] = [
        b"",
        b"hello\n",
        "\u{0}\u{e4}\u{1f600}".as_bytes(),
        b"\xff\x00",
        b"a\xe2\x82",
    ];

    #[test]
    fn contents_and_outputs_survive_both_encodings() {
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            for data in SAMPLES {
                let content = Content::from(data);
                let body = encoding.encode(&content).expect("encodes");
                assert_eq!(encoding.decode::<Content>(&body).expect("decodes"), content);
                let output = Output::new(data.to_vec(), ByteSize(data.len() as u64), false);
                let body = encoding.encode(&output).expect("encodes");
                assert_eq!(encoding.decode::<Output>(&body).expect("decodes"), output);
            }
        }
    }

    #[test]
    fn json_shows_text_or_base64_and_message_pack_bytes() {
        let show = |data: &[u8]| serde_json::to_string(&Content::from(data)).expect("encodes");
        assert_eq!(show(b"a"), r#"{"text":"a"}"#);
        assert_eq!(show(b"\xff"), r#"{"base64":"/w=="}"#);
        let packed = rmp_serde::to_vec_named(&Content::from("a")).expect("encodes");
        assert_eq!(packed, b"\x81\xa5bytes\xc4\x01a");
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

    #[test]
    fn two_contents_at_once_are_refused() {
        for body in ["{}", r#"{"text":"a","base64":"YQ=="}"#, r#"{"base64":"*"}"#] {
            assert!(
                Encoding::Json.decode::<Content>(body.as_bytes()).is_err(),
                "{body}"
            );
        }
    }

    #[test]
    fn the_size_of_a_json_string_is_known_beforehand() {
        for text in [
            "",
            "a\"\\\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}\u{e4}\u{2028}\u{1f600}/",
        ] {
            let encoded = serde_json::to_string(text).expect("encodes");
            assert_eq!(json_text_len(text) + 2, encoded.len());
        }
        for length in 0..9 {
            assert_eq!(base64_len(length), STANDARD.encode(vec![7; length]).len());
        }
    }
}
