//! Which runtimes have their image in the Engine, by one list of its images: for whoever asks about many of them, again and again.

use std::collections::{HashMap, hash_map::Entry};

use bollard::{Docker, query_parameters::ListImagesOptionsBuilder};

use super::{
    Runtimes,
    error::{RuntimeError, engine},
    install,
};
use crate::submission::names::{Digest, RuntimeRef};

impl Runtimes {
    /// Those of `wanted`, each with its version, whose image is there, and which it is; as [`Runtimes::found`] says it of one. The
    /// Engine is asked for its images once, and for each base image that one of them stands on.
    pub async fn here(
        &self,
        docker: &Docker,
        wanted: &[RuntimeRef],
    ) -> Result<Vec<(RuntimeRef, Digest)>, RuntimeError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let options = ListImagesOptionsBuilder::new().all(true).build();
        let images = docker.list_images(Some(options)).await;
        let images = images.map_err(engine("list its images"))?;
        let registry = self.registry();
        let mut bases: HashMap<String, Option<String>> = HashMap::new();
        let mut here = Vec::new();
        for runtime in wanted {
            let version = runtime.version.as_ref();
            let Some((version, definition)) =
                version.and_then(|it| Some((it, registry.find(&runtime.name, it)?)))
            else {
                continue;
            };
            let installed = registry.installed(&runtime.name, version);
            let is_here = |id: &Digest| images.iter().any(|image| image.id == id.as_str());
            if let Some(installed) = installed.filter(|it| is_here(&it.image)) {
                here.push((runtime.clone(), installed.image.clone()));
                continue;
            }
            let base = self.0.base_of(definition);
            let digest = definition.image_digest(&base.spec());
            let is_bare = definition.is_bare();
            if !is_bare && !images.iter().any(|image| install::is_of(image, &digest)) {
                continue;
            }
            let over = match bases.entry(base.spec()) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(unknown) => unknown.insert(base.find(docker).await?).clone(),
            };
            let id = if is_bare {
                over
            } else {
                let made = images.iter().filter(|image| install::is_of(image, &digest));
                install::newest(made, over.as_deref())
            };
            let id = id.and_then(|id| id.parse().ok());
            here.extend(id.map(|id| (runtime.clone(), id)));
        }
        Ok(here)
    }
}
