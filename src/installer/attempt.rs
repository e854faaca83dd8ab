//! One installation, from its definition to the catalogue. An error leaves the fleet as it was.

use time::OffsetDateTime;

use super::{
    Installer,
    log::InstallationLog,
    self_test::{self, TestError},
};
use crate::{
    bus::{
        installations::Taken,
        outage::Outage as _,
        runtimes::{Shelf, ShelfError},
    },
    config::Config,
    container::{ContainerError, Containers, Identity},
    runtimes::{
        definition::Definition,
        error::RuntimeError,
        images::{self, ImageError, Pace},
        progress::Progress,
    },
    submission::{
        installation::Installed,
        names::{Digest, RuntimeName, RuntimeVersion},
    },
    worker::trial::Trial,
};

/// What a definition is called in errors.
const FILE: &str = "the definition";

/// Why an installation failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    /// The definition is no text.
    #[error("the definition is not UTF-8: expected the text of a runtimes/<name>.toml")]
    Text,
    /// It is of another runtime.
    #[error("the definition is of {defined}, published as {published}: they have to be the same")]
    Name {
        defined: RuntimeName,
        published: RuntimeName,
    },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Test(#[from] TestError),
    #[error("no sandbox to test it in: {0}")]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

impl AttemptError {
    /// Whether this machine or NATS fails, and not what is installed.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Runtime(error) => error.is_outage(),
            Self::Image(error) => error.is_outage(),
            Self::Test(TestError::NotRun { source, .. }) => source.outage,
            Self::Container(error) => error.is_outage(),
            Self::Shelf(ShelfError::Api(error)) => error.is_outage(),
            Self::Text | Self::Name { .. } | Self::Test(_) | Self::Shelf(_) => false,
        }
    }
}

/// An installation under way.
pub(super) struct Attempt<'a> {
    installer: &'a Installer,
    name: &'a RuntimeName,
    taken: &'a Taken,
    log: InstallationLog,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(installer: &'a Installer, name: &'a RuntimeName, taken: &'a Taken) -> Self {
        let most = usize::try_from(installer.config.installer.log_bytes.0).unwrap_or(usize::MAX);
        Self {
            log: InstallationLog::new(&installer.bus, name.as_str(), taken.sequence, most),
            installer,
            name,
            taken,
        }
    }

    /// The end of what was said.
    pub(super) fn log(&self) -> String {
        self.log.end()
    }

    fn say(&self, line: String) {
        self.log.take(Progress::Step(line));
    }

    /// Does it; the image that is registered. `version` is set as soon as it is known.
    pub(super) async fn run(
        &self,
        version: &mut Option<RuntimeVersion>,
    ) -> Result<Digest, AttemptError> {
        let text = std::str::from_utf8(&self.taken.body).map_err(|_| AttemptError::Text)?;
        let definition = Definition::parse(FILE, text)?;
        *version = Some(definition.runtime.version.clone());
        if definition.runtime.name != *self.name {
            return Err(AttemptError::Name {
                defined: definition.runtime.name,
                published: self.name.clone(),
            });
        }
        let listener = |progress| self.log.take(progress);
        let Installer {
            runtimes, docker, ..
        } = self.installer;
        let image = runtimes.make(docker, &definition, &listener).await?;
        self.test(&definition, &image).await?;
        self.say(format!("{}: storing its image", definition.reference()));
        let scratch = self.installer.config.data_dir.0.join("runtimes/export");
        let known = runtimes.base_layers().await?;
        let pace = Pace::new(self.installer.config.installer.export_percent);
        let images = &self.installer.images;
        let stored = images::export(docker, images, &image, &known, &scratch, pace).await?;
        let installed = Installed {
            definition: text.to_owned(),
            image: image.clone(),
            stored: Some(stored),
            installer: self.installer.id.clone(),
            installed_at: OffsetDateTime::now_utc(),
        };
        let shelf = Shelf::new(&self.installer.bus);
        let runtime = &definition.runtime;
        shelf
            .put(&runtime.name, &runtime.version, &installed)
            .await?;
        self.say(format!("{}: registered", definition.reference()));
        Ok(image)
    }

    /// Tries it in sandboxes of this machine.
    async fn test(&self, definition: &Definition, image: &Digest) -> Result<(), AttemptError> {
        let Installer {
            config, docker, id, ..
        } = self.installer;
        let count = definition.tests.len();
        if count == 0 {
            self.say(format!("{}: it has no self-test", definition.reference()));
            return Ok(());
        }
        self.say(format!(
            "{}: running its {count} self-tests",
            definition.reference()
        ));
        let identity = Identity {
            worker: id.clone(),
            host: crate::worker::host_name(),
            state_dir: config.data_dir.0.join("workers").join(id),
        };
        let alone = alone(config);
        let containers = Containers::start(docker.clone(), &alone, identity, 1).await?;
        let trial = Trial {
            containers: &containers,
            config: &config.worker,
            blobs: &self.installer.images,
        };
        let tested = self_test::run(&trial, config, definition, image).await;
        containers.close().await;
        Ok(tested?)
    }
}

/// The configuration of the sandboxes of an installer: one at a time, none ahead.
fn alone(config: &Config) -> Config {
    let mut config = config.clone();
    config.container.pool_size = Some(1);
    config
}
