//! A runtime's root file system on the host's own file system, taken out of its image once.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptions, RemoveContainerOptions},
};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::submission::names::Digest;

/// Why the root file system could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Docker.
    #[error("the image {image} cannot be exported: {source}")]
    Engine {
        /// Which.
        image: Digest,
        /// Why.
        source: bollard::errors::Error,
    },
    /// The disk.
    #[error("the root file system cannot be unpacked to {path}: {problem}")]
    Unpack {
        /// Where to.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
}

/// The root file system of `image` below `dir`; unpacked now where it is not there.
pub async fn unpack(docker: &Docker, image: &Digest, dir: &Path) -> Result<PathBuf, RootError> {
    let root = dir.join(image.as_str().replace(':', "-"));
    if root.is_dir() {
        return Ok(root);
    }
    let engine = |source| RootError::Engine {
        image: image.clone(),
        source,
    };
    let partial = dir.join("partial");
    let unpack = |problem: String| RootError::Unpack {
        path: partial.clone(),
        problem,
    };
    let disk = |error: std::io::Error| unpack(error.to_string());
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(disk)?;
    }
    std::fs::create_dir_all(&partial).map_err(disk)?;
    let body = ContainerCreateBody {
        image: Some(image.to_string()),
        entrypoint: Some(vec!["/never-started".to_owned()]),
        labels: Some([("envicutor.bench".to_owned(), "1".to_owned())].into()),
        ..ContainerCreateBody::default()
    };
    let created = docker
        .create_container(None::<CreateContainerOptions>, body)
        .await
        .map_err(engine)?;
    let exported = export(docker, &created.id, &partial).await;
    let force = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    docker
        .remove_container(&created.id, Some(force))
        .await
        .map_err(engine)?;
    exported.map_err(unpack)?;
    std::fs::create_dir_all(partial.join("work")).map_err(disk)?;
    std::fs::rename(&partial, &root).map_err(disk)?;
    Ok(root)
}

async fn export(docker: &Docker, container: &str, into: &Path) -> Result<(), String> {
    let mut tar = tokio::process::Command::new("tar")
        .args(["-x", "-C"])
        .arg(into)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("tar cannot be started: {error}"))?;
    if let Some(mut input) = tar.stdin.take() {
        let mut parts = docker.export_container(container);
        while let Some(part) = parts.next().await {
            let part = part.map_err(|error| error.to_string())?;
            input
                .write_all(&part)
                .await
                .map_err(|error| error.to_string())?;
        }
    }
    let status = tar.wait().await.map_err(|error| error.to_string())?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("tar ended with {status}"))
    }
}
