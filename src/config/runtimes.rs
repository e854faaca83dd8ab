//! `runtimes`: the definitions, and how their images are made.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::submission::units::Micros;

/// The runtimes and their images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtimes {
    /// A directory of `<name>.toml` besides the ones that come with the program.
    pub dir: Option<PathBuf>,
    /// The base image: pulled where a registry has it, else bootstrapped from Debian's packages.
    pub base_image: String,
    /// The Debian suite of a bootstrapped base.
    pub suite: String,
    /// The runtimes to prepare when a worker starts; absent: none, each is prepared when it is first used.
    pub preload: Vec<String>,
    /// How long the base image may take to pull or bootstrap, and a runtime's image to build, each.
    pub prepare_timeout_us: Micros,
    /// Images that are loaded from the object store and stay; past it those that were not used for longest go.
    pub loaded_images: usize,
    /// How often a worker reads the fleet's catalogue anew, besides being told of each change.
    pub refresh_us: Micros,
    /// How long after its start a worker measures what starting each runtime costs, if it has nothing else to do then.
    pub measure_after_us: Micros,
}

impl Default for Runtimes {
    fn default() -> Self {
        Self {
            dir: None,
            base_image: "debian:bookworm-slim".into(),
            suite: "bookworm".into(),
            preload: Vec::new(),
            prepare_timeout_us: Micros(1_800_000_000),
            loaded_images: 100,
            refresh_us: Micros(30_000_000),
            measure_after_us: Micros(30_000_000),
        }
    }
}
