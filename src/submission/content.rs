//! Bytes as the contract shows them. JSON: `text` where they are UTF-8, else `base64`; MessagePack: `bytes`; or a blob.
//! A service may also name a file or directory of its own machine: the client library sends what is in it before it
//! publishes, and no message ever holds the name.
//!
//! What is read may come in any of these forms. Which one is written is decided once, at the top of a message, by
//! `Parts`: serde's `flatten` and tagged enums buffer their fields and would take MessagePack for a readable format.

use std::{path::PathBuf, str};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
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
    /// On the machine of whoever publishes: a file, or for an archive also a directory. Only the client library takes it;
    /// what has one cannot be encoded.
    Local(PathBuf),
}

impl Content {
    /// What the file at `path` of this machine holds, when it is submitted.
    pub fn from_path(path: impl Into<PathBuf>) -> Self {
        Self::Local(path.into())
    }

    /// Where it is, if it is in the object store.
    pub const fn blob(&self) -> Option<&Blob> {
        match self {
            Self::Blob(blob) => Some(blob),
            Self::Inline(_) | Self::Local(_) => None,
        }
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) local: Option<Unsent<'a>>,
}

/// A file of the publisher's machine, which has no place in a message: to write it is an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unsent<'a>(&'a std::path::Path);

impl Serialize for Unsent<'_> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        let path = self.0.display();
        Err(ser::Error::custom(format!(
            "{path} is a file of this machine that was not sent to the object store: submit it through the client"
        )))
    }
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
            Content::Local(path) => Self {
                local: Some(Unsent(path)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::encoding::Encoding;

    pub(crate) const SAMPLES: [&[u8]; 5] = [
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
    fn a_file_of_this_machine_has_no_place_in_a_message() {
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            let error = encoding.encode(&Content::from_path("big.csv"));
            let error = error.expect_err("refused").to_string();
            assert!(error.contains("big.csv"), "{error}");
        }
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
