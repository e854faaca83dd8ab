//! [`ObjectStore`] over a bucket of NATS, in JetStream's stock layout.
//!
//! The `e_tag` of an object is the sequence of its description: every write is a compare-and-set on it, so that of two writers of one
//! name one loses, and says so or tries again. What a loser stored, and what an overwritten object had, is emptied at once and removed
//! by the collector.

mod multipart;
mod read;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, path::Path,
};

use tokio::time::sleep;

use self::multipart::Parts;
use crate::bus::{
    api::{ApiError, code},
    objects::{Bucket, Entry, Info, Upload},
    outage::{Backoff, Outage as _},
};

/// How often a write that lost to another one is made again.
const RACES: usize = 16;

/// The objects of a bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsObjects {
    bucket: Bucket,
}

impl fmt::Display for NatsObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nats://{}", self.bucket.name())
    }
}

impl NatsObjects {
    /// The objects of `bucket`, which `envicutor nats apply` made: nothing is created here.
    pub fn new(bucket: Bucket) -> Self {
        Self { bucket }
    }

    /// The bucket itself.
    pub(super) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// What an object is, where it is there.
    pub(super) async fn entry(&self, location: &Path) -> Result<Option<Entry>> {
        let entry = self.bucket.entry(location.as_ref()).await.map_err(failed)?;
        Ok(entry.filter(|entry| !entry.info.deleted))
    }

    async fn existing(&self, location: &Path) -> Result<Entry> {
        let entry = self.entry(location).await?;
        entry.ok_or_else(|| Error::NotFound {
            path: location.to_string(),
            source: format!("it is not in the bucket {}", self.bucket.name()).into(),
        })
    }

    /// Makes what was uploaded visible, as `mode` allows; else it is removed again.
    async fn publish(&self, upload: &Upload, name: &Path, mode: &PutMode) -> Result<PutResult> {
        let info = upload.finish(name.as_ref());
        let published = self.describe(&info, name, mode).await;
        // After any other error the description may still come about.
        if let Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) = published {
            self.clear(upload.nuid()).await;
        }
        published
    }

    async fn describe(&self, info: &Info, name: &Path, mode: &PutMode) -> Result<PutResult> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        for _ in 0..RACES {
            let before = self.bucket.entry(name.as_ref()).await.map_err(failed)?;
            let expected = before.as_ref().map_or(0, |entry| entry.sequence);
            if before
                .as_ref()
                .is_some_and(|entry| entry.info.nuid == info.nuid)
            {
                // It was stored, and the answer lost.
                return Ok(put_result(expected));
            }
            let is_there = before.as_ref().is_some_and(|entry| !entry.info.deleted);
            check(mode, name, is_there, expected)?;
            match self.bucket.describe(info, expected).await {
                Ok(sequence) => {
                    if let Some(before) = before.filter(|before| !before.info.nuid.is_empty()) {
                        self.clear(&before.info.nuid).await;
                    }
                    return Ok(put_result(sequence));
                }
                // It may have happened, or lost to another one.
                Err(error) if error.is_outage() || is_lost_race(&error) => {
                    sleep(backoff.next_wait()).await;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(precondition(name, "others write it all the time"))
    }

    /// Removes chunks that nothing describes. What fails is the collector's.
    async fn clear(&self, nuid: &str) {
        if let Err(error) = self.bucket.clear(nuid).await {
            tracing::debug!(%error, nuid, "chunks are left behind");
        }
    }

    /// Removes an object, where its description is still the one with `sequence`.
    pub(super) async fn remove(&self, nuid: &str, sequence: u64) -> Result<bool> {
        if !self.bucket.forget(sequence).await.map_err(failed)? {
            return Ok(false);
        }
        if !nuid.is_empty() {
            self.bucket.purge(nuid).await.map_err(failed)?;
        }
        Ok(true)
    }

    /// Writes the description of what was `seen` anew; false where it is there no more. One that another one wrote anew is as young.
    pub(super) async fn renew(&self, seen: &ObjectMeta) -> Result<bool> {
        let Some(entry) = self.entry(&seen.location).await? else {
            return Ok(false);
        };
        if !is_seen(&entry, seen) {
            return Ok(entry.info.size == seen.size);
        }
        match self.bucket.describe(&entry.info, entry.sequence).await {
            Ok(_) => Ok(true),
            // Another one claimed it, or it was removed.
            Err(error) if is_lost_race(&error) => Ok(self.entry(&seen.location).await?.is_some()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Removes what was `seen`, unless its description was written since.
    pub(super) async fn remove_seen(&self, seen: &ObjectMeta) -> Result<bool> {
        match self.entry(&seen.location).await? {
            Some(entry) if is_seen(&entry, seen) => {
                self.remove(&entry.info.nuid, entry.sequence).await
            }
            _ => Ok(false),
        }
    }

    async fn delete_one(&self, location: &Path) -> Result<()> {
        for _ in 0..RACES {
            let entry = self.existing(location).await?;
            if self.remove(&entry.info.nuid, entry.sequence).await? {
                return Ok(());
            }
        }
        Err(precondition(location, "others write it all the time"))
    }
}

#[async_trait]
impl ObjectStore for NatsObjects {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let before = self.entry(location).await?;
        let sequence = before.as_ref().map_or(0, |entry| entry.sequence);
        check(&options.mode, location, before.is_some(), sequence)?;
        let mut upload = self.bucket.upload();
        for data in payload {
            if let Err(error) = upload.write(data).await {
                self.clear(upload.nuid()).await;
                return Err(failed(error));
            }
        }
        self.publish(&upload, location, &options.mode).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        // `object_store` has no mode for uploads in parts; ours comes among the extensions.
        let mode = options.extensions.get::<PutMode>().cloned();
        let mode = mode.unwrap_or(PutMode::Overwrite);
        let upload = self.bucket.upload();
        let parts = Parts::new(self.clone(), location.clone(), mode, upload);
        Ok(Box::new(parts))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let entry = self.existing(location).await?;
        let meta = meta(&entry).ok_or_else(|| Error::NotSupported {
            source: format!("{location} is a link").into(),
        })?;
        options.check_preconditions(&meta)?;
        let size = meta.size;
        let range = match &options.range {
            None => 0..size,
            Some(range) => range.as_range(size).map_err(|error| Error::Generic {
                store: "NATS",
                source: error.to_string().into(),
            })?,
        };
        let bytes = if options.head || range.is_empty() {
            stream::empty().boxed()
        } else {
            read::read(self.bucket.clone(), entry.info, range.clone())
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(bytes),
            meta,
            range,
            attributes: Attributes::default(),
            extensions: Extensions::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let objects = self.clone();
        let delete = move |location: Path| {
            let objects = objects.clone();
            async move {
                match objects.delete_one(&location).await {
                    Ok(()) | Err(Error::NotFound { .. }) => Ok(location),
                    Err(error) => Err(error),
                }
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let bucket = self.bucket.clone();
        let entries = stream::once(async move { bucket.entries().await.map_err(failed) });
        entries
            .map_ok(|entries| {
                stream::try_unfold(entries, |mut entries| async move {
                    let next = entries.next().await.map_err(failed)?;
                    Ok(next.map(|entry| (entry, entries)))
                })
            })
            .try_flatten()
            .try_filter_map(move |entry| {
                let below = |meta: &ObjectMeta| {
                    let mut rest = meta.location.prefix_match(&prefix);
                    rest.as_mut().is_some_and(|rest| rest.next().is_some())
                };
                std::future::ready(Ok(meta(&entry).filter(below)))
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let mut all = self.list(Some(&prefix));
        let (mut folders, mut objects) = (std::collections::BTreeSet::new(), Vec::new());
        while let Some(meta) = all.try_next().await? {
            let mut rest = meta.location.prefix_match(&prefix).into_iter().flatten();
            let first = rest
                .next()
                .map(|part| prefix.clone().join(part.as_ref().to_owned()));
            match (first, rest.next()) {
                (Some(folder), Some(_)) => drop(folders.insert(folder)),
                _ => objects.push(meta.clone()),
            }
        }
        Ok(ListResult {
            common_prefixes: folders.into_iter().collect(),
            objects,
            extensions: Extensions::default(),
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        let mut bytes = self
            .get_opts(from, GetOptions::default())
            .await?
            .into_stream();
        let mut upload = self.bucket.upload();
        while let Some(data) = bytes.next().await {
            let written = match data {
                Ok(data) => upload.write(data).await.map_err(failed),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                self.clear(upload.nuid()).await;
                return Err(error);
            }
        }
        self.publish(&upload, to, &mode).await.map(|_| ())
    }
}

/// Whether an object that `is_there`, with `sequence`, may be written in this mode.
fn check(mode: &PutMode, name: &Path, is_there: bool, sequence: u64) -> Result<()> {
    match mode {
        PutMode::Create if is_there => Err(Error::AlreadyExists {
            path: name.to_string(),
            source: format!("its description has the sequence {sequence}").into(),
        }),
        PutMode::Update(version) => {
            let is_same = is_there && version.e_tag.as_deref() == Some(&sequence.to_string());
            if is_same {
                Ok(())
            } else {
                Err(precondition(name, "another one was written meanwhile"))
            }
        }
        PutMode::Create | PutMode::Overwrite => Ok(()),
    }
}

fn is_seen(entry: &Entry, seen: &ObjectMeta) -> bool {
    seen.e_tag.as_deref() == Some(&entry.sequence.to_string())
}

fn is_lost_race(error: &ApiError) -> bool {
    error.code().is_some_and(code::is_lost_race)
}

/// What `object_store` knows of an object; `None` of a link.
pub(super) fn meta(entry: &Entry) -> Option<ObjectMeta> {
    let options = entry.info.options.as_ref();
    if options.is_some_and(|options| options.link.is_some()) {
        return None;
    }
    Some(ObjectMeta {
        location: Path::parse(&entry.info.name).ok()?,
        last_modified: std::time::SystemTime::from(entry.stored_at).into(),
        size: entry.info.size,
        e_tag: Some(entry.sequence.to_string()),
        version: None,
    })
}

fn put_result(sequence: u64) -> PutResult {
    PutResult {
        e_tag: Some(sequence.to_string()),
        version: None,
        extensions: Extensions::default(),
    }
}

fn precondition(name: &Path, problem: &str) -> Error {
    Error::Precondition {
        path: name.to_string(),
        source: problem.into(),
    }
}

/// What NATS said, as an error of the store.
pub(super) fn failed(error: ApiError) -> Error {
    Error::Generic {
        store: "NATS",
        source: error.into(),
    }
}
