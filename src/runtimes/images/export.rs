//! An image out of the Engine: its archive passes by once, each layer is compressed into a file beside, at a bounded pace and in a
//! thread of a low priority, and then what the store does not have is uploaded. The Engine's archive has been of two forms so far; what a file in it is, its digest says.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek as _, Write},
    path::Path,
};

use bollard::Docker;
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{CONFIG_BYTES, ImageError, LAYERS, Pace, pace};
use crate::{
    blobs::Blobs,
    submission::{
        content::Blob,
        installation::{StoredImage, StoredLayer},
        names::Digest,
        units::ByteSize,
    },
};

/// How hard it is compressed: higher is smaller and much slower.
const LEVEL: i32 = 3;

/// How much is read at a time.
const CHUNK: usize = 256 << 10;

/// A file of the archive, compressed.
struct Packed {
    size: u64,
    file: File,
    blob: Blob,
}

/// What passes by of an archive.
#[derive(Default)]
struct Parts {
    /// By the digest of what they are.
    files: HashMap<Digest, Packed>,
    /// The small ones, by their paths.
    texts: HashMap<String, Vec<u8>>,
}

/// An entry of the archive's `manifest.json`.
#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "Config")]
    config: String,
}

/// The part of an image's configuration that names its layers.
#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// The layers that a configuration names.
pub(super) fn layers(configuration: &[u8]) -> Result<Vec<Digest>, String> {
    let read: Configuration = serde_json::from_slice(configuration)
        .map_err(|error| format!("its configuration: {error}"))?;
    let layers = read.rootfs.diff_ids;
    if layers.is_empty() || layers.len() > LAYERS {
        return Err(format!(
            "it has {} layers, expected 1 to {LAYERS}",
            layers.len()
        ));
    }
    Ok(layers)
}

/// Stores the image `id` of the Engine; `scratch` is where its layers lie meanwhile, and `pace` how fast it is read. A layer that is
/// among the `known` ones, and still there, is not sent again.
pub async fn export(
    docker: &Docker,
    blobs: &Blobs,
    id: &Digest,
    known: &[StoredLayer],
    scratch: &Path,
    pace: Pace,
) -> Result<StoredImage, ImageError> {
    let archive = docker.export_image(id.as_str()).map_err(io::Error::other);
    let reader = SyncIoBridge::new(StreamReader::new(Box::pin(archive)));
    let scratch = scratch.to_owned();
    let parts = pace::behind(move || take_apart(reader, &scratch, pace)).await??;
    let wrong = |problem: String| ImageError::Archive {
        image: id.to_string(),
        problem,
    };
    let configuration = parts.configuration().map_err(wrong)?;
    let mut stored = StoredImage {
        config: blobs.put_bytes(configuration.clone().into()).await?,
        layers: Vec::new(),
    };
    for diff in layers(&configuration).map_err(wrong)? {
        // Another version of zstd may have packed it otherwise.
        if let Some(known) = known.iter().find(|known| known.diff == diff)
            && blobs.claim(&known.blob).await?
        {
            stored.layers.push(known.clone());
            continue;
        }
        let layer = parts.files.get(&diff);
        let layer = layer.ok_or_else(|| wrong(format!("it lacks the layer {diff}")))?;
        let file = &layer.file;
        let open = || async {
            let mut file = file.try_clone()?;
            file.rewind()?;
            Ok(tokio::fs::File::from_std(file))
        };
        blobs.put_again(&layer.blob, open, &|_| ()).await?;
        stored.layers.push(StoredLayer {
            diff,
            size_bytes: ByteSize(layer.size),
            blob: layer.blob.clone(),
        });
    }
    Ok(stored)
}

impl Parts {
    /// The configuration of the one image in it.
    fn configuration(&self) -> Result<Vec<u8>, String> {
        let manifest = self
            .texts
            .get("manifest.json")
            .ok_or("it has no manifest.json")?;
        let manifest: Vec<Manifest> = serde_json::from_slice(manifest)
            .map_err(|error| format!("its manifest.json: {error}"))?;
        let [image] = manifest.as_slice() else {
            return Err(format!("it has {} images, expected one", manifest.len()));
        };
        let configuration = self.texts.get(&image.config);
        configuration
            .cloned()
            .ok_or_else(|| format!("it lacks {}", image.config))
    }
}

/// Reads an archive of the Engine's to its end.
fn take_apart(archive: impl Read, scratch: &Path, mut pace: Pace) -> Result<Parts, ImageError> {
    std::fs::create_dir_all(scratch)?;
    let mut parts = Parts::default();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        // Directories; and links to layers that are there under another name.
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.to_string_lossy().into_owned();
        if entry.size() <= CONFIG_BYTES && Path::new(&path).extension().is_none_or(|it| it != "tar")
        {
            let mut text = Vec::new();
            entry.read_to_end(&mut text)?;
            let (digest, packed) = pack(&mut text.as_slice(), scratch, &mut pace)?;
            parts.files.insert(digest, packed);
            parts.texts.insert(path, text);
            continue;
        }
        let (digest, packed) = pack(&mut entry, scratch, &mut pace)?;
        parts.files.insert(digest, packed);
    }
    Ok(parts)
}

/// Compresses what `from` gives into a file that has no name; and the digest of what it gave.
fn pack(from: &mut impl Read, scratch: &Path, pace: &mut Pace) -> io::Result<(Digest, Packed)> {
    let out = Hashing {
        file: tempfile::tempfile_in(scratch)?,
        hash: Sha256::new(),
        size: 0,
    };
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        pace.work(|| {
            hash.update(&chunk[..count]);
            encoder.write_all(&chunk[..count])
        })?;
        size += count as u64;
    }
    let out = encoder.finish()?;
    let blob = Blob {
        digest: Digest::of_hash(out.hash),
        size_bytes: ByteSize(out.size),
    };
    let packed = Packed {
        size,
        file: out.file,
        blob,
    };
    Ok((Digest::of_hash(hash), packed))
}

/// A file that is hashed while it is written.
struct Hashing {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
