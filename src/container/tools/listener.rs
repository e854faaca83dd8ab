//! What a tool writes, as the reports that it should be. It is hostile: read within bounds, and no further than it makes sense.

use bytes::{Buf, BytesMut};
use envicutor_protocol::{CHUNK_BYTES, FrameError, Stream, ToolReport, decode, frame_length};

use crate::container::ContainerError;

/// The most of a tool's own words that is shown.
const WORDS_BYTES: usize = 1024;

/// Who hears what a tool says.
pub(in crate::container) trait Take: Send {
    /// The next report; an error where it makes no sense here.
    fn take(
        &mut self,
        report: ToolReport,
    ) -> impl Future<Output = Result<Result<(), String>, ContainerError>> + Send;
}

/// Makes reports of a tool's output, as long as that makes sense.
pub(in crate::container) struct Listener {
    limit: u64,
    heard: [u64; 2],
    frames: BytesMut,
    words: Vec<u8>,
    pub(super) problem: Option<String>,
}

impl Listener {
    pub(in crate::container) fn new(limit: u64) -> Self {
        Self {
            limit,
            heard: [0; 2],
            frames: BytesMut::new(),
            words: Vec::new(),
            problem: None,
        }
    }

    /// Whether everything so far made sense.
    pub(in crate::container) fn is_fine(&self) -> bool {
        self.problem.is_none()
    }

    /// What it wrote to standard error, for people.
    pub(super) fn words(&self) -> String {
        String::from_utf8_lossy(&self.words).trim().to_owned()
    }

    pub(in crate::container) async fn hear(
        &mut self,
        stream: Stream,
        data: &[u8],
        take: &mut impl Take,
    ) -> Result<(), ContainerError> {
        let heard = &mut self.heard[usize::from(stream == Stream::Stderr)];
        *heard = heard.saturating_add(data.len() as u64);
        if data.len() > CHUNK_BYTES || *heard > self.limit {
            return Err(ContainerError::Protocol(format!(
                "it sent {} bytes of a tool's output, {heard} in all, expected at most {CHUNK_BYTES} and {}",
                data.len(),
                self.limit
            )));
        }
        match stream {
            Stream::Stderr => {
                let room = WORDS_BYTES.saturating_sub(self.words.len());
                self.words.extend_from_slice(&data[..data.len().min(room)]);
            }
            Stream::Stdout if self.is_fine() => {
                self.frames.extend_from_slice(data);
                self.take_frames(take).await?;
            }
            Stream::Stdout => {}
        }
        Ok(())
    }

    async fn take_frames(&mut self, take: &mut impl Take) -> Result<(), ContainerError> {
        loop {
            let report = match self.next_frame() {
                Ok(None) => return Ok(()),
                Ok(Some(report)) => report,
                Err(error) => {
                    self.problem = Some(error.to_string());
                    return Ok(());
                }
            };
            if let Err(problem) = take.take(report).await? {
                self.problem = Some(problem);
                return Ok(());
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<ToolReport>, FrameError> {
        let Some(prefix) = self.frames.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = frame_length(*prefix)?;
        let Some(payload) = self.frames[prefix.len()..].get(..length) else {
            return Ok(None);
        };
        let report = decode(payload)?;
        self.frames.advance(size_of::<u32>() + length);
        Ok(Some(report))
    }
}
