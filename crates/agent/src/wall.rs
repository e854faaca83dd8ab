//! The wall around the stages: what the two kinds of agent do each in their own way.

use std::{os::fd::OwnedFd, path::PathBuf};

use envicutor_protocol::{Open, Origin, Prepare, Stage as Order};

use crate::{
    failure::Failure,
    meter::{Meter, Nothing},
    spawn::Spawned,
    work::Work,
};

/// A program that was started, or refused, and what measures it.
pub struct Launched {
    /// What came of starting it.
    pub spawned: Spawned,
    /// What it uses.
    pub meter: Box<dyn Meter>,
    /// Where the agent finds the program's file.
    pub program: PathBuf,
    /// Where it began.
    pub origin: Origin,
}

impl Launched {
    /// There was not even the memory to begin.
    pub fn out_of_memory() -> Self {
        Self {
            spawned: Spawned::Refused(libc::ENOMEM),
            meter: Box::new(Nothing),
            program: PathBuf::new(),
            origin: Origin::Exec,
        }
    }
}

/// A wall. The agent calls it in the order of the protocol.
pub trait Wall {
    /// Makes ready what all stages share, and tries it.
    fn prepare(&mut self, order: &Prepare) -> Result<(), Failure>;

    /// A submission begins: its work directory.
    fn open(&mut self, open: &Open) -> Result<Work, Failure>;

    /// Takes away what stages have left outside of the work directory. No stage runs.
    fn clean(&mut self, work: &Work) -> Result<(), Failure>;

    /// Starts what `order` says in the work directory, with `stdio` as its descriptors 0, 1 and 2.
    fn launch(
        &mut self,
        order: &Order,
        work: &Work,
        stdio: &[OwnedFd; 3],
    ) -> Result<Launched, Failure>;

    /// A stage is over and was reported: makes ready for the next one.
    fn make_ahead(&mut self) -> Result<(), Failure>;

    /// The submission is over. What is not as it was before `open`, if anything.
    fn close(&mut self, work: Work) -> Result<Option<String>, Failure>;

    /// The end was told, and no submission has begun: time for what makes later ones faster.
    fn settle(&mut self);
}
