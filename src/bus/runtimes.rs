//! The fleet's catalogue of installed runtimes: KV `runtimes`, a key `<name>/<version>` for each version. Written by installers and
//! operators alone; what a version was before stays in the bucket's history.

use super::{api::ApiError, connect::Bus, kv::Bucket};
use crate::submission::{
    installation::Installed,
    names::{RuntimeName, RuntimeRef, RuntimeVersion},
};

/// The catalogue could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The fleet has installed no such version.
    #[error("the fleet has installed no {0}")]
    Absent(RuntimeRef),
    /// There is nothing to go back to.
    #[error("{0} has no earlier installation to go back to")]
    NothingBefore(RuntimeRef),
    /// An entry has no JSON form.
    #[error("an entry of the catalogue cannot be written: {0}")]
    Encode(#[from] serde_json::Error),
    /// The server did not do it.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// The installed runtimes of a fleet.
#[derive(Debug, Clone)]
pub struct Shelf {
    bucket: Bucket,
}

/// An installed version, and the place of its last change among all changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was last changed, as a number that grows.
    pub revision: u64,
    /// What it is.
    pub installed: Installed,
}

/// What the catalogue knows of a runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// What is installed.
    pub installed: Vec<RuntimeVersion>,
    /// What was, and can be rolled back to.
    pub removed: Vec<RuntimeVersion>,
}

impl Shelf {
    /// The one that this connection reaches.
    pub fn new(bus: &Bus) -> Self {
        Self {
            bucket: Bucket::new(bus, "runtimes"),
        }
    }

    /// Registers a version, in the place of what it was before: in one write, so that whoever reads finds the one or the other.
    pub async fn put(
        &self,
        name: &RuntimeName,
        version: &RuntimeVersion,
        installed: &Installed,
    ) -> Result<(), ShelfError> {
        let body = serde_json::to_vec(installed)?;
        self.bucket.put(&key(name, version), body.into()).await?;
        Ok(())
    }

    /// Every version, in the order of their last changes. What cannot be read is another program's and left out.
    pub async fn list(&self) -> Result<Vec<Entry>, ShelfError> {
        let stored = self.bucket.list().await?;
        let read = stored.into_iter().filter_map(|stored| {
            let installed = serde_json::from_slice(&stored.body).ok()?;
            Some(Entry {
                revision: stored.sequence,
                installed,
            })
        });
        let mut entries: Vec<Entry> = read.collect();
        entries.sort_by_key(|entry| entry.revision);
        Ok(entries)
    }

    /// The versions of `reference`: all of a name, or the one.
    pub async fn versions(&self, reference: &RuntimeRef) -> Result<Versions, ShelfError> {
        let mut versions = Versions::default();
        for key in self.bucket.keys().await? {
            let Some((name, version)) = key.name.split_once('/') else {
                continue;
            };
            // What does not read as one is another program's.
            let Ok(version) = version.parse::<RuntimeVersion>() else {
                continue;
            };
            let is_wanted = reference.version.as_ref().is_none_or(|it| *it == version);
            if name != reference.name.as_str() || !is_wanted {
                continue;
            }
            if key.is_deleted {
                versions.removed.push(version);
            } else {
                versions.installed.push(version);
            }
        }
        Ok(versions)
    }

    /// Takes a version out of the catalogue. Its history stays.
    pub async fn remove(
        &self,
        name: &RuntimeName,
        version: &RuntimeVersion,
    ) -> Result<(), ShelfError> {
        let key = key(name, version);
        if self.bucket.get(&key).await?.value.is_none() {
            return Err(ShelfError::Absent(reference(name, version)));
        }
        Ok(self.bucket.mark_deleted(&key).await?)
    }

    /// Registers what a version was before its last change: the installation before, or the one that was removed.
    pub async fn roll_back(
        &self,
        name: &RuntimeName,
        version: &RuntimeVersion,
    ) -> Result<Installed, ShelfError> {
        let key = key(name, version);
        let history = self.bucket.history(&key).await?;
        let (revision, now) = match history.last() {
            Some((revision, now)) => (*revision, now.clone()),
            None => return Err(ShelfError::Absent(reference(name, version))),
        };
        let readable = history.iter().rev().filter_map(|(_, body)| {
            let body = body.as_ref()?;
            let installed: Installed = serde_json::from_slice(body).ok()?;
            Some((body, installed))
        });
        let now: Option<Installed> = now.and_then(|body| serde_json::from_slice(&body).ok());
        // Going back twice goes further back: what was gone back from is later than what stands.
        let mut earlier = readable.filter(|(_, it)| {
            now.as_ref()
                .is_none_or(|now| it.installed_at < now.installed_at)
        });
        let (body, installed) = earlier
            .next()
            .ok_or_else(|| ShelfError::NothingBefore(reference(name, version)))?;
        self.bucket.update(&key, body.clone(), revision).await?;
        Ok(installed)
    }
}

fn key(name: &RuntimeName, version: &RuntimeVersion) -> String {
    format!("{name}/{version}")
}

fn reference(name: &RuntimeName, version: &RuntimeVersion) -> RuntimeRef {
    RuntimeRef {
        name: name.clone(),
        version: Some(version.clone()),
    }
}
