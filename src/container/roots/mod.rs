//! The root file systems of runtimes, as slots use them: read-only directories of one Docker volume, which every slot mounts.
//!
//! | path in the volume | what |
//! | --- | --- |
//! | `<digest>/` | a runtime's root, named by the hexadecimal digits of its image's id |
//! | `begun/<digest>` | there as long as the directory is |
//! | `ready/<digest>` | the root is whole: written last, with what was counted while it was filled |
//!
//! A root is filled through the Docker API alone; no process of the image runs. All workers of an Engine share the volume,
//! wherever their directories are: whoever works on a root has created the container `<volume>-<digest>` (`turn`), which
//! the Engine lets exist once. A root that was begun and is not ready is half of one, and is filled anew.
//!
//! | | |
//! | --- | --- |
//! | `turn` | one at a time |
//! | `fill` | from an image to a root |
//! | `preload` | a root's large files in huge pages |

mod fill;
mod preload;
mod turn;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bollard::models::{Mount, MountType, MountVolumeOptions};
use envicutor_protocol::{BEGUN, READY, RUNTIMES_DIR};
use tracing::{info, warn};

use self::turn::Turn;
use super::{ContainerError, start::Starter};

/// The mark of the volume.
const LABEL: &str = "envicutor";

/// What is done with roots, by turns. Clones share it.
#[derive(Clone)]
pub(super) struct Roots(Arc<Inner>);

struct Inner {
    starter: Arc<Starter>,
    /// The image of slots: what is done to the volume is done in containers of it.
    image: String,
    /// The images whose roots were seen to be whole, and were preloaded.
    known: Mutex<HashSet<String>>,
    /// One at a time is preloaded, before it is used first: what programs use stays in the pages that it has.
    preloading: tokio::sync::Mutex<()>,
    /// One at a time works on a root, in this process.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Roots {
    /// Makes the volume where there is none.
    pub(super) async fn open(starter: Arc<Starter>, image: String) -> Result<Self, ContainerError> {
        let volume = starter.config.runtimes_volume.clone();
        let engine = starter.remover.engine.clone();
        let roots = Self(Arc::new(Inner {
            starter,
            image,
            known: Mutex::default(),
            preloading: tokio::sync::Mutex::default(),
            locks: Mutex::default(),
        }));
        if !engine.has_volume(&volume).await? {
            let labels = HashMap::from([(LABEL.to_owned(), "1".to_owned())]);
            engine.make_volume(&volume, labels).await?;
        }
        Ok(roots)
    }

    /// The name of the root of `image` (an id), which is filled where it is not there. `container` has the volume, to look
    /// without waiting for a turn.
    pub(super) async fn root(
        &self,
        image: &str,
        container: &str,
    ) -> Result<String, ContainerError> {
        let name = name_of(image)?;
        if self.known().contains(name) {
            return Ok(name.to_owned());
        }
        let engine = &self.0.starter.remover.engine;
        if !fill::is_whole(engine, container, name, image).await? {
            // Boxed: it is large, and almost never needed.
            Box::pin(self.fill(name, image)).await?;
        }
        let _turn = self.0.preloading.lock().await;
        if !self.known().contains(name) {
            preload::root(&self.0, name).await;
            self.known().insert(name.to_owned());
        }
        Ok(name.to_owned())
    }

    async fn fill(&self, name: &str, image: &str) -> Result<(), ContainerError> {
        let turn = Turn::take(&self.0, name).await?;
        fill::root(&turn, image).await
    }

    /// Looks again before the root of this name is used: a slot could not.
    pub(super) fn forget(&self, name: &str) {
        self.known().remove(name);
    }

    /// Removes the roots whose images the Engine does not have any more. What cannot be removed now stays for the next time.
    pub(super) async fn collect(&self) -> Result<(), ContainerError> {
        let there = fill::begun(&Turn::take(&self.0, BEGUN).await?).await?;
        // Listed after the roots: a root that is begun meanwhile is not looked at.
        let images = self.0.starter.remover.engine.image_ids().await?;
        let used: HashSet<&str> = images.iter().filter_map(|id| name_of(id).ok()).collect();
        for name in there.iter().filter(|name| !used.contains(name.as_str())) {
            self.forget(name);
            match Turn::take(&self.0, name).await?.clear().await {
                Ok(()) => info!(root = name, "removed the root of an image that is gone"),
                Err(error) => warn!(%error, root = name, "the root of an image that is gone stays"),
            }
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The lock of the root `name`. Those that nobody has are let go of.
    fn lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }
}

/// The name of an image's root: the digits of its id.
fn name_of(image: &str) -> Result<&str, ContainerError> {
    let digits = image.strip_prefix("sha256:");
    digits
        .filter(|it| it.len() == 64 && it.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .ok_or_else(|| ContainerError::ImageUnusable {
            image: image.to_owned(),
            problem: "its id is no `sha256:` and 64 hexadecimal digits".to_owned(),
        })
}

/// The volume as a container sees it.
pub(super) fn mount(volume: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.to_owned()),
        target: Some(RUNTIMES_DIR.to_owned()),
        read_only: Some(read_only),
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(true),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Where the marker of a whole root is, in a container.
fn marker(name: &str) -> String {
    format!("{RUNTIMES_DIR}/{READY}/{name}")
}
