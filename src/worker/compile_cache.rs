//! The compile cache: what an earlier build of the same sources left stands for the next one, on whatever worker.
//!
//! An entry lies beside its tenant's blobs under the key of everything that a build can see; it names the packed work directory,
//! and has the compile stage as it was reported. A build that failed by its own exit code is kept too: its report is all of it.
//!
//! The invariant: the cache never decides whether a submission runs. What cannot be read, is not there any more or is not what it
//! says means a build as if there were no cache; and what a limit ended, what a signal ended and what failed of ours is never kept.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    blobs::{BlobError, Blobs},
    config,
    container::Packed,
    submission::{
        content::Blob,
        limits::Limits,
        names::{Digest, Tenant},
        output::Output,
        plan::{Plan, Source},
        result::{Isolation, Run, Verdict},
        units::ByteSize,
    },
};

/// Counts up when an entry, or what is packed, changes its form.
const VERSION: u32 = 1;

/// The most bytes of an entry. More than two outputs that are shown inline.
const MOST_ENTRY_BYTES: usize = 2 << 20;

/// Artifacts that are on their way to the store at a time.
const UPLOADS: usize = 4;

/// How long the cache is left alone after the store did not do its part.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// What a build is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

/// What an earlier build came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    version: u32,
    /// The packed work directory; none of a build that failed.
    pub(crate) artifact: Option<Blob>,
    /// The compile stage as it was reported.
    pub(crate) run: Run,
}

/// The compile cache as one worker uses it.
#[derive(Debug)]
pub(crate) struct CompileCache {
    is_on: bool,
    most: ByteSize,
    patience: Duration,
    isolation: Isolation,
    processor: Digest,
    uploads: Semaphore,
    /// Until when it is left alone.
    away: Mutex<Option<Instant>>,
    warned: AtomicBool,
}

/// The key of the compile stage of `plan`: a digest of all that the stage can see. `None` where there is none, or it is not to be
/// cached.
///
/// The isolation is part of it, since the report is of one, and so are the processor's features: a build for the machine that it
/// runs on (`-march=native`) is none for another.
fn key(
    tenant: &Tenant,
    image: &Digest,
    isolation: Isolation,
    processor: &Digest,
    plan: &Plan,
) -> Option<Key> {
    let stage = plan.compile.as_ref().filter(|_| plan.cache)?;
    let mut hash = Canonical::new();
    hash.number(u64::from(VERSION));
    hash.text(tenant.as_str());
    hash.text(image.as_str());
    hash.text(&format!("{isolation:?}"));
    hash.text(processor.as_str());
    hash.texts(&stage.argv);
    hash.number(stage.env.len() as u64);
    for (name, value) in &*stage.env {
        hash.text(name);
        hash.text(value);
    }
    hash.limits(&stage.limits);
    // Of the work directory, which is as large as the largest stage's.
    hash.number(plan.disk_bytes().0);
    hash.number(plan.inodes());
    hash.source(&stage.stdin);
    hash.number(u64::from(plan.archive.is_some()));
    if let Some(archive) = &plan.archive {
        hash.text(&format!("{:?}", archive.format));
        hash.number(u64::from(archive.strip_components));
        hash.source(&archive.source);
    }
    // Their order too: a directory is read in the order in which it was filled, and so are times.
    hash.number(plan.files.len() as u64);
    for file in &plan.files {
        hash.text(&file.path);
        hash.number(u64::from(file.executable));
        hash.source(&file.data);
    }
    Some(hash.key())
}

/// An encoding in which different things never look the same: every part has its length before it.
struct Canonical(Sha256);

impl Canonical {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn texts(&mut self, texts: &[String]) {
        self.number(texts.len() as u64);
        for text in texts {
            self.text(text);
        }
    }

    /// By its digest, so that it does not matter how the bytes came.
    fn source(&mut self, source: &Source) {
        match source {
            Source::Inline(data) => self.text(Digest::of(data).as_str()),
            Source::Blob(blob) => self.text(blob.digest.as_str()),
        }
    }

    fn limits(&mut self, limits: &Limits) {
        let Limits {
            cpu_time_us,
            extra_time_us,
            wall_time_us,
            memory_bytes,
            stack_bytes,
            processes,
            open_files,
            file_size_bytes,
            disk_bytes,
            inodes,
            output_bytes,
        } = limits;
        for time in [cpu_time_us, extra_time_us, wall_time_us] {
            self.number(time.0);
        }
        for size in [
            memory_bytes,
            stack_bytes,
            file_size_bytes,
            disk_bytes,
            output_bytes,
        ] {
            self.number(size.0);
        }
        for count in [processes, open_files, inodes] {
            self.number(*count);
        }
    }

    fn key(self) -> Key {
        Key(Digest::of_hash(self.0).hex().to_owned())
    }
}

/// Whether a build may stand for another one: it ended by its own exit code, and touched no limit.
pub(crate) fn may_be_kept(run: &Run, was_executed: bool) -> bool {
    let ended_by_itself = matches!(run.verdict, Verdict::Ok | Verdict::RuntimeError);
    ended_by_itself && was_executed && run.exit_code.is_some() && run.limits_hit.is_empty()
}

impl Entry {
    /// What a build came to.
    pub(crate) fn new(run: Run, artifact: Option<Blob>) -> Self {
        Self {
            version: VERSION,
            artifact,
            run,
        }
    }

    /// What it says, if it can be believed: a build that went well has an artifact, and one that failed none.
    fn read(data: &[u8]) -> Option<Self> {
        let entry: Self = serde_json::from_slice(data).ok()?;
        let is_whole = match entry.run.verdict {
            Verdict::Ok => entry.artifact.is_some(),
            Verdict::RuntimeError => entry.artifact.is_none(),
            _ => false,
        };
        (entry.version == VERSION && is_whole && may_be_kept(&entry.run, true)).then_some(entry)
    }

    /// All blobs that it refers to.
    fn blobs(&self) -> impl Iterator<Item = &Blob> {
        let outputs = [&self.run.stdout, &self.run.stderr].into_iter();
        let outputs = outputs.filter_map(|output: &Output| output.blob.as_ref());
        self.artifact.iter().chain(outputs)
    }
}

impl CompileCache {
    pub(crate) fn new(config: &config::Worker, isolation: Isolation) -> Self {
        Self {
            is_on: config.compile_cache,
            most: config.compile_cache_artifact_bytes,
            patience: config.compile_cache_timeout_us.duration(),
            isolation,
            processor: processor(),
            uploads: Semaphore::new(UPLOADS),
            away: Mutex::default(),
            warned: AtomicBool::new(false),
        }
    }

    /// The most bytes of a work directory that is kept.
    pub(crate) fn most(&self) -> ByteSize {
        self.most
    }

    /// How long what an earlier build left may take to come.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// What the compile stage of `plan` is known by, where it is to be looked for and kept.
    pub(crate) fn key(&self, tenant: &Tenant, image: &Digest, plan: &Plan) -> Option<Key> {
        if !self.is_on || self.is_left_alone() {
            return None;
        }
        key(tenant, image, self.isolation, &self.processor, plan)
    }

    /// What an earlier build came to, with all that it refers to there and kept.
    pub(crate) async fn find(&self, blobs: &Blobs, key: &Key) -> Option<Entry> {
        match timeout(self.patience, look(blobs, key)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                self.leave_alone(&error);
                None
            }
            Err(_) => {
                self.leave_alone(&format_args!("no answer within {:?}", self.patience));
                None
            }
        }
    }

    /// Keeps what a build came to. Where too many builds are on their way already, or the store is slow, it is not kept.
    pub(crate) async fn keep(&self, blobs: &Blobs, key: &Key, run: Run, packed: Option<Packed>) {
        let Ok(_permit) = self.uploads.try_acquire() else {
            return;
        };
        let kept = timeout(self.patience, async {
            let artifact = match &packed {
                Some(packed) => {
                    let blob = Blob {
                        digest: packed.digest.clone(),
                        size_bytes: ByteSize(packed.data.len()),
                    };
                    blobs.put(&blob, packed.data.reader(), &|_| ()).await?;
                    Some(blob)
                }
                None => None,
            };
            let entry = serde_json::to_vec(&Entry::new(run, artifact)).unwrap_or_default();
            if entry.is_empty() || entry.len() > MOST_ENTRY_BYTES {
                return Ok(());
            }
            blobs.put_named(&key.0, Bytes::from(entry)).await
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.leave_alone(&error),
            Err(_) => self.leave_alone(&format_args!("not stored within {:?}", self.patience)),
        }
    }

    fn is_left_alone(&self) -> bool {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        *away = away.filter(|until| *until > Instant::now());
        away.is_some()
    }

    /// No submission is to wait for a store that is away because it might have been built before.
    fn leave_alone(&self, problem: &dyn std::fmt::Display) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        *away = Some(Instant::now() + LEFT_ALONE);
        if self.warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(%problem, "builds are not cached for a while");
        } else {
            tracing::warn!(%problem, "builds are not cached for {LEFT_ALONE:?}");
        }
    }
}

/// The entry of `key`, with all that it refers to claimed.
async fn look(blobs: &Blobs, key: &Key) -> Result<Option<Entry>, BlobError> {
    let Some(data) = blobs.get_named(&key.0, MOST_ENTRY_BYTES).await? else {
        return Ok(None);
    };
    let Some(entry) = Entry::read(&data) else {
        return Ok(None);
    };
    let named: Vec<&Blob> = entry.blobs().collect();
    for blob in named {
        if !blobs.claim(blob).await? {
            return Ok(None);
        }
    }
    Ok(Some(entry))
}

/// What tells this machine's processor from those that cannot run what was built for it: its features.
fn processor() -> Digest {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let features = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let mut features: Vec<&str> = features.unwrap_or_default().split_whitespace().collect();
    features.sort_unstable();
    Digest::of(format!("{} {}", std::env::consts::ARCH, features.join(" ")).as_bytes())
}

#[cfg(test)]
mod tests;
