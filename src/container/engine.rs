//! The calls of the Docker Engine that the outer wall needs. Not one of them waits longer than it is told to: a hung daemon
//! never hangs the worker.

use std::{collections::HashMap, future::Future, time::Duration};

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerCreateBody, ContainerSummary, ContainerUpdateBody, SystemInfo},
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        StatsOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;

use super::ContainerError;

/// The Engine.
#[derive(Clone)]
pub(super) struct Engine {
    pub(super) docker: Docker,
    call_timeout: Duration,
}

/// What came of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// It was there, and is not any more.
    Removed,
    /// It was not there.
    Absent,
    /// Somebody else is removing it.
    Underway,
}

impl Engine {
    pub(super) fn new(docker: Docker, call_timeout: Duration) -> Self {
        Self {
            docker,
            call_timeout,
        }
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    pub(super) async fn ping(&self) -> Result<(), ContainerError> {
        self.call("answer a ping", self.docker.ping()).await?;
        Ok(())
    }

    /// What the Engine is and has.
    pub(super) async fn info(&self) -> Result<SystemInfo, ContainerError> {
        self.call("say what it is", self.docker.info()).await
    }

    /// The volumes that `image` declares.
    pub(super) async fn volumes_of(&self, image: &str) -> Result<Vec<String>, ContainerError> {
        let inspected = self
            .call("inspect the image", self.docker.inspect_image(image))
            .await
            .map_err(|error| missing(error, image))?;
        Ok(inspected
            .config
            .and_then(|config| config.volumes)
            .unwrap_or_default())
    }

    /// Creates a container; its id.
    pub(super) async fn create(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<String, ContainerError> {
        let image = body.image.clone().unwrap_or_default();
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let created = self
            .call(
                "create a container",
                self.docker.create_container(Some(options), body),
            )
            .await
            .map_err(|error| missing(error, &image))?;
        Ok(created.id)
    }

    pub(super) async fn start(&self, name: &str) -> Result<(), ContainerError> {
        self.call("start a container", self.docker.start_container(name, None))
            .await
    }

    pub(super) async fn update(
        &self,
        name: &str,
        body: ContainerUpdateBody,
    ) -> Result<(), ContainerError> {
        self.call(
            "change a container's limits",
            self.docker.update_container(name, body),
        )
        .await
    }

    /// Memory of a container that the kernel cannot take back: everything but the page cache of files on disk.
    pub(super) async fn memory_in_use(&self, name: &str) -> Result<u64, ContainerError> {
        let options = StatsOptionsBuilder::default()
            .stream(false)
            .one_shot(true)
            .build();
        let stats = self
            .first(
                "measure a container's memory",
                self.docker.stats(name, Some(options)),
            )
            .await?;
        let memory = stats.memory_stats.unwrap_or_default();
        let cache: u64 = ["inactive_file", "active_file"]
            .iter()
            .filter_map(|name| memory.stats.as_ref()?.get(*name))
            .sum();
        Ok(memory.usage.unwrap_or_default().saturating_sub(cache))
    }

    /// Waits until the container is gone, for at most `patience`. What it returns says nothing: ask again with
    /// [`Self::remove`].
    pub(super) async fn wait_until_removed(&self, name: &str, patience: Duration) {
        let options = WaitContainerOptionsBuilder::default()
            .condition("removed")
            .build();
        let mut waiting = std::pin::pin!(self.docker.wait_container(name, Some(options)));
        let _ = timeout(patience, waiting.next()).await;
    }

    /// Waits until the container does not run, without end. Its exit code, where the Engine still knows it. An Engine that
    /// does not say is no sign of an end.
    pub(super) async fn wait_until_stopped(&self, name: &str) -> Option<i64> {
        let mut waiting = std::pin::pin!(self.docker.wait_container(name, None));
        match waiting.next().await {
            Some(Ok(ended)) => Some(ended.status_code),
            Some(Err(Error::DockerContainerWaitError { code, .. })) => Some(code),
            Some(Err(Error::DockerResponseServerError {
                status_code: 404, ..
            })) => None,
            Some(Err(_)) | None => std::future::pending().await,
        }
    }

    /// Kills and removes the container with its volumes.
    pub(super) async fn remove(&self, name: &str) -> Result<Removal, ContainerError> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let removed = self
            .call(
                "remove a container",
                self.docker.remove_container(name, Some(options)),
            )
            .await;
        match removed {
            Ok(()) => Ok(Removal::Removed),
            Err(error) => match status(&error) {
                Some(404) => Ok(Removal::Absent),
                Some(409) => Ok(Removal::Underway),
                _ => Err(error),
            },
        }
    }

    /// Every container, running or not, that has `labels`.
    pub(super) async fn list(
        &self,
        labels: Vec<String>,
    ) -> Result<Vec<ContainerSummary>, ContainerError> {
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&HashMap::from([("label", labels)]))
            .build();
        self.call(
            "list containers",
            self.docker.list_containers(Some(options)),
        )
        .await
    }

    pub(super) async fn first<T>(
        &self,
        doing: &'static str,
        stream: impl Stream<Item = Result<T, Error>>,
    ) -> Result<T, ContainerError> {
        let mut stream = std::pin::pin!(stream);
        let nothing = || Error::DockerStreamError {
            error: "the answer is empty".to_owned(),
        };
        let first = async { stream.next().await.unwrap_or_else(|| Err(nothing())) };
        self.call(doing, first).await
    }

    pub(super) async fn call<T>(
        &self,
        doing: &'static str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ContainerError> {
        let waited = self.call_timeout;
        match timeout(waited, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Error::RequestTimeoutError)) | Err(_) => {
                Err(ContainerError::Unanswered { doing, waited })
            }
            Ok(Err(source)) if is_connection(&source) => {
                Err(ContainerError::Unreachable { doing, source })
            }
            Ok(Err(source)) => Err(ContainerError::Refused { doing, source }),
        }
    }
}

/// Whether it is the way to the Engine that failed, not what was asked of it.
fn is_connection(error: &Error) -> bool {
    matches!(
        error,
        Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. }
            | Error::SocketNotFoundError(_)
    )
}

/// The status of an answer that is an error.
pub(super) fn status(error: &ContainerError) -> Option<u16> {
    match error {
        ContainerError::Refused {
            source: Error::DockerResponseServerError { status_code, .. },
            ..
        } => Some(*status_code),
        _ => None,
    }
}

/// To creating and to inspecting, "not found" speaks of the image.
fn missing(error: ContainerError, image: &str) -> ContainerError {
    match status(&error) {
        Some(404) => ContainerError::ImageMissing {
            image: image.to_owned(),
        },
        _ => error,
    }
}
