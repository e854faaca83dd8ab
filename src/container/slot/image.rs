//! The image of slots: directories to mount on, and nothing else. Nothing in a slot comes from an image, so that no runtime and
//! no storage driver is in the way.

use crate::{
    container::{ContainerError, engine::Engine, tar::Small},
    submission::names::Digest,
};

/// Its repository, for people.
const REPOSITORY: &str = "envicutor-slot";

/// The label by which it is found again: the digest of its content.
const LABEL: &str = "envicutor.slot";

/// Everything in it.
const DIRECTORIES: [&str; 5] = ["dev", "envicutor", "proc", "sys", "tmp"];

/// The id of the image, which is made where it is not there.
pub(in crate::container) async fn prepare(engine: &Engine) -> Result<String, ContainerError> {
    let tar = root_file_system();
    let digest = Digest::of(&tar).to_string();
    let label = format!("{LABEL}={digest}");
    if let Some(id) = find(engine, &label).await? {
        return Ok(id);
    }
    let tag: String = digest
        .trim_start_matches("sha256:")
        .chars()
        .take(12)
        .collect();
    engine.import(tar, REPOSITORY, &tag, &label).await?;
    let missing = || ContainerError::ImageMissing {
        image: format!("{REPOSITORY}:{tag}"),
    };
    find(engine, &label).await?.ok_or_else(missing)
}

async fn find(engine: &Engine, label: &str) -> Result<Option<String>, ContainerError> {
    let images = engine.images(label.to_owned()).await?;
    Ok(images.into_iter().next_back().map(|image| image.id))
}

fn root_file_system() -> Vec<u8> {
    let mut tar = Small::new();
    for directory in DIRECTORIES {
        tar.directory(directory);
    }
    tar.end()
}
