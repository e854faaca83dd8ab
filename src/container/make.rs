//! How a container for one submission begins: the image is checked, and it is started.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tracing::debug;

use super::{
    Container, ContainerError, Request,
    oci_runtime::Keeper,
    options, slot,
    start::{Started, Starter},
    tools::Tools,
};
use crate::submission::{limits::Limits, names::Tenant, units::ByteSize};

/// The most images whose declarations are remembered.
const IMAGES: usize = 1_000;

/// Makes containers.
pub(super) struct Maker {
    pub(super) starter: Arc<Starter>,
    keeper: Keeper,
    /// The most that any stage may use.
    ceilings: Limits,
    /// Images that were inspected and are well. An id names the same image for ever.
    images: Mutex<HashSet<String>>,
}

impl Maker {
    pub(super) fn new(starter: Arc<Starter>, keeper: Keeper, ceilings: Limits) -> Self {
        Self {
            starter,
            keeper,
            ceilings,
            images: Mutex::default(),
        }
    }

    /// Whether a container can be made: one is, of an image with nothing in it, and let go of.
    pub(super) async fn probe(&self) -> Result<(), ContainerError> {
        let request = Request {
            tenant: Tenant::default_tenant(),
            image: slot::empty_image(&self.starter.remover.engine).await?,
            disk_bytes: ByteSize(1 << 20),
            inodes: 1,
            limits: self.ceilings.clone(),
            fresh: true,
        };
        self.make(&request).await.map(drop)
    }

    /// A container for `request`, its agent connected. Whatever fails, nothing stays behind.
    pub(super) async fn make(&self, request: &Request) -> Result<Container, ContainerError> {
        let began = Instant::now();
        self.check_image(&request.image).await?;
        let config = &self.starter.config;
        let started = self
            .starter
            .start(|place| options::create(config, self.keeper, request, place));
        let Started {
            session, occupancy, ..
        } = started.await?;
        debug!(container = occupancy.name(), image = request.image, took = ?began.elapsed(), "a container is made");
        let overhead = config.overhead_bytes;
        let allowance = self.keeper.allowance(&request.limits, overhead);
        let engine = self.starter.remover.engine.clone();
        Ok(Container::new(
            session,
            occupancy,
            engine,
            self.keeper,
            allowance,
            overhead,
            Tools::new(config, &self.ceilings),
        ))
    }

    /// An image's volumes would be writable, on disk and without bounds.
    async fn check_image(&self, image: &str) -> Result<(), ContainerError> {
        if self.images().contains(image) {
            return Ok(());
        }
        let volumes = self.starter.remover.engine.volumes_of(image).await?;
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
}
