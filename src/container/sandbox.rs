//! Where a submission runs, whatever the isolation: the same steps in the same order.

use std::time::Duration;

use super::{
    Collect, Collected, Container, ContainerError, Feed, Finished, LaidOut, Observed, Pack, Packed,
    Refused, Stay, Unpack, Unpacked,
};
use crate::submission::{plan::StagePlan, result::Start, units::ByteSize};

/// The place of one submission. Dropped instead of ended, it is destroyed.
pub enum Sandbox {
    /// A container of its own.
    Container(Box<Container>),
    /// A stay in a slot of its tenant's.
    Slot(Box<Stay>),
}

impl Sandbox {
    /// Whether its container waited for it, and its stages so far began from a template.
    pub fn start(&self) -> Start {
        match self {
            Self::Container(container) => container.start(),
            Self::Slot(stay) => stay.start(),
        }
    }

    /// Its container's name at the Docker Engine.
    pub fn name(&self) -> &str {
        match self {
            Self::Container(container) => container.name(),
            Self::Slot(stay) => stay.name(),
        }
    }

    /// Has `files` written to the work directory. Once, first of all.
    pub async fn lay_out(&mut self, files: &[LaidOut<'_>]) -> Result<(), ContainerError> {
        match self {
            Self::Container(container) => container.lay_out(files).await,
            Self::Slot(stay) => stay.lay_out(files).await,
        }
    }

    /// Has `archive` unpacked into the work directory, behind the walls of a stage. After [`Self::lay_out`] and before the first
    /// stage: an entry of the path of a file that was laid out is refused, as one that is named twice is. After a refusal the
    /// work directory holds whatever was unpacked before it.
    pub async fn unpack(
        &mut self,
        archive: Feed<'_>,
        how: &Unpack,
    ) -> Result<Result<Unpacked, Refused>, ContainerError> {
        match self {
            Self::Container(container) => container.unpack(archive, how).await,
            Self::Slot(stay) => stay.unpack(archive, how).await,
        }
    }

    /// Runs `stage` with the standard input `stdin`, for at most `wall_cap` of wall time (what is left to the submission), and
    /// shows what happens meanwhile to `observe`.
    ///
    /// A future that is dropped leaves a place that can only be destroyed.
    pub async fn run(
        &mut self,
        stage: &StagePlan,
        stdin: Feed<'_>,
        wall_cap: Duration,
        observe: &mut (dyn FnMut(Observed<'_>) + Send),
    ) -> Result<Finished, ContainerError> {
        match self {
            Self::Container(container) => container.run(stage, stdin, wall_cap, observe).await,
            Self::Slot(stay) => stay.run(stage, stdin, wall_cap, observe).await,
        }
    }

    /// Reads out the files of the work directory that match, as the stage before has left them. Links are never followed; what
    /// cannot be read, or is over a bound, is skipped.
    pub async fn collect(&mut self, what: &Collect) -> Result<Collected, ContainerError> {
        match self {
            Self::Container(container) => container.collect(what).await,
            Self::Slot(stay) => stay.collect(what).await,
        }
    }

    /// Reads out the whole work directory as an archive that [`Self::unpack`] takes ([`super::Format::Tar`],
    /// [`super::Faith::Packed`]): directories, files, symbolic links, their modes and times. Refused where it is over a bound, or
    /// holds what such an archive cannot.
    pub async fn pack(&mut self, most: &Pack) -> Result<Result<Packed, Refused>, ContainerError> {
        match self {
            Self::Container(container) => container.pack(most).await,
            Self::Slot(stay) => stay.pack(most).await,
        }
    }

    /// What the work directory holds now is what every later stage finds, whatever the stages between do to it. What this
    /// takes of memory comes on top of the stages' limits; `room` is the most that it may be. False where it is more: then
    /// nothing is kept.
    pub async fn keep(&mut self, room: ByteSize) -> Result<bool, ContainerError> {
        match self {
            Self::Container(container) => container.keep(room).await,
            Self::Slot(stay) => stay.keep().await,
        }
    }

    /// Ends it, in the background: `Containers::close` waits for that.
    pub async fn end(self) {
        match self {
            Self::Container(container) => container.destroy().await,
            Self::Slot(stay) => stay.end(),
        }
    }
}
