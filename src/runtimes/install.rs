//! A runtime's image: the base, the definition's packages and script run as root in a container of it, the rest slimmed
//! away, committed. The label `envicutor.definition` is what it is found by again; its tag is for people. The container is
//! removed however this ends, and what a killed process left is removed by the next one that holds the lock.

use std::collections::HashMap;

use bollard::{
    Docker,
    models::{ContainerConfig, ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig},
    query_parameters::{
        CommitContainerOptions, CreateContainerOptions, InspectContainerOptions,
        ListContainersOptionsBuilder, ListImagesOptionsBuilder, LogsOptionsBuilder,
        RemoveContainerOptionsBuilder, StartContainerOptions,
    },
};
use futures_util::StreamExt;

use super::{
    definition::Definition,
    error::{RuntimeError, engine, is_missing},
    lock::Lock,
    progress::Log,
};
use crate::submission::names::Digest;

/// What runs in the container.
pub(super) const SCRIPT: &str = include_str!("install.sh");

/// The label with name and version.
const RUNTIME: &str = "envicutor.runtime";
/// The label with the digest of what shapes the image.
const DEFINITION: &str = "envicutor.definition";
/// The label with the id of the base image.
const BASE: &str = "envicutor.base";
/// The label of the containers that install, with the path of their lock. Empty in images: their containers inherit it.
const BUILD: &str = "envicutor.build";
/// The repository of the images; the tag is `<name>_<version>`.
const REPOSITORY: &str = "envicutor-runtime";

/// The newest image that was made from `definition`, over `base` where that one is still there.
pub(super) async fn find(
    docker: &Docker,
    definition: &Digest,
    base: Option<&str>,
) -> Result<Option<String>, RuntimeError> {
    let filters = HashMap::from([("label", vec![format!("{DEFINITION}={definition}")])]);
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let images = docker
        .list_images(Some(options))
        .await
        .map_err(engine("list its images"))?;
    Ok(images
        .into_iter()
        .filter(|image| base.is_none_or(|base| image.labels.get(BASE).is_some_and(|b| b == base)))
        .max_by_key(|image| image.created)
        .map(|image| image.id))
}

/// Makes the image of `definition` over the image `base`. The caller bounds the time.
pub(super) async fn install(
    docker: &Docker,
    definition: &Definition,
    digest: &Digest,
    base: &str,
    lock: &Lock,
    log: &mut Log<'_>,
) -> Result<String, RuntimeError> {
    sweep(docker, lock).await?;
    let runtime = definition.reference();
    log.step(format!("{runtime}: installing"));
    let container = Installation::create(docker, definition, base, lock).await?;
    let code = container.run(log).await?;
    if code != 0 {
        container.remove().await;
        return Err(RuntimeError::Install {
            runtime,
            code,
            log: log.tail(),
        });
    }
    log.step(format!("{runtime}: committing its image"));
    // A process with another working directory may have been faster.
    let made = match find(docker, digest, Some(base)).await {
        Ok(None) => container.commit(definition, digest, base).await,
        Ok(Some(id)) => Ok(id),
        Err(error) => Err(error),
    };
    container.remove().await;
    log.step(format!("{runtime}: ready"));
    made
}

/// Removes the containers that a dead holder of `lock` left.
async fn sweep(docker: &Docker, lock: &Lock) -> Result<(), RuntimeError> {
    let label = format!("{BUILD}={}", lock.path().display());
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&HashMap::from([("label", vec![label])]))
        .build();
    let left = docker
        .list_containers(Some(options))
        .await
        .map_err(engine("list its containers"))?;
    for id in left.into_iter().filter_map(|container| container.id) {
        remove(docker, &id).await;
    }
    Ok(())
}

async fn remove(docker: &Docker, id: &str) {
    let options = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    match docker.remove_container(id, Some(options)).await {
        Err(error) if !is_missing(&error) => {
            tracing::warn!(
                "the installation's container {id} could not be removed: {error}; the next installation tries again"
            );
        }
        _ => {}
    }
}

/// A container that installs. Dropped without [`Installation::remove`] (a timeout, a stop), it is removed behind.
struct Installation {
    docker: Docker,
    id: String,
    removed: bool,
}

impl Installation {
    async fn create(
        docker: &Docker,
        definition: &Definition,
        base: &str,
        lock: &Lock,
    ) -> Result<Self, RuntimeError> {
        let mut entrypoint: Vec<String> = ["/bin/bash", "-eu", "-c", SCRIPT, "install"]
            .map(str::to_owned)
            .to_vec();
        entrypoint.push(definition.script.clone().unwrap_or_default());
        entrypoint.extend(definition.packages.iter().cloned());
        let body = ContainerCreateBody {
            image: Some(base.to_owned()),
            // All of it is the entrypoint, so that the committed image can be left with no command at all.
            entrypoint: Some(entrypoint),
            user: Some("0".to_owned()),
            working_dir: Some("/".to_owned()),
            labels: Some(HashMap::from([(
                BUILD.to_owned(),
                lock.path().display().to_string(),
            )])),
            host_config: Some(HostConfig {
                // Read back from the Engine, whatever its default driver is.
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: None,
                }),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let created = docker
            .create_container(None::<CreateContainerOptions>, body)
            .await
            .map_err(engine("create the installation's container"))?;
        Ok(Self {
            docker: docker.clone(),
            id: created.id,
            removed: false,
        })
    }

    /// Runs it to its end; the exit code.
    async fn run(&self, log: &mut Log<'_>) -> Result<i64, RuntimeError> {
        self.docker
            .start_container(&self.id, None::<StartContainerOptions>)
            .await
            .map_err(engine("start the installation's container"))?;
        let options = LogsOptionsBuilder::new()
            .follow(true)
            .stdout(true)
            .stderr(true)
            .build();
        let mut output = std::pin::pin!(self.docker.logs(&self.id, Some(options)));
        while let Some(piece) = output.next().await {
            let piece = piece.map_err(engine("read the installation's log"))?;
            log.write(&piece.into_bytes());
        }
        self.exit_code().await
    }

    /// The exit code of the ended container. The log may end a moment before it does.
    async fn exit_code(&self) -> Result<i64, RuntimeError> {
        loop {
            let container = self
                .docker
                .inspect_container(&self.id, None::<InspectContainerOptions>)
                .await
                .map_err(engine("look at the installation's container"))?;
            let state = container.state.unwrap_or_default();
            if state.running != Some(true) {
                return Ok(state.exit_code.unwrap_or(-1));
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Commits it with nothing of the installation in its configuration; the image's id.
    async fn commit(
        &self,
        definition: &Definition,
        digest: &Digest,
        base: &str,
    ) -> Result<String, RuntimeError> {
        let labels = [
            (RUNTIME, definition.reference().to_string()),
            (DEFINITION, digest.to_string()),
            (BASE, base.to_owned()),
            (BUILD, String::new()),
        ];
        let config = ContainerConfig {
            entrypoint: Some(Vec::new()),
            working_dir: Some("/".to_owned()),
            healthcheck: Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..HealthConfig::default()
            }),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
            ..ContainerConfig::default()
        };
        let options = CommitContainerOptions {
            container: Some(self.id.clone()),
            repo: Some(REPOSITORY.to_owned()),
            tag: Some(tag(definition)),
            ..CommitContainerOptions::default()
        };
        let committed = self.docker.commit_container(options, config).await;
        Ok(committed.map_err(engine("commit the image"))?.id)
    }

    async fn remove(mut self) {
        remove(&self.docker, &self.id).await;
        self.removed = true;
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.removed {
            let (docker, id) = (self.docker.clone(), self.id.clone());
            // Nobody can await it here. Where the program ends first, the next installation's sweep does it.
            runtime.spawn(async move { remove(&docker, &id).await });
        }
    }
}

/// The tag of the image. A name has no `_`, and a tag no `+`.
fn tag(definition: &Definition) -> String {
    let runtime = &definition.runtime;
    format!("{}_{}", runtime.name, runtime.version).replace('+', "plus")
}
