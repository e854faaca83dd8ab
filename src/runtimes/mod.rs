//! The runtimes that this program knows, and their images in the Docker Engine, which are made when they are not there.
//!
//! A runtime is a file of `runtimes/` (carried inside the program) or of `runtimes.dir`, which goes first for the same name
//! and version. Its image is its packages and its script over one base image; see [`install`] and [`base`].
//!
//! | | |
//! | --- | --- |
//! | [`definition`] | the file: parsed and checked |
//! | `registry` | all of them, with one default version of each name |
//! | `base` | pulled, or bootstrapped from Debian's packages |
//! | `install` | the container in which a runtime is installed, and the image that is committed of it |
//! | `lock` | one preparation of an image at a time, over all processes of a machine |
//! | [`progress`] | what is told meanwhile |
//! | [`error`] | what can go wrong |
//!
//! The one promise: an id that is returned names a finished image. Nothing half made ever carries the label by which it
//! would be found.

mod base;
pub mod definition;
pub mod error;
mod install;
mod lock;
pub mod progress;
mod registry;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::Docker;

use self::{
    base::Base,
    definition::Definition,
    error::RuntimeError,
    lock::Lock,
    progress::{Listener, Log},
    registry::Registry,
};
use crate::{
    config,
    submission::{
        catalogue::Catalogue,
        names::{Digest, RuntimeName, RuntimeRef, RuntimeVersion},
    },
};

/// The runtimes and what is known of their images. Clones share it.
#[derive(Clone)]
pub struct Runtimes(Arc<Inner>);

struct Inner {
    registry: Registry,
    base: Base,
    /// Locks and the scratch space of a bootstrap.
    work_dir: PathBuf,
    timeout: Duration,
    /// Images that were found or made; an entry may be out of date, see [`Runtimes::forget`].
    images: Mutex<HashMap<RuntimeRef, Digest>>,
}

impl Runtimes {
    /// The definitions of the program and of `config.dir`. Nothing is prepared yet; `work_dir` is where that is done (a
    /// local disk with 1 GiB to spare; all programs of a machine should name the same).
    pub fn load(config: &config::Runtimes, work_dir: &Path) -> Result<Self, RuntimeError> {
        Ok(Self(Arc::new(Inner {
            registry: Registry::load(config.dir.as_deref())?,
            base: Base::new(config),
            work_dir: work_dir.to_owned(),
            timeout: config.prepare_timeout_us.duration(),
            images: Mutex::default(),
        })))
    }

    /// What submissions may name.
    pub fn catalogue(&self) -> &Catalogue {
        self.0.registry.catalogue()
    }

    /// A version's definition, with its self-tests.
    pub fn definition(&self, name: &RuntimeName, version: &RuntimeVersion) -> Option<&Definition> {
        self.0.registry.find(name, version)
    }

    /// The id of a runtime's image, which is made when it is not there; `listener` is told how that goes. One caller at a
    /// time prepares an image, over all processes that share the working directory; the others wait for it. Dropping the
    /// future gives the preparation up and leaves nothing.
    ///
    /// A known id is returned without a question to the Engine: who then meets "no such image" calls [`Self::forget`].
    pub async fn image(
        &self,
        docker: &Docker,
        name: &RuntimeName,
        version: &RuntimeVersion,
        listener: Listener<'_>,
    ) -> Result<Digest, RuntimeError> {
        let runtime = reference(name, version);
        if let Some(known) = self.images().get(&runtime) {
            return Ok(known.clone());
        }
        let definition = self
            .definition(name, version)
            .ok_or_else(|| RuntimeError::Unknown(runtime.clone()))?;
        let id = self.0.prepare(docker, definition, listener).await?;
        // The Engine's ids are digests; anything else would not be one to trust.
        let id: Digest = id.parse().map_err(|_| RuntimeError::Engine {
            step: "name the image by its digest",
            source: bollard::errors::Error::DockerStreamError { error: id },
        })?;
        self.images().insert(runtime, id.clone());
        Ok(id)
    }

    /// Forgets the id of an image that the Engine does not have any more; the next [`Self::image`] looks and makes it again.
    pub fn forget(&self, name: &RuntimeName, version: &RuntimeVersion) {
        self.images().remove(&reference(name, version));
    }

    fn images(&self) -> MutexGuard<'_, HashMap<RuntimeRef, Digest>> {
        // Single inserts and removes cannot leave it half changed.
        self.0.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    async fn prepare(
        &self,
        docker: &Docker,
        definition: &Definition,
        listener: Listener<'_>,
    ) -> Result<String, RuntimeError> {
        if definition.is_bare() {
            return self.base.prepare(docker, &self.work_dir, listener).await;
        }
        let digest = definition.image_digest(&self.base.spec());
        if let Some(id) = self.find(docker, &digest).await? {
            return Ok(id);
        }
        let mut log = Log::new(listener);
        let name = definition.reference().to_string();
        let lock = Lock::take(&self.work_dir, &name, self.timeout, &mut log).await?;
        if let Some(id) = self.find(docker, &digest).await? {
            return Ok(id);
        }
        let base = self.base.prepare(docker, &self.work_dir, listener).await?;
        // A commit may take longer than the calls that the client's own timeout is for.
        let docker = docker.clone().with_timeout(self.timeout);
        let made = install::install(&docker, definition, &digest, &base, &lock, &mut log);
        match tokio::time::timeout(self.timeout, made).await {
            Ok(made) => made,
            Err(_) => Err(RuntimeError::Timeout {
                what: format!("the image of {name}"),
                after: self.timeout,
                log: log.tail(),
            }),
        }
    }

    async fn find(&self, docker: &Docker, digest: &Digest) -> Result<Option<String>, RuntimeError> {
        let base = self.base.find(docker).await?;
        install::find(docker, digest, base.as_deref()).await
    }
}

fn reference(name: &RuntimeName, version: &RuntimeVersion) -> RuntimeRef {
    RuntimeRef {
        name: name.clone(),
        version: Some(version.clone()),
    }
}
