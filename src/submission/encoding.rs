//! The two encodings of every message: JSON, and MessagePack with the same field names.

use serde::{Serialize, de::DeserializeOwned};

/// How a message is encoded. The answer comes in the encoding of the question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`, the default.
    #[default]
    Json,
    /// `application/msgpack`: maps with named fields.
    MessagePack,
}

/// A message that could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum EncodingError {
    /// No encoding of ours.
    #[error("the content type is {0:?}, expected \"application/json\" or \"application/msgpack\"")]
    ContentType(String),
    /// Not the JSON of this message.
    #[error("the JSON cannot be read or written: {0}")]
    Json(#[from] serde_json::Error),
    /// Not the MessagePack of this message.
    #[error("the MessagePack cannot be read: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    /// The message has no MessagePack form.
    #[error("the MessagePack cannot be written: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

impl Encoding {
    /// The value of the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MessagePack => "application/msgpack",
        }
    }

    /// The encoding that a `Content-Type` names (parameters such as `; charset=utf-8` do not matter); absent is JSON.
    pub fn of_content_type(value: Option<&str>) -> Result<Self, EncodingError> {
        let Some(value) = value else {
            return Ok(Self::Json);
        };
        match value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
            .as_str()
        {
            "application/json" => Ok(Self::Json),
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
                Ok(Self::MessagePack)
            }
            _ => Err(EncodingError::ContentType(value.chars().take(80).collect())),
        }
    }

    /// `message` as bytes.
    pub fn encode(self, message: &impl Serialize) -> Result<Vec<u8>, EncodingError> {
        Ok(match self {
            Self::Json => serde_json::to_vec(message)?,
            Self::MessagePack => rmp_serde::to_vec_named(message)?,
        })
    }

    /// The message in `body`, unknown fields left out. For messages of ours; a submission goes through [`super::check`].
    pub fn decode<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, EncodingError> {
        Ok(match self {
            Self::Json => serde_json::from_slice(body)?,
            Self::MessagePack => rmp_serde::from_slice(body)?,
        })
    }
}
