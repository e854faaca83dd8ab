//! A runtime's image: the base, the definition's packages and script run as root in a container of it, the rest slimmed
//! away, committed. The label `envicutor.definition` is what it is found by again; its tag is for people. The container is
//! removed however this ends, and what a killed process left is removed by the next one that holds the lock.
//!
//! | | |
//! | --- | --- |
//! | `container` | what holds an installation |
//! | `site` | what the host has of it: the agent, the socket whose end is its end, and the egress proxy |
//! | `share` | what it may use of the processors |
//! | `sources` | where the base image has its packages from |
//!
//! The invariant: an installation is hostile code with root's name. It reaches the hosts of its definition's `egress` through the
//! proxy, and nothing else.

mod container;
mod share;
mod site;
mod sources;

use std::{collections::HashMap, path::Path};

use bollard::{
    Docker,
    models::ImageSummary,
    query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder},
};

use self::{
    container::{Installation, remove},
    share::Share,
    site::Site,
};
use super::{
    definition::Definition,
    error::{RuntimeError, engine},
    lock::Lock,
    progress::Log,
};
use crate::{
    config::Config,
    egress,
    submission::{
        names::{Digest, RuntimeRef, RuntimeVersion},
        units::ByteSize,
    },
};

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
pub(super) const REPOSITORY: &str = "envicutor-runtime";

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
    Ok(newest(images.iter(), base))
}

/// Whether an image was made from `definition`.
pub(super) fn is_of(image: &ImageSummary, definition: &Digest) -> bool {
    let label = image.labels.get(DEFINITION);
    label.is_some_and(|label| label == definition.as_str())
}

/// The id of the newest of `images`, over `base` where that one is still there.
pub(super) fn newest<'a>(
    images: impl Iterator<Item = &'a ImageSummary>,
    base: Option<&str>,
) -> Option<String> {
    images
        .filter(|image| base.is_none_or(|base| image.labels.get(BASE).is_some_and(|b| b == base)))
        .max_by_key(|image| image.created)
        .map(|image| image.id.clone())
}

/// What an installation takes besides its definition.
pub(super) struct Making<'a> {
    pub(super) docker: &'a Docker,
    pub(super) config: &'a Config,
    pub(super) work_dir: &'a Path,
    /// The id of the image that it stands on.
    pub(super) base: &'a str,
    pub(super) lock: &'a Lock,
    /// Whether it gives way to what else wants the processors: not where a submission waits for it.
    pub(super) gives_way: bool,
}

/// Makes the image of `definition`. The caller bounds the time.
pub(super) async fn install(
    making: &Making<'_>,
    definition: &Definition,
    digest: &Digest,
    log: &mut Log<'_>,
) -> Result<String, RuntimeError> {
    let Making { docker, base, .. } = *making;
    sweep(docker, making.lock).await?;
    let runtime = definition.reference();
    log.step(format!("{runtime}: installing"));
    let container = run(making, definition, log).await?;
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

/// Runs the installation to its good end: its container, which has ended.
async fn run(
    making: &Making<'_>,
    definition: &Definition,
    log: &mut Log<'_>,
) -> Result<Installation, RuntimeError> {
    let config = making.config;
    let mut site = Site::make(making.work_dir, making.lock.path())?;
    let container = Installation::create(
        making.docker,
        &config.installer,
        definition,
        making.base,
        making.lock.path(),
        site.path(),
    )
    .await?;
    let apt = container.apt_hosts().await?;
    let hosts = egress::hosts(&definition.egress, &config.egress, &apt)?;
    let mut lines = site.open(config, hosts)?;
    let (most, look) = (config.installer.disk_bytes, config.installer.disk_look_us);
    let giving_way = async {
        if making.gives_way {
            let least = Share::least(config.installer.busy_percent);
            container.give_way(least).await
        } else {
            std::future::pending().await
        }
    };
    let mut ended = tokio::select! {
        code = container.run(log, &mut lines) => code.map(Ok),
        written = container.outgrows(most.0, look.duration()) => Ok(Err(written)),
        never = giving_way => match never {},
    };
    // What it wrote since the last look counts too.
    if let (Ok(Ok(0)), Some(written)) = (&ended, container.written().await)
        && written > most.0
    {
        ended = Ok(Err(written));
    }
    let (requests, bytes) = site.used();
    log.line(&format!("egress: {requests} requests, {}", ByteSize(bytes)));
    let runtime = definition.reference();
    let failed = match ended {
        Ok(Ok(0)) => return Ok(container),
        Ok(Ok(code)) => RuntimeError::Install {
            runtime,
            code,
            log: log.tail(),
        },
        Ok(Err(written)) => RuntimeError::Disk {
            runtime,
            written: ByteSize(written),
            most,
            log: log.tail(),
        },
        Err(error) => error,
    };
    container.remove().await;
    Err(failed)
}

/// The tag of a runtime's image. A name has no `_`, and a tag no `+`.
pub(super) fn tag(runtime: &RuntimeRef) -> String {
    let version = runtime.version.as_ref().map_or("", RuntimeVersion::as_str);
    format!("{}_{version}", runtime.name).replace('+', "plus")
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
