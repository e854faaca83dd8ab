//! What every store keeps.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use envicutor::{
    blobs::{BlobError, Put},
    submission::units::ByteSize,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use crate::bed::{Bed, PART, blob_of, bytes, other_tenant, put, read};

/// Bytes that take two parts and a little.
const LARGE: usize = 2 * PART + 12_345;

pub async fn what_was_put_is_got_back_whatever_its_size(bed: &Bed) {
    let blobs = bed.blobs();
    for (seed, size) in [0, 1, 600_000, PART, PART + 1, LARGE]
        .into_iter()
        .enumerate()
    {
        let (data, blob) = bytes(size, u8::try_from(seed).expect("few"));
        assert!(!blobs.claim(&blob).await.expect("asked"), "{size}");
        let done = put(&blobs, &blob, &data).await.expect("stored");
        assert_eq!(done, Put::Uploaded, "{size}");
        assert!(blobs.claim(&blob).await.expect("asked"), "{size}");
        let got = read(&blobs, &blob).await.expect("read");
        assert!(got == data, "{size}");
    }
    let small = blobs.put_bytes(Bytes::from_static(b"few")).await;
    let small = small.expect("stored");
    assert_eq!(read(&blobs, &small).await.expect("read"), b"few");
}

pub async fn what_is_there_is_not_sent_again(bed: &Bed) {
    let blobs = bed.patient();
    let (data, blob) = bytes(1_000, 1);
    put(&blobs, &blob, &data).await.expect("stored");
    let before = bed.upload(&blob).await.1;
    // A source that is read would fail.
    let never = Breaking {
        data: Bytes::new(),
        at: 0,
        breaks_at: 0,
    };
    let again = blobs.put(&blob, never, &|_| ()).await.expect("there");
    assert_eq!(again, Put::AlreadyThere);
    assert_eq!(bed.upload(&blob).await.1, before);
}

pub async fn other_bytes_than_the_named_ones_are_refused_and_never_visible(bed: &Bed) {
    let blobs = bed.blobs();
    for size in [1_000, LARGE] {
        let (data, blob) = bytes(size, 1);
        let mut other = data.to_vec();
        other[size / 2] ^= 1;
        let longer = [&data[..], b"x"].concat();
        for wrong in [&other[..], &data[..size - 1], &longer[..]] {
            let error = put(&blobs, &blob, wrong).await.expect_err("refused");
            assert!(matches!(error, BlobError::Corrupt { .. }), "{error}");
            assert!(!blobs.claim(&blob).await.expect("asked"));
            let missing = read(&blobs, &blob).await.expect_err("not there");
            assert!(matches!(missing, BlobError::Missing { .. }), "{missing}");
        }
    }
}

pub async fn corrupt_bytes_are_an_error_before_the_end_is_reached(bed: &Bed) {
    let blobs = bed.blobs();
    for size in [1_000, LARGE] {
        let (data, blob) = bytes(size, 1);
        put(&blobs, &blob, &data).await.expect("stored");
        bed.damage(&blob, |bytes| bytes[size / 3] ^= 0x80).await;
        let mut chunks = blobs.get(&blob).await.expect("begun");
        let last = loop {
            match chunks.next().await {
                Some(Ok(_)) => {}
                last => break last,
            }
        };
        let error = last.expect("an end that is no end").expect_err("corrupt");
        assert!(matches!(error, BlobError::Corrupt { .. }), "{error}");
        assert!(chunks.next().await.is_none(), "an error is the last item");
    }
}

pub async fn a_truncated_blob_is_an_error_and_is_repaired_by_an_upload(bed: &Bed) {
    let blobs = bed.blobs();
    let (data, blob) = bytes(LARGE, 1);
    put(&blobs, &blob, &data).await.expect("stored");
    bed.damage(&blob, |bytes| bytes.truncate(LARGE - 1)).await;
    let error = read(&blobs, &blob).await.expect_err("truncated");
    assert!(matches!(error, BlobError::Corrupt { .. }), "{error}");
    // It is not what is claimed, so it is sent again.
    assert!(!blobs.claim(&blob).await.expect("asked"));
    let done = put(&blobs, &blob, &data).await.expect("stored");
    assert_eq!(done, Put::Uploaded);
    assert!(read(&blobs, &blob).await.expect("read") == data);
}

pub async fn what_was_never_put_is_missing(bed: &Bed) {
    let blobs = bed.blobs();
    let (_, blob) = bytes(10, 1);
    assert!(!blobs.claim(&blob).await.expect("asked"));
    let error = read(&blobs, &blob).await.expect_err("not there");
    assert!(matches!(error, BlobError::Missing { digest } if digest == blob.digest));
    assert!(blobs.head(&blob.digest).await.expect("asked").is_none());
}

/// A source that fails after some bytes.
struct Breaking {
    data: Bytes,
    at: usize,
    breaks_at: usize,
}

impl AsyncRead for Breaking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.at == self.breaks_at {
            return Poll::Ready(Err(io::Error::other("it broke off")));
        }
        let most = buffer.remaining().min(self.breaks_at - self.at);
        buffer.put_slice(&self.data[self.at..self.at + most]);
        self.at += most;
        Poll::Ready(Ok(()))
    }
}

pub async fn an_upload_that_breaks_off_leaves_nothing_visible(bed: &Bed) {
    let blobs = bed.blobs();
    let (data, blob) = bytes(LARGE, 1);
    for breaks_at in [100, PART + 100, LARGE] {
        let source = Breaking {
            data: data.clone(),
            at: 0,
            breaks_at,
        };
        let error = blobs.put(&blob, source, &|_| ()).await;
        let error = error.expect_err("it broke off");
        assert!(matches!(error, BlobError::Source { .. }), "{error}");
        assert!(!blobs.claim(&blob).await.expect("asked"));
    }
    // Dropped in the middle, as by whoever is cancelled.
    let slow = tokio::io::empty()
        .chain(&data[..PART + 100])
        .chain(tokio_stalled());
    let cut = tokio::time::timeout(Duration::from_millis(500), blobs.put(&blob, slow, &|_| ()));
    cut.await.expect_err("it stands still");
    assert!(!blobs.claim(&blob).await.expect("asked"));
    // And once more, from the start, by whoever can give it again.
    let mut tries = 0;
    let open = || {
        tries += 1;
        std::future::ready(Ok(io::Cursor::new(data.clone())))
    };
    let done = blobs.put_again(&blob, open, &|_| ()).await.expect("stored");
    assert_eq!((done, tries), (Put::Uploaded, 1));
    assert!(read(&blobs, &blob).await.expect("read") == data);
}

/// What never gives a byte, and never ends.
fn tokio_stalled() -> impl AsyncRead + Send + Unpin {
    let (kept, stalled) = tokio::io::duplex(1);
    // Leaked: closing it would be an end.
    std::mem::forget(kept);
    stalled
}

pub async fn two_uploads_of_one_blob_at_once_both_succeed(bed: &Bed) {
    let (one, two) = (bed.patient(), bed.patient());
    for size in [1_000, LARGE] {
        let (data, blob) = bytes(size, 1);
        let (first, second) = tokio::join!(put(&one, &blob, &data), put(&two, &blob, &data));
        let (first, second) = (first.expect("stored"), second.expect("stored"));
        assert!(
            first == Put::Uploaded || second == Put::Uploaded,
            "{first:?} {second:?}"
        );
        assert!(read(&one, &blob).await.expect("read") == data);
    }
}

pub async fn a_digest_is_no_key_to_another_tenants_blob(bed: &Bed) {
    let (ours, theirs) = (bed.blobs(), bed.store.of(&other_tenant()));
    let (data, blob) = bytes(1_000, 1);
    put(&ours, &blob, &data).await.expect("stored");
    ours.put_named("key", data.clone()).await.expect("stored");
    assert!(!theirs.claim(&blob).await.expect("asked"));
    let error = read(&theirs, &blob).await.expect_err("not theirs");
    assert!(matches!(error, BlobError::Missing { .. }), "{error}");
    assert!(
        theirs
            .get_named("key", 1 << 20)
            .await
            .expect("asked")
            .is_none()
    );
    let all: Vec<_> = theirs.uploads().try_collect().await.expect("listed");
    assert!(all.is_empty(), "{all:?}");
    // They send it themselves, and are told nothing of ours.
    let done = put(&theirs, &blob, &data).await.expect("stored");
    assert_eq!(done, Put::Uploaded);
}

pub async fn any_range_of_a_blob_can_be_read(bed: &Bed) {
    let blobs = bed.blobs();
    let ((data, blob), (more, other)) = (bytes(LARGE, 1), bytes(LARGE, 2));
    // At once, so that what lies between them is not theirs.
    let (one, two) = tokio::join!(put(&blobs, &blob, &data), put(&blobs, &other, &more));
    one.expect("stored");
    two.expect("stored");
    for (blob, data) in [(&blob, &data), (&other, &more)] {
        let (objects, location) = bed.upload(blob).await;
        for (start, end) in [
            (0, 1),
            (0, LARGE),
            (1, 600_000),
            (524_287, 524_289),
            (PART - 1, PART + 1),
            (LARGE - 1, LARGE),
            (2 * PART + 7, LARGE - 3),
        ] {
            let got = objects.get_range(&location, start as u64..end as u64).await;
            assert!(got.expect("read") == data[start..end], "{start}..{end}");
        }
    }
}

pub async fn an_entry_is_read_as_it_was_written_last(bed: &Bed) {
    let blobs = bed.blobs();
    assert_eq!(blobs.get_named("k-1", 100).await.expect("asked"), None);
    for text in ["one", "", "three"] {
        let data = Bytes::from_static(text.as_bytes());
        blobs.put_named("k-1", data.clone()).await.expect("written");
        assert_eq!(blobs.get_named("k-1", 100).await.expect("read"), Some(data));
    }
    let error = blobs.get_named("k-1", 4).await.expect_err("too large");
    assert!(
        matches!(
            error,
            BlobError::TooLarge {
                size_bytes: ByteSize(5),
                most: ByteSize(4)
            }
        ),
        "{error}"
    );
    let entries: Vec<_> = blobs.entries().try_collect().await.expect("listed");
    assert_eq!(entries.len(), 1);
}

pub async fn a_claim_between_look_and_removal_wins(bed: &Bed) {
    // For it everything is old enough to be removed, and to be claimed anew.
    let blobs = bed.blobs();
    for size in [1_000, LARGE] {
        let (data, blob) = bytes(size, 1);
        put(&blobs, &blob, &data).await.expect("stored");
        let seen = blobs
            .head(&blob.digest)
            .await
            .expect("asked")
            .expect("there");
        assert!(blobs.claim(&blob).await.expect("asked"), "it is there");
        blobs.remove(&seen).await.expect("asked");
        assert!(read(&blobs, &blob).await.expect("still there") == data);
        // A deduplicating upload claims too.
        let seen = blobs
            .head(&blob.digest)
            .await
            .expect("asked")
            .expect("there");
        let again = put(&blobs, &blob, &data).await.expect("there");
        assert_eq!(again, Put::AlreadyThere);
        blobs.remove(&seen).await.expect("asked");
        assert!(read(&blobs, &blob).await.expect("still there") == data);
    }
}

pub async fn what_nobody_claims_is_removed(bed: &Bed) {
    let blobs = bed.blobs();
    let (data, blob) = bytes(LARGE, 1);
    put(&blobs, &blob, &data).await.expect("stored");
    let seen = blobs
        .head(&blob.digest)
        .await
        .expect("asked")
        .expect("there");
    assert!(blobs.remove(&seen).await.expect("removed"));
    assert!(!blobs.claim(&blob).await.expect("asked"));
    let error = read(&blobs, &blob).await.expect_err("removed");
    assert!(matches!(error, BlobError::Missing { .. }), "{error}");
    let done = put(&blobs, &blob, &data).await.expect("stored anew");
    assert_eq!(done, Put::Uploaded);
    assert!(read(&blobs, &blob).await.expect("read") == data);
}

pub async fn the_list_shows_every_blob_once(bed: &Bed) {
    let blobs = bed.patient();
    let mut expected = Vec::new();
    for seed in 0..20 {
        let (data, blob) = bytes(100 + usize::from(seed), seed);
        put(&blobs, &blob, &data).await.expect("stored");
        expected.push((blob.digest, blob.size_bytes));
    }
    blobs
        .put_named("no-blob", Bytes::new())
        .await
        .expect("written");
    let listed = blobs.uploads().try_collect::<Vec<_>>().await;
    let mut listed: Vec<_> = listed
        .expect("listed")
        .into_iter()
        .map(|upload| {
            assert!(upload.age() < Duration::from_mins(10), "{upload:?}");
            (upload.digest.expect("a blob's"), upload.size_bytes)
        })
        .collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

pub async fn progress_ends_at_the_size(bed: &Bed) {
    let blobs = bed.patient();
    for size in [0, 1_000, LARGE] {
        let (data, _) = bytes(size, 1);
        let blob = blob_of(&data);
        for _ in 0..2 {
            let seen = AtomicU64::new(u64::MAX);
            let note = |stored| {
                let before = seen.swap(stored, Ordering::Relaxed);
                assert!(before == u64::MAX || before <= stored, "{before} {stored}");
            };
            blobs.put(&blob, &data[..], &note).await.expect("stored");
            assert_eq!(seen.load(Ordering::Relaxed), size as u64);
        }
    }
}
