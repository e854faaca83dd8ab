//! A project as one archive: what it is, not how it is read. Nobody but a process inside the sandbox ever opens one that came
//! with a submission.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::content::Content;

/// An archive that is extracted into the work directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// How it is packed.
    pub format: ArchiveFormat,
    /// Its bytes.
    pub content: Content,
    /// How many leading components of every entry's path are dropped; an entry with no more than these is left out.
    pub strip_components: u32,
}

/// How an archive is packed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
pub enum ArchiveFormat {
    /// A tar archive as it is.
    #[serde(rename = "tar")]
    #[value(name = "tar")]
    Tar,
    /// A tar archive, compressed with gzip.
    #[serde(rename = "tar.gz")]
    #[value(name = "tar.gz")]
    TarGz,
    /// A tar archive, compressed with Zstandard.
    #[serde(rename = "tar.zst")]
    #[value(name = "tar.zst")]
    TarZst,
    /// A zip archive.
    #[serde(rename = "zip")]
    #[value(name = "zip")]
    Zip,
}

/// The endings of file names.
const ENDINGS: [(&str, ArchiveFormat); 7] = [
    (".zip", ArchiveFormat::Zip),
    (".tar", ArchiveFormat::Tar),
    (".tar.gz", ArchiveFormat::TarGz),
    (".tgz", ArchiveFormat::TarGz),
    (".tar.zst", ArchiveFormat::TarZst),
    (".tar.zstd", ArchiveFormat::TarZst),
    (".tzst", ArchiveFormat::TarZst),
];

impl ArchiveFormat {
    /// The format that a file's name says.
    pub fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let mut endings = ENDINGS.iter();
        endings
            .find(|(ending, _)| name.len() > ending.len() && name.ends_with(ending))
            .map(|(_, format)| *format)
    }
}

impl Archive {
    /// The archive or directory at `path` of this machine. What no ending tells is a directory, which is packed as `tar.zst`.
    pub fn from_path(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            format: ArchiveFormat::of_name(&path).unwrap_or(ArchiveFormat::TarZst),
            content: Content::Local(path),
            strip_components: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_how_an_archive_is_packed() {
        for (name, format) in [
            ("a/project.zip", Some(ArchiveFormat::Zip)),
            ("project.TAR", Some(ArchiveFormat::Tar)),
            ("project.tar.gz", Some(ArchiveFormat::TarGz)),
            ("project.tgz", Some(ArchiveFormat::TarGz)),
            ("project.tar.zst", Some(ArchiveFormat::TarZst)),
            ("project", None),
            ("project.gz", None),
            (".zip", None),
            ("..", None),
        ] {
            assert_eq!(ArchiveFormat::of_name(Path::new(name)), format, "{name}");
        }
    }
}
