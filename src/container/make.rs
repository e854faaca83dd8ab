//! How a container begins: from an image's id to an agent that has said hello.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tracing::debug;
use uuid::Uuid;

use super::{
    Container, ContainerError, Request,
    door::Door,
    options::{self, Allowance, Place},
    removal::{Existence, Occupancy, Remover},
    session::Session,
    state_dir::{SHORT_NAME_CHARS, StateDir},
    sweep::Labels,
    uids::Uids,
};
use crate::config;

/// An agent connects within a few milliseconds. After this the Engine is asked whether the container has ended.
const DOUBT: Duration = Duration::from_millis(500);

/// The most images whose declarations are remembered.
const IMAGES: usize = 1_000;

/// Makes containers.
pub(super) struct Maker {
    pub(super) config: config::Container,
    pub(super) state_dir: StateDir,
    pub(super) labels: Labels,
    pub(super) uids: Uids,
    pub(super) remover: Remover,
    /// Images that were inspected and are well. An id names the same image for ever.
    images: Mutex<HashSet<String>>,
}

impl Maker {
    pub(super) fn new(
        config: config::Container,
        state_dir: StateDir,
        labels: Labels,
        uids: Uids,
        remover: Remover,
    ) -> Self {
        Self {
            config,
            state_dir,
            labels,
            uids,
            remover,
            images: Mutex::default(),
        }
    }

    /// A container for `request`, its agent connected. Whatever fails, nothing stays behind.
    pub(super) async fn make(&self, request: &Request) -> Result<Container, ContainerError> {
        let began = Instant::now();
        self.check_image(&request.image).await?;
        let short_name = short_name();
        let socket_dir = self.state_dir.socket_dir(&short_name);
        let mut occupancy = self.remover.occupy(
            format!("envicutor-{short_name}"),
            socket_dir.clone(),
            self.uids.take()?,
        );
        let door = Door::open(&socket_dir)?;
        let agent = self.state_dir.agent();
        let place = Place {
            uid: occupancy.uid(),
            agent: &agent,
            socket_dir: &socket_dir,
            labels: &self.labels,
        };
        let body = options::create(&self.config, request, &place);
        self.create(&mut occupancy, body).await?;
        let patience = self.config.start_timeout_us.duration();
        let session = timeout(patience, self.start(&mut occupancy, door))
            .await
            .map_err(|_| ContainerError::NoAgent {
                name: occupancy.name().to_owned(),
                problem: format!("{patience:?} have passed (container.start_timeout_us)"),
            })??;
        debug!(container = occupancy.name(), image = request.image, took = ?began.elapsed(), "a container is made");
        let allowance = Allowance::of(&request.limits, self.config.overhead_bytes);
        let overhead = self.config.overhead_bytes;
        let engine = self.remover.engine.clone();
        Ok(Container::new(
            session, occupancy, engine, allowance, overhead,
        ))
    }

    /// An image's volumes would be writable, on disk and without bounds.
    async fn check_image(&self, image: &str) -> Result<(), ContainerError> {
        if self.images().contains(image) {
            return Ok(());
        }
        let volumes = self.remover.engine.volumes_of(image).await?;
        if !volumes.is_empty() {
            return Err(ContainerError::ImageUnusable {
                image: image.to_owned(),
                problem: format!(
                    "it declares the volumes {}, expected none",
                    volumes.join(", ")
                ),
            });
        }
        let mut images = self.images();
        if images.len() >= IMAGES {
            images.clear();
        }
        images.insert(image.to_owned());
        Ok(())
    }

    fn images(&self) -> MutexGuard<'_, HashSet<String>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create(
        &self,
        occupancy: &mut Occupancy,
        body: bollard::models::ContainerCreateBody,
    ) -> Result<(), ContainerError> {
        occupancy.set(Existence::Unknown);
        let created = self.remover.engine.create(occupancy.name(), body).await;
        occupancy.set(match &created {
            Ok(()) => Existence::Created,
            Err(error) if error.is_outage() => Existence::Unknown,
            Err(_) => Existence::None,
        });
        created
    }

    async fn start(
        &self,
        occupancy: &mut Occupancy,
        door: Door,
    ) -> Result<Session, ContainerError> {
        self.remover.engine.start(occupancy.name()).await?;
        occupancy.set(Existence::Started);
        let stream = tokio::select! {
            stream = door.admit() => stream?,
            error = self.early_end(occupancy.name()) => return Err(error),
        };
        Session::greet(stream).await
    }

    /// Resolves only if the container ends.
    async fn early_end(&self, name: &str) -> ContainerError {
        sleep(DOUBT).await;
        let problem = match self.remover.engine.wait_until_stopped(name).await {
            Some(code) => format!("it ended with exit code {code}"),
            None => "it ended".to_owned(),
        };
        ContainerError::NoAgent {
            name: name.to_owned(),
            problem,
        }
    }
}

/// A name that no container has had: hexadecimal digits at random.
fn short_name() -> String {
    let random = Uuid::from_u128(rand::random()).simple().to_string();
    random[..SHORT_NAME_CHARS].to_owned()
}
