//! Frames to and from bytes. No I/O: the agent reads by blocking calls, the worker by tokio's.

use serde::{Serialize, de::DeserializeOwned};

use crate::MAX_FRAME_BYTES;

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is zero or over the bound.
    #[error("a frame of {0} bytes came, expected 1 to {MAX_FRAME_BYTES}")]
    Length(usize),
    /// The payload is not a message of this protocol.
    #[error("the frame's payload cannot be read: {0}")]
    Payload(#[from] rmp_serde::decode::Error),
    /// The message cannot be written (a bug: every message of this protocol can).
    #[error("the message cannot be encoded: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// The whole frame of `message`: length and payload.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    rmp_serde::encode::write_named(&mut frame, message)?;
    let length = frame.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= MAX_FRAME_BYTES => {
            frame[..4].copy_from_slice(&prefix.to_be_bytes());
        }
        _ => return Err(FrameError::Length(length)),
    }
    Ok(frame)
}

/// The payload's length that a frame's first four bytes announce, checked against the bound.
pub fn frame_length(prefix: [u8; 4]) -> Result<usize, FrameError> {
    match u32::from_be_bytes(prefix) as usize {
        length @ 1..=MAX_FRAME_BYTES => Ok(length),
        length => Err(FrameError::Length(length)),
    }
}

/// The message in a frame's payload.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    Ok(rmp_serde::from_slice(payload)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, File, Report, Stream};

    #[test]
    fn a_message_survives_the_way() {
        let command = Command::File(File {
            path: "a/b".into(),
            executable: true,
            append: false,
            data: vec![0, 255],
        });
        let frame = encode(&command).expect("encodes");
        let length = frame_length(frame[..4].try_into().expect("four bytes")).expect("in bounds");
        assert_eq!(length, frame.len() - 4);
        assert_eq!(decode::<Command>(&frame[4..]).expect("decodes"), command);
    }

    #[test]
    fn a_length_out_of_bounds_is_refused_before_anything_is_allocated() {
        assert!(matches!(frame_length([0; 4]), Err(FrameError::Length(0))));
        assert!(matches!(frame_length([255; 4]), Err(FrameError::Length(_))));
    }

    #[test]
    fn too_large_a_message_is_refused() {
        let report = Report::Output {
            stream: Stream::Stdout,
            data: vec![0; MAX_FRAME_BYTES],
        };
        assert!(matches!(encode(&report), Err(FrameError::Length(_))));
    }
}
