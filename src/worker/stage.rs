//! Step 5: what a plan needs of the object store lies on this machine's disk before its sandbox is taken, or what an earlier build of
//! the same sources left does instead of them.
//!
//! The invariant: everything that was staged stays until the submission ends, so that no run of it waits for the store, or fails by it.

use std::collections::HashMap;

use futures_util::{
    FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _, future::BoxFuture, stream,
};
use tokio::time::timeout;

use super::{
    Fleet,
    compile_cache::{Entry, Key},
    trouble::Trouble,
};
use crate::{
    blobs::{
        BlobError, Blobs,
        cache::{self, Cached, Incoming, Origin, Room},
    },
    container::Feed,
    submission::{
        content::Blob,
        names::{Digest, Tenant},
        plan::{Plan, Source},
        result::Verdict,
    },
};

/// What was staged for a submission.
pub(crate) struct Staged {
    blobs: HashMap<Digest, Cached>,
    /// What an earlier build came to, which stands for this one.
    pub(crate) build: Option<Entry>,
    /// Under what a build is to be kept.
    pub(crate) key: Option<Key>,
}

impl Staged {
    /// For a plan that holds all that it needs.
    pub(crate) fn nothing() -> Self {
        Self {
            blobs: HashMap::new(),
            build: None,
            key: None,
        }
    }

    /// The bytes of `source`.
    pub(crate) fn feed<'a>(&'a self, source: &'a Source) -> Result<Feed<'a>, Unstaged> {
        match source {
            Source::Inline(data) => Ok(Feed::Slice(data)),
            Source::Blob(blob) => self.blob(blob),
        }
    }

    /// The bytes of `blob`.
    pub(crate) fn blob<'a>(&'a self, blob: &Blob) -> Result<Feed<'a>, Unstaged> {
        let staged = self.blobs.get(&blob.digest);
        let staged = staged.ok_or_else(|| Unstaged(blob.digest.clone()))?;
        Ok(Feed::Path(staged.path(), staged.size().0))
    }
}

/// A bug: what is used was not staged.
#[derive(Debug, thiserror::Error)]
#[error("{0} was not staged")]
pub(crate) struct Unstaged(Digest);

/// Where a tenant's blobs come from.
struct Shelf<'a> {
    tenant: &'a Tenant,
    blobs: &'a Blobs,
}

impl Origin for Shelf<'_> {
    fn tenant(&self) -> &Tenant {
        self.tenant
    }

    fn read<'a>(&'a self, blob: &'a Blob) -> BoxFuture<'a, Result<Incoming<'a>, BlobError>> {
        Box::pin(async move { Ok(self.blobs.get(blob).await?.boxed()) })
    }
}

/// Stages `plan` of `tenant` with its runtime's `image`. Without `builds`, no earlier build is asked for.
pub(crate) fn stage<'a>(
    fleet: &'a Fleet,
    tenant: &'a Tenant,
    blobs: &'a Blobs,
    plan: &'a Plan,
    image: &'a Digest,
    builds: bool,
) -> BoxFuture<'a, Result<Staged, Trouble>> {
    let shelf = Shelf { tenant, blobs };
    stage_from(fleet, shelf, plan, image, builds).boxed()
}

async fn stage_from(
    fleet: &Fleet,
    shelf: Shelf<'_>,
    plan: &Plan,
    image: &Digest,
    builds: bool,
) -> Result<Staged, Trouble> {
    let key = fleet.compile_cache.key(shelf.tenant, image, plan);
    if let Some(key) = key.as_ref().filter(|_| builds)
        && let Some(staged) = built_before(fleet, &shelf, key, plan).await?
    {
        return Ok(staged);
    }
    let needed: Vec<_> = plan.sources().filter_map(Source::blob).collect();
    let mut room = Taken::new(fleet, &shelf, &needed).await?;
    room.fetch(&needed).await?;
    Ok(Staged {
        blobs: room.blobs,
        build: None,
        key,
    })
}

/// What an earlier build left, with what the runs need beside it; none where there is none that can be had soon.
async fn built_before(
    fleet: &Fleet,
    shelf: &Shelf<'_>,
    key: &Key,
    plan: &Plan,
) -> Result<Option<Staged>, Trouble> {
    let Some(build) = fleet.compile_cache.find(shelf.blobs, key).await else {
        return Ok(None);
    };
    let inputs = inputs(plan, build.run.verdict == Verdict::Ok);
    let needed: Vec<&Blob> = build.artifact.iter().chain(inputs.clone()).collect();
    let mut room = Taken::new(fleet, shelf, &needed).await?;
    if let Some(artifact) = &build.artifact {
        let patience = fleet.compile_cache.patience();
        let problem = match timeout(patience, room.room.fetch(shelf, artifact)).await {
            Ok(Ok(cached)) => {
                room.blobs.insert(artifact.digest.clone(), cached);
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("it did not come within {patience:?}")),
        };
        if let Some(problem) = problem {
            tracing::warn!(
                problem,
                "what an earlier build left cannot be had: it is built again"
            );
            return Ok(None);
        }
    }
    room.fetch(&inputs).await?;
    Ok(Some(Staged {
        blobs: room.blobs,
        build: Some(build),
        key: None,
    }))
}

/// The blobs that the runs need, where there are any runs.
fn inputs(plan: &Plan, are_run: bool) -> Vec<&Blob> {
    let runs = plan.runs.iter().filter(|_| are_run);
    let sources = runs.flat_map(|run| [&run.stage.stdin].into_iter().chain(&run.expected));
    sources.filter_map(Source::blob).collect()
}

/// Room in the cache, and what has been fetched into it.
struct Taken<'a> {
    fleet: &'a Fleet,
    shelf: &'a Shelf<'a>,
    room: Room,
    blobs: HashMap<Digest, Cached>,
}

impl<'a> Taken<'a> {
    /// Waits until all of `needed` can be held.
    async fn new(
        fleet: &'a Fleet,
        shelf: &'a Shelf<'a>,
        needed: &[&Blob],
    ) -> Result<Self, Trouble> {
        let room = fleet.cache.room(cache::need(needed.iter().copied())).await;
        Ok(Self {
            fleet,
            shelf,
            room: room.map_err(|error| Trouble::cache(&error))?,
            blobs: HashMap::new(),
        })
    }

    /// Has all of `blobs` on the disk, a few at a time. Each is fetched once however often it is named.
    async fn fetch(&mut self, blobs: &[&Blob]) -> Result<(), Trouble> {
        let blobs = blobs.iter().map(|blob| (&blob.digest, *blob));
        let needed: HashMap<&Digest, &Blob> = blobs.collect();
        let (room, shelf) = (&self.room, self.shelf);
        // Boxed, because of futures with borrows in a stream the compiler cannot tell that they may move between threads.
        let fetching = needed.into_values().map(|blob| {
            let fetched = room.fetch(shelf, blob);
            fetched
                .map_ok(|cached| (blob.digest.clone(), cached))
                .boxed()
        });
        let fetching: Vec<_> = fetching.collect();
        let worker = &self.fleet.config.worker;
        let fetched = stream::iter(fetching)
            .buffer_unordered(worker.downloads)
            .try_collect::<HashMap<_, _>>();
        let waited = worker.stage_timeout_us.duration();
        let fetched = timeout(waited, fetched).await;
        let fetched = fetched.map_err(|_| Trouble::slow_store(waited))?;
        self.blobs
            .extend(fetched.map_err(|error| Trouble::cache(&error))?);
        Ok(())
    }
}
