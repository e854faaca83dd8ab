//! The bytes of an object: batches of its chunks, one in hand while the next is on its way, with no consumer.

use std::{collections::VecDeque, ops::Range};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use object_store::Result;

use super::failed;
use crate::bus::objects::{Bucket, Chunk, Info};

/// The bytes of `range`, which lies within the object. A chunk that is missing ends them early, or leaves a hole that whoever knows
/// the digest notices; here it is an end.
pub(super) fn read(
    bucket: Bucket,
    info: Info,
    range: Range<u64>,
) -> BoxStream<'static, Result<Bytes>> {
    let reading = Reading {
        from: info.first_sequence(),
        at: 0,
        bucket,
        info,
        range,
        fetched: VecDeque::new(),
        is_found: false,
    };
    stream::try_unfold(reading, |mut reading| async move {
        Ok(reading.next().await?.map(|bytes| (bytes, reading)))
    })
    .boxed()
}

struct Reading {
    bucket: Bucket,
    info: Info,
    /// What is still to be given.
    range: Range<u64>,
    /// The sequence to go on at.
    from: u64,
    /// Where in the object the next chunk begins.
    at: u64,
    fetched: VecDeque<Chunk>,
    /// `from` is at the chunk in which the range begins, or before it and near.
    is_found: bool,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.range.is_empty() {
            if self.fetched.is_empty() && !self.fetch().await? {
                return Ok(None);
            }
            let Some(chunk) = self.fetched.pop_front() else {
                return Ok(None);
            };
            if let Some(bytes) = self.take(&chunk) {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The part of a chunk that is asked for.
    fn take(&mut self, chunk: &Chunk) -> Option<Bytes> {
        let begin = chunk.offset.unwrap_or(self.at);
        let end = begin + chunk.data.len() as u64;
        self.at = end;
        if begin > self.range.start {
            // What is before it is gone.
            self.range.start = self.range.end;
            return None;
        }
        let (start, stop) = (self.range.start, self.range.end.min(end));
        if stop <= start {
            return None;
        }
        self.range.start = stop;
        let within = |at: u64| usize::try_from(at - begin).expect("within a chunk");
        Some(chunk.data.slice(within(start)..within(stop)))
    }

    /// The next chunks; false where there are no more.
    async fn fetch(&mut self) -> Result<bool> {
        if self.info.chunks == 1 && self.from <= self.info.first_sequence() {
            let last = self.bucket.last_chunk(&self.info.nuid).await;
            self.fetched
                .extend(last.map_err(failed)?.map(|(chunk, _)| chunk));
        } else {
            if !self.is_found {
                self.find().await?;
            }
            let chunks = self.bucket.chunks(&self.info.nuid, self.from).await;
            self.fetched.extend(chunks.map_err(failed)?);
        }
        if self.fetched.is_empty() {
            let chunk = self
                .bucket
                .chunk_of_leader(&self.info.nuid, self.from)
                .await;
            self.fetched.extend(chunk.map_err(failed)?);
        }
        if let Some(last) = self.fetched.back() {
            self.from = last.sequence + 1;
        }
        Ok(!self.fetched.is_empty())
    }

    /// Brings `from` to where the range begins. Other objects may lie between the chunks, so that the `n`th after one is at least `n`
    /// sequences behind it: going there overshoots never.
    async fn find(&mut self) -> Result<()> {
        self.is_found = true;
        let options = self.info.options.as_ref();
        let size = options.and_then(|options| options.max_chunk_size);
        let Some(size) = size.filter(|size| *size > 0 && self.info.first_sequence() > 1) else {
            return Ok(());
        };
        let mut ahead = self.range.start / size;
        while ahead > 0 {
            let guess = self.from + ahead;
            let chunk = self
                .bucket
                .chunk_at(&self.info.nuid, guess)
                .await
                .map_err(failed)?;
            let Some((chunk, offset)) = chunk.and_then(|chunk| {
                let offset = chunk.offset?;
                Some((chunk, offset))
            }) else {
                return Ok(());
            };
            if offset > self.range.start {
                return Ok(());
            }
            self.from = chunk.sequence;
            self.at = offset;
            ahead = (self.range.start - offset) / size;
        }
        Ok(())
    }
}
