//! The runtimes that this program knows, and their images in the Docker Engine, which are made when they are not there.
//!
//! A runtime is a file of `runtimes/` (carried inside the program) or of `runtimes.dir`, which goes first for the same name
//! and version. Its image is its packages and its script over one base image; see [`install`] and [`base`].
//!
//! | | |
//! | --- | --- |
//! | [`definition`], [`self_test`] | the file: parsed and checked |
//! | `carried` | the definitions that come with the program |
//! | `registry` | all of them, with one default version of each name |
//! | `base` | pulled, or bootstrapped from Debian's packages |
//! | `here` | which of them have their image in the Engine |
//! | [`images`] | into the object store, and out of it |
//! | `install` | the container in which a runtime is installed, and the image that is committed of it |
//! | `lock` | one preparation of an image at a time, over all processes of a machine |
//! | [`progress`] | what is told meanwhile |
//! | [`error`] | what can go wrong |
//!
//! The one promise: an id that is returned names a finished image. Nothing half made ever carries the label by which it
//! would be found.

mod base;
mod carried;
pub mod definition;
pub mod error;
mod here;
pub mod images;
mod install;
mod lock;
pub mod progress;
mod registry;
pub mod self_test;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use bollard::Docker;

use self::{
    base::Base,
    definition::Definition,
    error::{RuntimeError, engine, is_missing},
    images::{ImageError, Loaded, Pace},
    install::Making,
    lock::Lock,
    progress::{Listener, Log},
    registry::Registry,
};
use crate::{
    blobs::Blobs,
    config::Config,
    submission::{
        catalogue::Catalogue,
        installation::{Installed, StoredImage, StoredLayer},
        names::{Digest, RuntimeName, RuntimeRef, RuntimeVersion},
    },
};

/// The runtimes and what is known of their images. Clones share it.
#[derive(Clone)]
pub struct Runtimes(Arc<Inner>);

struct Inner {
    registry: RwLock<Arc<Registry>>,
    config: Config,
    base: Base,
    /// Locks, the scratch space of a bootstrap, the sockets of installations.
    work_dir: PathBuf,
    timeout: Duration,
    /// Images that were found or made; an entry may be out of date, see [`Runtimes::forget`].
    images: Mutex<HashMap<RuntimeRef, Digest>>,
    /// Where images that others made come from; none in a program that makes each by itself.
    store: OnceLock<Blobs>,
    loaded: Loaded,
}

impl Runtimes {
    /// The definitions of the program and of `runtimes.dir`. Nothing is prepared yet; `work_dir` is where that is done (a
    /// local disk with 1 GiB to spare; all programs of a machine should name the same).
    pub fn load(config: &Config, work_dir: &Path) -> Result<Self, RuntimeError> {
        Ok(Self(Arc::new(Inner {
            registry: RwLock::new(Arc::new(Registry::load(config.runtimes.dir.as_deref())?)),
            base: Base::new(&config.runtimes),
            work_dir: work_dir.to_owned(),
            timeout: config.runtimes.prepare_timeout_us.duration(),
            config: config.clone(),
            images: Mutex::default(),
            store: OnceLock::new(),
            loaded: Loaded::new(work_dir.join("loaded"), config.runtimes.loaded_images),
        })))
    }

    /// What submissions may name, as it is now.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(self.registry().catalogue())
    }

    /// A version's definition, with its self-tests.
    pub fn definition(
        &self,
        name: &RuntimeName,
        version: &RuntimeVersion,
    ) -> Option<Arc<Definition>> {
        self.registry().find(name, version).cloned()
    }

    /// Images that the fleet has installed come from `images`, where the Engine does not have them.
    pub fn load_from(&self, images: Blobs) {
        // Whoever was first stays: there is one store.
        let _ = self.0.store.set(images);
    }

    /// Takes over what the fleet has installed, in the order of its changes; what it had before and has not any more is gone.
    pub fn follow(&self, installed: Vec<Installed>) {
        let before = self.registry();
        let after = Arc::new(before.with(installed));
        self.images().retain(|runtime, _| {
            let version = runtime.version.as_ref();
            let image = |registry: &Registry| {
                let found = registry.installed(&runtime.name, version?);
                found.map(|it| it.image.clone())
            };
            image(&before) == image(&after)
        });
        *self
            .0
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner) = after;
    }

    fn registry(&self) -> Arc<Registry> {
        let registry = self.0.registry.read();
        Arc::clone(&registry.unwrap_or_else(PoisonError::into_inner))
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
        let known = self.images().get(&runtime).cloned();
        if let Some(known) = known {
            self.0.loaded.touch(&known);
            return Ok(known);
        }
        let registry = self.registry();
        let definition = registry
            .find(name, version)
            .ok_or_else(|| RuntimeError::Unknown(runtime.clone()))?;
        if let Some(installed) = registry.installed(name, version)
            && let Some(id) = self.0.obtain(docker, &runtime, installed, listener).await?
        {
            self.images().insert(runtime, id.clone());
            return Ok(id);
        }
        let prepared = self.0.prepare(docker, definition, None, false, listener);
        let id = prepared.await?;
        let id = as_digest(id)?;
        self.images().insert(runtime, id.clone());
        Ok(id)
    }

    /// The id of the image of a definition that the fleet need not have: made where it is not there, by the rules of
    /// [`Self::image`], but over the fleet's base, which is in the store ([`Self::load_from`]) and the same on every machine. Its installation gives way to whatever else wants the processors.
    pub async fn make(
        &self,
        docker: &Docker,
        definition: &Definition,
        listener: Listener<'_>,
    ) -> Result<Digest, RuntimeError> {
        let base = match (self.0.store.get(), &definition.image) {
            (Some(store), None) => Some(self.0.fleet_base(docker, store, listener).await?),
            _ => None,
        };
        let base = base.as_deref();
        let prepared = self.0.prepare(docker, definition, base, true, listener);
        as_digest(prepared.await?)
    }

    /// The layers of the fleet's base, which need not be stored again.
    pub async fn base_layers(&self) -> Result<Vec<StoredLayer>, RuntimeError> {
        let Some(store) = self.0.store.get() else {
            return Ok(Vec::new());
        };
        let stored = self.0.stored_base(store).await?;
        Ok(stored.map(|stored| stored.layers).unwrap_or_default())
    }

    /// The id of a runtime's image, if it is there.
    pub async fn found(
        &self,
        docker: &Docker,
        name: &RuntimeName,
        version: &RuntimeVersion,
    ) -> Result<Option<Digest>, RuntimeError> {
        let Some(definition) = self.definition(name, version) else {
            return Ok(None);
        };
        let installed = self.registry().installed(name, version).cloned();
        if let Some(id) = self.0.installed(docker, installed.as_ref()).await? {
            return Ok(Some(id));
        }
        let base = self.0.base_of(&definition);
        let id = if definition.is_bare() {
            base.find(docker).await?
        } else {
            let digest = definition.image_digest(&base.spec());
            let over = base.find(docker).await?;
            install::find(docker, &digest, over.as_deref()).await?
        };
        Ok(id.and_then(|id| id.parse().ok()))
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
    /// The image that the fleet has installed, where this Engine has it.
    async fn installed(
        &self,
        docker: &Docker,
        installed: Option<&Installed>,
    ) -> Result<Option<Digest>, RuntimeError> {
        let Some(installed) = installed else {
            return Ok(None);
        };
        match docker.inspect_image(installed.image.as_str()).await {
            Ok(_) => Ok(Some(installed.image.clone())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(engine("look for an image")(error)),
        }
    }

    /// The image that the fleet has installed: it is here, or it is loaded. None where the store has none: then it is made.
    async fn obtain(
        &self,
        docker: &Docker,
        runtime: &RuntimeRef,
        installed: &Installed,
        listener: Listener<'_>,
    ) -> Result<Option<Digest>, RuntimeError> {
        let found = self.installed(docker, Some(installed)).await?;
        let (None, Some(blobs), Some(stored)) = (&found, self.store.get(), &installed.stored)
        else {
            return Ok(found);
        };
        let mut log = Log::new(listener);
        let name = format!("image of {runtime}");
        let _lock = Lock::take(&self.work_dir, &name, self.timeout, &mut log).await?;
        let found = self.installed(docker, Some(installed)).await?;
        if found.is_some() {
            return Ok(found);
        }
        log.step(format!(
            "{runtime}: loading its image from the object store"
        ));
        let tag = install::tag(runtime);
        let loading = images::load(docker, blobs, stored, install::REPOSITORY, &tag);
        let loaded = tokio::time::timeout(self.timeout, loading).await;
        let id = loaded.map_err(|_| RuntimeError::Timeout {
            what: name,
            after: self.timeout,
            log: log.tail(),
        })??;
        self.loaded.note(&id);
        self.loaded.prune(docker).await;
        log.step(format!("{runtime}: ready"));
        Ok(Some(id))
    }

    /// The image that a definition stands on.
    fn base_of(&self, definition: &Definition) -> Base {
        definition
            .image
            .as_ref()
            .map_or_else(|| self.base.clone(), |image| self.base.other(image))
    }

    /// What the store has as the fleet's base.
    async fn stored_base(&self, store: &Blobs) -> Result<Option<StoredImage>, RuntimeError> {
        let entry = store.get_named(&self.base_key(), BASE_BYTES).await;
        let entry = entry.map_err(ImageError::from)?;
        Ok(entry.and_then(|entry| serde_json::from_slice(&entry).ok()))
    }

    fn base_key(&self) -> String {
        let digest = Digest::of(self.base.spec().as_bytes());
        format!("base-{}", digest.as_str().trim_start_matches("sha256:"))
    }

    /// The id of the fleet's base: what the store has, or what this machine has, which becomes it.
    async fn fleet_base(
        &self,
        docker: &Docker,
        store: &Blobs,
        listener: Listener<'_>,
    ) -> Result<String, RuntimeError> {
        let mut log = Log::new(listener);
        if let Some(stored) = self.stored_base(store).await? {
            let id = stored.config.digest.as_str();
            if docker.inspect_image(id).await.is_ok() {
                return Ok(id.to_owned());
            }
            log.step("base image: loading the fleet's from the object store");
            let loaded = images::load(docker, store, &stored, "envicutor-base", "fleet").await?;
            return Ok(loaded.to_string());
        }
        let id = self.base.prepare(docker, &self.work_dir, listener).await?;
        log.step("base image: storing it for the fleet");
        let scratch = self.work_dir.join("export");
        let digest = as_digest(id.clone())?;
        let pace = Pace::new(self.config.installer.export_percent);
        let stored = images::export(docker, store, &digest, &[], &scratch, pace).await?;
        let entry = serde_json::to_vec(&stored).map_err(std::io::Error::other);
        let entry = entry.map_err(ImageError::from)?;
        let put = store.put_named(&self.base_key(), entry.into()).await;
        put.map_err(ImageError::from)?;
        Ok(id)
    }

    /// The image of `definition`, over the image `over` where one is given, else over the one that it stands on here.
    async fn prepare(
        &self,
        docker: &Docker,
        definition: &Definition,
        over: Option<&str>,
        gives_way: bool,
        listener: Listener<'_>,
    ) -> Result<String, RuntimeError> {
        let base = self.base_of(definition);
        if definition.is_bare() {
            return match over {
                Some(over) => Ok(over.to_owned()),
                None => base.prepare(docker, &self.work_dir, listener).await,
            };
        }
        let digest = definition.image_digest(&base.spec());
        if let Some(id) = find(docker, &base, over, &digest).await? {
            return Ok(id);
        }
        let mut log = Log::new(listener);
        let name = definition.reference().to_string();
        let lock = Lock::take(&self.work_dir, &name, self.timeout, &mut log).await?;
        if let Some(id) = find(docker, &base, over, &digest).await? {
            return Ok(id);
        }
        let base = match over {
            Some(over) => over.to_owned(),
            None => base.prepare(docker, &self.work_dir, listener).await?,
        };
        // A commit may take longer than the calls that the client's own timeout is for.
        let docker = docker.clone().with_timeout(self.timeout);
        let making = Making {
            docker: &docker,
            config: &self.config,
            work_dir: &self.work_dir,
            base: &base,
            lock: &lock,
            gives_way,
        };
        let made = Box::pin(install::install(&making, definition, &digest, &mut log));
        match tokio::time::timeout(self.timeout, made).await {
            Ok(made) => made,
            Err(_) => Err(RuntimeError::Timeout {
                what: format!("the image of {name}"),
                after: self.timeout,
                log: log.tail(),
            }),
        }
    }
}

/// The image that was made of a definition over `over`, or over the image that it stands on here.
async fn find(
    docker: &Docker,
    base: &Base,
    over: Option<&str>,
    digest: &Digest,
) -> Result<Option<String>, RuntimeError> {
    let over = match over {
        Some(over) => Some(over.to_owned()),
        None => base.find(docker).await?,
    };
    install::find(docker, digest, over.as_deref()).await
}

/// The most that an entry of the store about a base takes, in bytes.
const BASE_BYTES: usize = 64 << 10;

/// The Engine's ids are digests; anything else would not be one to trust.
fn as_digest(id: String) -> Result<Digest, RuntimeError> {
    id.parse().map_err(|_| RuntimeError::Engine {
        step: "name the image by its digest",
        source: bollard::errors::Error::DockerStreamError { error: id },
    })
}

fn reference(name: &RuntimeName, version: &RuntimeVersion) -> RuntimeRef {
    RuntimeRef {
        name: name.clone(),
        version: Some(version.clone()),
    }
}
