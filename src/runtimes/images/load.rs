//! An image into the Engine. The archive that the Engine loads is put together here while the layers come, and what names the image in
//! it is its last part: it is written only when every layer was seen to be the one that the configuration names. So an archive that is
//! not what it should be breaks off, and leaves the Engine as it was.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

use bollard::{
    Docker,
    models::BuildInfo,
    query_parameters::{ImportImageOptionsBuilder, TagImageOptionsBuilder},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{io::DuplexStream, runtime::Handle};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use super::{CONFIG_BYTES, ImageError, engine, export::layers};
use crate::{
    blobs::{BlobError, Blobs, Chunks},
    submission::{
        installation::{StoredImage, StoredLayer},
        names::Digest,
    },
};

/// How much of the archive waits for the Engine.
const BUFFER: usize = 512 << 10;

/// What the Engine says of an image without a name, before its id.
const LOADED: &str = "Loaded image ID: ";

/// Loads `stored` into the Engine, names it `repository:tag` for people, and returns its id there.
pub async fn load(
    docker: &Docker,
    blobs: &Blobs,
    stored: &StoredImage,
    repository: &str,
    tag: &str,
) -> Result<Digest, ImageError> {
    let image = stored.config.digest.to_string();
    let refused = |problem: String| ImageError::Refused {
        image: image.clone(),
        problem,
    };
    let configuration = configuration(blobs, stored).await?;
    let named = layers(&configuration).map_err(refused)?;
    if !named
        .iter()
        .eq(stored.layers.iter().map(|layer| &layer.diff))
    {
        return Err(refused(
            "the catalogue names other layers than its configuration".into(),
        ));
    }
    let mut sources = Vec::new();
    for layer in &stored.layers {
        sources.push((layer.clone(), blobs.get(&layer.blob).await?));
    }
    let (reader, writer) = tokio::io::duplex(BUFFER);
    let handle = Handle::current();
    let problem = Arc::new(Mutex::new(None));
    let building = tokio::task::spawn_blocking({
        let (problem, hex) = (Arc::clone(&problem), stored.config.digest.hex().to_owned());
        move || {
            let built = build(&handle, writer, &hex, &configuration, sources);
            if let Err(error) = built {
                *problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
    });
    let answers = give(docker, reader).await;
    // It ends: with the archive, or because nobody reads it any more.
    building.await.map_err(io::Error::other)?;
    let problem = problem
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    // Where the Engine does not take it any more, it says why.
    let answers = match (problem, answers) {
        (Some(problem), Err(error)) if is_broken_pipe(&problem) => return Err(error),
        (Some(problem), _) => {
            return Err(match problem.downcast::<BlobError>() {
                Ok(error) => ImageError::Store(*error),
                Err(problem) => refused(problem.to_string()),
            });
        }
        (None, answers) => answers?,
    };
    let id = id(docker, &answers, stored).await?;
    let options = TagImageOptionsBuilder::new()
        .repo(repository)
        .tag(tag)
        .build();
    let tagged = docker.tag_image(id.as_str(), Some(options)).await;
    tagged.map_err(engine("name an image"))?;
    Ok(id)
}

/// The image's configuration, which is small.
async fn configuration(blobs: &Blobs, stored: &StoredImage) -> Result<Vec<u8>, ImageError> {
    if stored.config.size_bytes.0 > CONFIG_BYTES {
        return Err(ImageError::Refused {
            image: stored.config.digest.to_string(),
            problem: format!("its configuration is longer than {CONFIG_BYTES} bytes"),
        });
    }
    let mut chunks = blobs.get(&stored.config).await?;
    let mut all = Vec::new();
    while let Some(chunk) = chunks.try_next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Gives the Engine the archive; what it says.
async fn give(docker: &Docker, archive: DuplexStream) -> Result<Vec<BuildInfo>, ImageError> {
    let options = ImportImageOptionsBuilder::new().quiet(true).build();
    // Longer than any archive takes: it is the stream that may not stand still, and its blobs see to that.
    let docker = docker
        .clone()
        .with_timeout(std::time::Duration::from_hours(24));
    let body = ReaderStream::with_capacity(archive, BUFFER / 4);
    let answers = docker.import_image_stream(options, body, None);
    answers.try_collect().await.map_err(engine("load an image"))
}

fn is_broken_pipe(problem: &Problem) -> bool {
    let error = problem.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Writes the archive of one image: its configuration, its layers, and at last what names them. An archive that is not finished is
/// dropped without its end.
fn build(
    handle: &Handle,
    writer: DuplexStream,
    hex: &str,
    configuration: &[u8],
    layers: Vec<(StoredLayer, Chunks)>,
) -> Result<(), Problem> {
    let writer = SyncIoBridge::new_with_handle(writer, handle.clone());
    let mut archive = tar::Builder::new(writer);
    let name = format!("{hex}.json");
    append(
        &mut archive,
        &name,
        configuration.len() as u64,
        configuration,
    )?;
    let mut names = Vec::new();
    for (layer, chunks) in layers {
        let path = format!("{}.tar", layer.diff.hex());
        // A layer may be there twice.
        if !names.contains(&path) {
            append_layer(handle, &mut archive, &path, &layer, chunks)?;
        }
        names.push(path);
    }
    let manifest = json!([{"Config": name, "RepoTags": null, "Layers": names}]).to_string();
    append(
        &mut archive,
        "manifest.json",
        manifest.len() as u64,
        manifest.as_bytes(),
    )?;
    archive.into_inner()?.shutdown()?;
    Ok(())
}

fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    size: u64,
    data: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, data)
}

/// Unpacks a layer into the archive; an error where it is not what its digests say.
fn append_layer<W: io::Write>(
    handle: &Handle,
    archive: &mut tar::Builder<W>,
    path: &str,
    layer: &StoredLayer,
    chunks: Chunks,
) -> Result<(), Problem> {
    let failed = Arc::new(Mutex::new(None));
    let failing = Arc::clone(&failed);
    let bytes = chunks.map(move |chunk| -> io::Result<Bytes> {
        chunk.map_err(|error| {
            let shown = io::Error::other(error.to_string());
            *failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            shown
        })
    });
    let packed = SyncIoBridge::new_with_handle(StreamReader::new(Box::pin(bytes)), handle.clone());
    let unpacked = zstd::Decoder::new(packed).and_then(|decoder| {
        let mut hashing = Hashing {
            // Not a byte more than the catalogue says, however much is packed into it.
            from: decoder.take(layer.size_bytes.0),
            hash: Sha256::new(),
            seen: 0,
        };
        append(archive, path, layer.size_bytes.0, &mut hashing)?;
        let (seen, hash) = (hashing.seen, hashing.hash);
        // What follows is read too: the end of the blob says whether it was the named one.
        let more = io::copy(&mut hashing.from.into_inner(), &mut io::sink())?;
        Ok((seen + more, Digest::of_hash(hash)))
    });
    if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error.into());
    }
    let (size, found) = unpacked?;
    if size != layer.size_bytes.0 || found != layer.diff {
        let named = &layer.diff;
        return Err(
            format!("the layer {named} is {found} of {size} bytes when it is unpacked").into(),
        );
    }
    Ok(())
}

/// A reader that is hashed on the way.
struct Hashing<R> {
    from: R,
    hash: Sha256,
    seen: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(bytes)?;
        self.hash.update(&bytes[..count]);
        self.seen += count as u64;
        Ok(count)
    }
}

/// The id of what was loaded: the digest of its configuration, or what the Engine says where it names images otherwise. Its layers
/// are the named ones, whatever the Engine says.
async fn id(
    docker: &Docker,
    answers: &[BuildInfo],
    stored: &StoredImage,
) -> Result<Digest, ImageError> {
    let said = answers.iter().find_map(|answer| {
        let line = answer.stream.as_deref()?.trim();
        line.strip_prefix(LOADED)?.parse().ok()
    });
    let id = said.unwrap_or_else(|| stored.config.digest.clone());
    let inspected = docker.inspect_image(id.as_str()).await;
    let inspected = inspected.map_err(engine("find the image that it loaded"))?;
    let found = inspected
        .root_fs
        .and_then(|it| it.layers)
        .unwrap_or_default();
    if !found
        .iter()
        .map(String::as_str)
        .eq(stored.layers.iter().map(|layer| layer.diff.as_str()))
    {
        return Err(ImageError::Refused {
            image: id.to_string(),
            problem: "the Engine has other layers under this id".to_owned(),
        });
    }
    Ok(id)
}
