//! The calls of the Docker Engine by which file systems are moved: archives into and out of volumes, images in and out.
//! A stream has no time for the whole of it, but may not stand still.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bollard::{
    body_full, body_try_stream,
    models::{ImageSummary, VolumeCreateRequest},
    query_parameters::{
        ContainerArchiveInfoOptionsBuilder, CreateImageOptionsBuilder,
        DownloadFromContainerOptionsBuilder, ListContainersOptionsBuilder,
        ListImagesOptionsBuilder, LogsOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};

use super::{
    ContainerError,
    engine::{Engine, status},
};

/// The most that is read of a small archive or a log, in bytes.
const SMALL: usize = 4 << 20;

/// Longer than any stream that goes on: the client's own time for a call counts to the end of an upload.
const NO_TIME: Duration = Duration::from_hours(24);

impl Engine {
    /// The images that have `label`, the newest last.
    pub(super) async fn images(&self, label: String) -> Result<Vec<ImageSummary>, ContainerError> {
        let options = ListImagesOptionsBuilder::new()
            .filters(&HashMap::from([("label", vec![label])]))
            .build();
        let mut images = self
            .call("list its images", self.docker.list_images(Some(options)))
            .await?;
        images.sort_by_key(|image| image.created);
        Ok(images)
    }

    /// The ids of all images.
    pub(super) async fn image_ids(&self) -> Result<Vec<String>, ContainerError> {
        let options = ListImagesOptionsBuilder::new().all(true).build();
        let images = self
            .call("list its images", self.docker.list_images(Some(options)))
            .await?;
        Ok(images.into_iter().map(|image| image.id).collect())
    }

    /// Makes an image of the root file system in `tar`.
    pub(super) async fn import(
        &self,
        tar: Vec<u8>,
        repository: &str,
        tag: &str,
        label: &str,
    ) -> Result<(), ContainerError> {
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(repository)
            .tag(tag)
            .changes(vec![format!("LABEL {label}")])
            .build();
        let answers = self
            .docker
            .create_image(Some(options), Some(body_full(tar.into())), None);
        let imported = answers.try_for_each(|_| async { Ok(()) });
        self.call("import an image", imported).await
    }

    /// Whether there is a volume of this name.
    pub(super) async fn has_volume(&self, name: &str) -> Result<bool, ContainerError> {
        let found = self.docker.inspect_volume(name);
        match self.call("look for a volume", found).await {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the volume, unless it is there.
    pub(super) async fn make_volume(
        &self,
        name: &str,
        labels: HashMap<String, String>,
    ) -> Result<(), ContainerError> {
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..Default::default()
        };
        self.call("make a volume", self.docker.create_volume(request))
            .await
            .map(drop)
    }

    /// The container that has exactly this name.
    pub(super) async fn named(
        &self,
        name: &str,
    ) -> Result<Option<bollard::models::ContainerSummary>, ContainerError> {
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&HashMap::from([("name", vec![format!("^/{name}$")])]))
            .build();
        let found = self
            .call(
                "list containers",
                self.docker.list_containers(Some(options)),
            )
            .await?;
        Ok(found.into_iter().next())
    }

    /// The last that an ended container said.
    pub(super) async fn said(&self, name: &str) -> Result<String, ContainerError> {
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .tail("20")
            .build();
        let logs = self.docker.logs(name, Some(options));
        let lines = logs.map_ok(bollard::container::LogOutput::into_bytes);
        let said = self.call("give a container's log", gather(lines)).await?;
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    }

    /// Whether there is something at `path` of a container, running or not.
    pub(super) async fn exists(&self, name: &str, path: &str) -> Result<bool, ContainerError> {
        let options = ContainerArchiveInfoOptionsBuilder::new().path(path).build();
        let found = self.docker.get_container_archive_info(name, Some(options));
        match self.call("look for a file", found).await {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The archive of what is at `path` of a container; none where nothing is.
    pub(super) async fn download(
        &self,
        name: &str,
        path: &str,
    ) -> Result<Option<Vec<u8>>, ContainerError> {
        let options = DownloadFromContainerOptionsBuilder::new()
            .path(path)
            .build();
        let archive = gather(self.docker.download_from_container(name, Some(options)));
        match self.call("read a file", archive).await {
            Ok(archive) => Ok(Some(archive)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Unpacks `tar` in the directory `path` of a container, running or not.
    pub(super) async fn upload(
        &self,
        name: &str,
        path: &str,
        tar: Vec<u8>,
    ) -> Result<(), ContainerError> {
        let options = UploadToContainerOptionsBuilder::new().path(path).build();
        let body = body_full(tar.into());
        let uploaded = self.docker.upload_to_container(name, Some(options), body);
        self.call("write files", uploaded).await
    }

    /// The root file system of a container, as an archive.
    pub(super) fn export(
        &self,
        name: &str,
    ) -> impl Stream<Item = Result<Bytes, bollard::errors::Error>> + Send + use<> {
        self.docker.export_container(name)
    }

    /// Unpacks a stream that is an archive in the directory `path` of a container, as long as something moves.
    pub(super) async fn upload_stream(
        &self,
        name: &str,
        path: &str,
        tar: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), ContainerError> {
        let moved = Arc::new(AtomicU64::new(0));
        let moving = Arc::clone(&moved);
        let watched = tar.inspect(move |_| {
            moving.fetch_add(1, Ordering::Relaxed);
        });
        let options = UploadToContainerOptionsBuilder::new().path(path).build();
        let docker = self.docker.clone().with_timeout(NO_TIME);
        let uploaded = docker.upload_to_container(name, Some(options), body_try_stream(watched));
        let doing = "unpack a root file system";
        let standstill = async {
            let mut before = None;
            loop {
                let now = moved.load(Ordering::Relaxed);
                if before == Some(now) {
                    return;
                }
                before = Some(now);
                tokio::time::sleep(self.call_timeout()).await;
            }
        };
        tokio::select! {
            uploaded = uploaded => uploaded.map_err(|source| ContainerError::Refused { doing, source }),
            () = standstill => Err(ContainerError::Unanswered { doing, waited: self.call_timeout() }),
        }
    }
}

/// All of a stream that is small.
async fn gather(
    stream: impl Stream<Item = Result<Bytes, bollard::errors::Error>>,
) -> Result<Vec<u8>, bollard::errors::Error> {
    let mut stream = std::pin::pin!(stream);
    let mut all = Vec::new();
    while let Some(part) = stream.next().await {
        all.extend_from_slice(&part?);
        if all.len() > SMALL {
            return Err(bollard::errors::Error::DockerStreamError {
                error: format!("the answer is longer than {SMALL} bytes"),
            });
        }
    }
    Ok(all)
}
