//! What a result names comes back: whole outputs and the files that were collected, each held against its digest before it has its
//! name. The names were chosen by the program that ran, and are not trusted.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{
    Client, ClientError,
    place::{Directory, PlaceError},
    upload::SMALL,
};
use crate::{
    blobs::Blobs,
    submission::{
        content::Blob,
        names::Tenant,
        output::Output,
        result::{Run, SubmissionResult},
        units::ByteSize,
    },
};

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: ByteSize,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiving {
    /// So many bytes are written.
    pub received: u64,
    /// Of so many.
    pub all: u64,
}

/// Is told how far a fetch is, from any thread, and often: it should be quick.
pub type OnReceiving<'a> = dyn Fn(Receiving) + Send + Sync + 'a;

/// How much of everything that is fetched is written.
struct Tally<'a> {
    received: AtomicU64,
    all: u64,
    on: &'a OnReceiving<'a>,
}

impl Tally<'_> {
    fn add(&self, bytes: usize) {
        let bytes = bytes as u64;
        let received = self.received.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all = self.all;
        (self.on)(Receiving { received, all });
    }
}

/// What is to be written, and where.
struct Wanted<'a> {
    name: String,
    executable: bool,
    held: Held<'a>,
}

/// Where the bytes are.
enum Held<'a> {
    /// In the store.
    Blob(&'a Blob),
    /// In the result.
    Inline(&'a [u8]),
}

impl Held<'_> {
    fn size_bytes(&self) -> ByteSize {
        match self {
            Self::Blob(blob) => blob.size_bytes,
            Self::Inline(data) => ByteSize(data.len() as u64),
        }
    }
}

impl Client {
    /// Writes what `blob` of `tenant` holds. What was written counts only when this ends well: other bytes than the named ones are
    /// an error, after they were written.
    pub async fn download(
        &self,
        tenant: &Tenant,
        blob: &Blob,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), ClientError> {
        let path = Path::new("what is downloaded");
        copy(&self.store.of(tenant), blob, to, path, &|_| ()).await
    }

    /// Writes what `result` has to `dir`, which is made where it is missing: the collected files under their paths, and what each
    /// stage wrote, whole, as `stdout` and `stderr` (of a compile stage `compile.stdout`; of several runs `1.stdout`, …), with
    /// underscores after them where a collected file has that name. Empty outputs are left out.
    ///
    /// Nothing is written outside of `dir`, no link in it is followed, and what is there is an error before anything is written,
    /// unless `force` says that it is replaced.
    pub async fn fetch(
        &self,
        result: &SubmissionResult,
        dir: &Path,
        force: bool,
    ) -> Result<Vec<Fetched>, ClientError> {
        self.fetch_telling(result, dir, force, &|_| ()).await
    }

    /// [`fetch`](Self::fetch) that tells how far it is.
    pub async fn fetch_telling(
        &self,
        result: &SubmissionResult,
        dir: &Path,
        force: bool,
        on: &OnReceiving<'_>,
    ) -> Result<Vec<Fetched>, ClientError> {
        let directory = Directory::open(dir)?;
        let wanted = wanted(result);
        for file in &wanted {
            if directory.has(&file.name)? && !force {
                let path = dir.join(&file.name);
                return Err(PlaceError::Exists { path }.into());
            }
        }
        let sizes = wanted.iter().map(|file| file.held.size_bytes().0);
        let tally = Tally {
            received: AtomicU64::new(0),
            all: sizes.fold(0, u64::saturating_add),
            on,
        };
        let writer = Writer {
            blobs: self.store.of(&result.tenant),
            directory,
            force,
            tally,
        };
        let is_small = |file: &Wanted<'_>| file.held.size_bytes() <= SMALL;
        let (small, large): (Vec<_>, Vec<_>) = wanted.into_iter().partition(is_small);
        let mut writing = Vec::new();
        for file in &small {
            writing.push(writer.write(file));
        }
        let writing = stream::iter(writing).buffered(self.config.transfers);
        let mut fetched: Vec<Fetched> = writing.try_collect().await?;
        for file in &large {
            fetched.push(writer.write(file).await?);
        }
        fetched.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(fetched)
    }
}

/// Everything that `result` has bytes of.
fn wanted(result: &SubmissionResult) -> Vec<Wanted<'_>> {
    let collected = result.collected.iter().map(|file| Wanted {
        name: file.path.clone(),
        executable: file.executable,
        held: Held::Blob(&file.blob),
    });
    let mut wanted: Vec<Wanted<'_>> = collected.collect();
    for (name, output) in outputs(result) {
        wanted.push(Wanted {
            name: free(name, result),
            executable: false,
            held: match &output.blob {
                Some(blob) => Held::Blob(blob),
                None => Held::Inline(&output.data),
            },
        });
    }
    wanted
}

/// What the stages wrote, each with its name.
fn outputs(result: &SubmissionResult) -> Vec<(String, &Output)> {
    let mut named: Vec<(String, &Run)> = Vec::new();
    named.extend(
        result
            .compile
            .iter()
            .map(|run| ("compile.".to_owned(), run)),
    );
    match result.runs.as_slice() {
        [run] => named.push((String::new(), run)),
        runs => {
            let runs = runs.iter().enumerate();
            named.extend(runs.map(|(number, run)| (format!("{}.", number + 1), run)));
        }
    }
    let mut outputs = Vec::new();
    for (before, run) in named {
        outputs.push((format!("{before}stdout"), &run.stdout));
        outputs.push((format!("{before}stderr"), &run.stderr));
    }
    outputs
        .into_iter()
        .filter(|(_, output)| output.size_bytes.0 > 0)
        .collect()
}

/// `name`, or one like it that no collected file has, nor a directory of one.
fn free(mut name: String, result: &SubmissionResult) -> String {
    let is_taken = |name: &str| {
        let mut collected = result.collected.iter();
        collected.any(|file| file.path.split('/').next() == Some(name))
    };
    while is_taken(&name) {
        name.push('_');
    }
    name
}

/// Where everything goes.
struct Writer<'a> {
    blobs: Blobs,
    directory: Directory,
    force: bool,
    tally: Tally<'a>,
}

impl Writer<'_> {
    async fn write(&self, wanted: &Wanted<'_>) -> Result<Fetched, ClientError> {
        let (place, file) = self.directory.create(&wanted.name, wanted.executable)?;
        let mut file = tokio::fs::File::from_std(file);
        let on = |bytes| self.tally.add(bytes);
        match wanted.held {
            Held::Blob(blob) => copy(&self.blobs, blob, &mut file, place.path(), &on).await?,
            Held::Inline(data) => {
                let written = async {
                    file.write_all(data).await?;
                    file.flush().await
                };
                let written = written.await;
                written.map_err(|source| unwritable(place.path(), source))?;
                on(data.len());
            }
        }
        Ok(Fetched {
            size_bytes: wanted.held.size_bytes(),
            path: place.keep(self.force)?,
        })
    }
}

/// Writes a blob to `to`, which errors call `path`; `on` is told of every piece.
async fn copy(
    blobs: &Blobs,
    blob: &Blob,
    to: &mut (impl AsyncWrite + Unpin),
    path: &Path,
    on: &(dyn Fn(usize) + Send + Sync),
) -> Result<(), ClientError> {
    let mut chunks = blobs.get(blob).await?;
    while let Some(chunk) = chunks.try_next().await? {
        let written = to.write_all(&chunk).await;
        written.map_err(|source| unwritable(path, source))?;
        on(chunk.len());
    }
    let flushed = to.flush().await;
    Ok(flushed.map_err(|source| unwritable(path, source))?)
}

fn unwritable(path: &Path, source: std::io::Error) -> PlaceError {
    PlaceError::Write {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::submission::names::Digest;

    fn result(runs: usize, collected: &[&str]) -> SubmissionResult {
        let output = json!({"text": "x", "size_bytes": 1, "truncated": false, "blob": null});
        let empty = json!({"text": "", "size_bytes": 0, "truncated": false, "blob": null});
        let run = json!({
            "name": null, "verdict": "ok", "exit_code": 0, "signal": null, "limits_hit": [], "cpu_user_us": 0,
            "cpu_system_us": 0, "wall_us": 0, "memory_peak_bytes": 0, "memory_from": null, "processes_peak": 0,
            "stdout": output, "stderr": empty,
        });
        let digest = Digest::of(b"x");
        let collected = collected.iter().map(|path| {
            json!({"path": path, "size_bytes": 1, "executable": false,
                   "blob": {"digest": digest, "size_bytes": 1}})
        });
        let collected: Vec<_> = collected.collect();
        let mut compile = run.clone();
        (compile["stdout"], compile["stderr"]) = (empty, output);
        let at = "2026-01-02T03:04:05Z";
        serde_json::from_value(json!({
            "tenant": "default", "id": "a1", "generation": 0, "attempt": 1, "outcome": "finished", "verdict": "ok",
            "runtime": null, "image": null, "submission_digest": digest, "isolation": null, "start": null,
            "worker": "w", "compile": compile, "runs": vec![run; runs], "collected": collected, "errors": [],
            "failure": null, "published_at": at, "started_at": at, "finished_at": at, "queued_us": 0, "labels": {},
        }))
        .expect("a result")
    }

    fn names(runs: usize, collected: &[&str]) -> Vec<String> {
        let result = result(runs, collected);
        let wanted = wanted(&result).into_iter();
        wanted.map(|file| file.name).collect()
    }

    #[test]
    fn outputs_are_named_by_their_stages() {
        assert_eq!(names(1, &[]), ["compile.stderr", "stdout"]);
        assert_eq!(names(2, &[]), ["compile.stderr", "1.stdout", "2.stdout"]);
    }

    #[test]
    fn no_output_stands_in_a_collected_files_way() {
        assert_eq!(
            names(1, &["stdout", "stdout_/x", "a"]),
            ["stdout", "stdout_/x", "a", "compile.stderr", "stdout__"]
        );
    }
}
