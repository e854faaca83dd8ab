//! A program that is run for the fleet's own sake, as a submission's is: no delivery, no events, no result. Who asks gets what came
//! of the stages.

use std::collections::BTreeMap;

use super::{
    compilations::Compilations,
    execute::{self, Came, Executed, Fault, Means},
    live::{Live, Origin},
    outputs::Outlet,
    stage::Staged,
    trouble::Trouble,
};
use crate::{
    blobs::Blobs,
    config,
    container::{ContainerError, Containers},
    submission::{
        encoding::Encoding,
        message::EventsWanted,
        names::{Digest, SubmissionId, Tenant},
        plan::Plan,
        units::ByteSize,
    },
};

/// It could not be run: a failure of ours.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TrialError {
    message: String,
    /// This machine or the store fails.
    pub outage: bool,
}

impl From<Trouble> for TrialError {
    fn from(trouble: Trouble) -> Self {
        Self {
            outage: trouble.outage.is_some(),
            message: trouble.message,
        }
    }
}

impl From<ContainerError> for TrialError {
    fn from(error: ContainerError) -> Self {
        Trouble::container("start", &error).into()
    }
}

/// Where a trial runs.
pub(crate) struct Trial<'a> {
    pub(crate) containers: &'a Containers,
    pub(crate) config: &'a config::Worker,
    /// Where outputs go that are too long to be shown.
    pub(crate) blobs: &'a Blobs,
}

impl Trial<'_> {
    /// Runs `plan`, which holds all that it needs, in a sandbox of `image` that nobody else gets.
    pub(crate) async fn run(&self, plan: &Plan, image: &Digest) -> Result<Executed, TrialError> {
        let tenant = Tenant::default_tenant();
        let request = execute::request(plan, &tenant, image, true)
            .ok_or_else(|| Trouble::bug("a plan without stages"))?;
        let mut sandbox = self.containers.take(&request).await?;
        let origin = Origin {
            tenant,
            id: SubmissionId::generate(),
            generation: 0,
            attempt: 1,
            worker: String::new(),
            labels: BTreeMap::new(),
            message: 0,
        };
        let means = Means {
            plan,
            staged: &Staged::nothing(),
            outlet: Outlet::new(self.blobs, self.config),
            live: &Live::new(origin, EventsWanted::None, Encoding::default()),
            most_packed: ByteSize(0),
            // Of its own: it waits for nobody, and nobody waits for it.
            compilations: &Compilations::new(self.config, 1),
        };
        let came = means.execute(&mut sandbox).await;
        sandbox.end().await;
        match came {
            Ok(Came::Executed(executed)) => Ok(*executed),
            Ok(Came::Refused(problem)) => Err(Trouble::bug(&problem).into()),
            Err(Fault::Trouble(trouble)) => Err(trouble.into()),
            Err(Fault::Build(_)) => Err(Trouble::bug("no build was staged").into()),
        }
    }
}
