//! From an image to a root: the image's files are streamed into the volume as the Engine exports them, then what a stage
//! finds besides, and last the marker that says so.

use std::{io, sync::Arc, sync::Mutex, sync::PoisonError};

use envicutor_protocol::{BEGUN, READY, RUNTIMES_DIR};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tracing::{info, warn};
use uuid::Uuid;

use super::{marker, turn::Turn};
use crate::container::{
    ContainerError,
    engine::Engine,
    removal::{Existence, Occupancy},
    tar::{Count, Small, names, only_file},
};

/// The version of what a root looks like: a marker of another one is none.
const LAYOUT: u32 = 1;

/// The directories that the stages' own file systems are mounted on.
const MOUNT_POINTS: [&str; 4] = ["proc", "dev", "tmp", "work"];

/// What says that a root is whole.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    layout: u32,
    /// The image's id.
    image: String,
    /// Files, directories, links that the Engine exported.
    entries: u64,
    /// Bytes of files among them.
    bytes: u64,
    #[serde(with = "time::serde::rfc3339")]
    filled_at: OffsetDateTime,
}

/// Whether the root `name` is there, whole and of `image`, as `container` sees it.
pub(super) async fn is_whole(
    engine: &Engine,
    container: &str,
    name: &str,
    image: &str,
) -> Result<bool, ContainerError> {
    let archive = engine.download(container, &marker(name)).await?;
    // One that cannot be read is another version's, and no marker.
    let marker = archive
        .and_then(|archive| only_file(&archive))
        .and_then(|content| serde_json::from_slice::<Marker>(&content).ok());
    Ok(marker.is_some_and(|it| it.layout == LAYOUT && it.image == image))
}

/// Sees to it that the root of `image` is whole.
pub(super) async fn root(turn: &Turn, image: &str) -> Result<(), ContainerError> {
    if is_whole(&turn.engine, turn.container(), &turn.name, image).await? {
        return Ok(());
    }
    let begun = format!("{RUNTIMES_DIR}/{BEGUN}/{}", turn.name);
    if turn.engine.exists(turn.container(), &begun).await? {
        warn!(root = turn.name, "a root that is not whole is filled anew");
        turn.clear().await?;
    }
    let start = std::time::Instant::now();
    let count = fill(turn, image).await?;
    info!(image, entries = count.entries, bytes = count.bytes, took = ?start.elapsed(), "a runtime's root is filled");
    Ok(())
}

/// The names of the roots that are there, whole or not.
pub(super) async fn begun(turn: &Turn) -> Result<Vec<String>, ContainerError> {
    let path = format!("{RUNTIMES_DIR}/{BEGUN}");
    let archive = turn.engine.download(turn.container(), &path).await?;
    let mut names = names(&archive.unwrap_or_default());
    names.retain(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    Ok(names)
}

async fn fill(turn: &Turn, image: &str) -> Result<Count, ContainerError> {
    let source = Source::create(turn, image).await?;
    let mut tar = Small::new();
    for directory in [READY, BEGUN] {
        tar.directory(directory);
    }
    tar.file(&format!("{BEGUN}/{}", turn.name), b"");
    tar.directory(&turn.name);
    upload(turn, tar).await?;
    let count = copy(turn, source.name()).await?;
    let mut tar = Small::new();
    for name in MOUNT_POINTS {
        tar.directory(&format!("{}/{name}", turn.name));
    }
    upload(turn, tar).await?;
    let marker = Marker {
        layout: LAYOUT,
        image: image.to_owned(),
        entries: count.entries,
        bytes: count.bytes,
        filled_at: OffsetDateTime::now_utc(),
    };
    let content = serde_json::to_vec(&marker).map_err(|error| ContainerError::Root {
        name: turn.name.clone(),
        problem: error.to_string(),
    })?;
    let mut tar = Small::new();
    tar.file(&format!("{READY}/{}", turn.name), &content);
    upload(turn, tar).await?;
    Ok(count)
}

async fn upload(turn: &Turn, tar: Small) -> Result<(), ContainerError> {
    turn.engine
        .upload(turn.container(), RUNTIMES_DIR, tar.end())
        .await
}

/// Streams the files of the container `source` into the root, and counts them.
async fn copy(turn: &Turn, source: &str) -> Result<Count, ContainerError> {
    let seen = Arc::new(Mutex::new(Count::default()));
    let passing = Arc::clone(&seen);
    let archive = turn.engine.export(source).map(move |part| {
        let part = part.map_err(io::Error::other)?;
        let mut count = passing.lock().unwrap_or_else(PoisonError::into_inner);
        count.take(&part);
        Ok(part)
    });
    let path = format!("{RUNTIMES_DIR}/{}", turn.name);
    turn.engine
        .upload_stream(turn.container(), &path, archive)
        .await?;
    let count = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    if count.is_whole() {
        Ok(count)
    } else {
        Err(ContainerError::Root {
            name: turn.name.clone(),
            problem: format!(
                "the Engine's export of the image broke off after {} entries",
                count.entries
            ),
        })
    }
}

/// A container of the image, to be exported and never started.
struct Source(Occupancy);

impl Source {
    async fn create(turn: &Turn, image: &str) -> Result<Self, ContainerError> {
        let starter = &turn.roots.starter;
        let name = format!("envicutor-source-{}", Uuid::now_v7().simple());
        let mut occupancy = starter.remover.occupy_helper(name);
        occupancy.set(Existence::Unknown);
        let body = bollard::models::ContainerCreateBody {
            image: Some(image.to_owned()),
            // An image may have no command, which the Engine wants to hear of.
            cmd: Some(vec!["none".to_owned()]),
            labels: Some(starter.labels.of_helper()),
            ..Default::default()
        };
        let created = turn.engine.create(occupancy.name(), body).await;
        occupancy.set(match &created {
            Ok(_) => Existence::Created,
            Err(error) if error.is_outage() => Existence::Unknown,
            Err(_) => Existence::None,
        });
        created.map(|_| Self(occupancy))
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}
