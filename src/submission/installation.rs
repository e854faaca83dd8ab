//! A runtime on its way into the fleet, and what the fleet keeps of one that is there: the messages of
//! `envicutor.installations.<name>` and of KV `runtimes` and `installations`. What is published to install one is its definition,
//! the text of the file.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    content::Blob,
    names::{Digest, RuntimeName, RuntimeRef, RuntimeVersion},
    units::ByteSize,
};

/// A version of a runtime, as the fleet has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The definition: the text of its file.
    pub definition: String,
    /// The image's id at the Engine that made it.
    pub image: Digest,
    /// Where the image is in the object store; absent: every Engine makes it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<StoredImage>,
    /// The installer that made it.
    pub installer: String,
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    pub installed_at: OffsetDateTime,
}

/// An image in the object store: its configuration, whose digest is the image's id, and its layers from the lowest on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// The image's configuration.
    pub config: Blob,
    /// Its layers.
    pub layers: Vec<StoredLayer>,
}

/// A layer of an image in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLayer {
    /// The digest of the archive that it is.
    pub diff: Digest,
    /// The size of that archive.
    pub size_bytes: ByteSize,
    /// The archive, compressed with zstd.
    pub blob: Blob,
}

/// What became of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// The runtime's name, as the subject has it.
    pub name: RuntimeName,
    /// Its version; absent where the definition cannot be read.
    pub version: Option<RuntimeVersion>,
    /// Its message's place in the stream: who published it knows it by that.
    pub sequence: u64,
    /// How far it is.
    pub state: InstallationState,
    /// How often it was begun.
    pub attempts: u64,
    /// Why it failed.
    pub error: Option<String>,
    /// The image that it made.
    pub image: Option<Digest>,
    /// The end of its log.
    pub log: String,
    /// Who does it.
    pub installer: String,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

/// How far an installation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstallationState {
    /// It is under way.
    Running,
    /// The runtime is there.
    Installed,
    /// It failed, and nothing has changed.
    Failed,
    /// A later version's word.
    #[serde(other)]
    Unknown,
}

impl Installation {
    /// The name, with the version where it is known.
    pub fn reference(&self) -> RuntimeRef {
        RuntimeRef {
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        matches!(
            self.state,
            InstallationState::Installed | InstallationState::Failed
        )
    }
}
