//! The work directory of a submission: its files, and what its stages find of the ones before them.

use std::{io, path::PathBuf};

use envicutor_protocol::File;

use crate::{
    failure::{Failure, Naming},
    files,
    identity::Identity,
    kept::Kept,
};

/// A submission's work directory.
pub struct Work {
    /// Where the agent finds it.
    pub path: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    /// Whether a stage has ever run: no file is taken after that.
    has_run: bool,
    /// What `Keep` kept.
    kept: Option<Kept>,
    /// Whether the work directory may be another than what was kept.
    is_altered: bool,
}

impl Work {
    /// The directory at `path`, which is `identity`'s, empty.
    pub fn new(path: PathBuf, identity: Identity) -> Self {
        Self {
            path,
            identity,
            has_run: false,
            kept: None,
            is_altered: false,
        }
    }

    /// Whether a stage has run.
    pub fn has_run(&self) -> bool {
        self.has_run
    }

    /// Writes a file, or its next part.
    pub fn write(&self, file: &File) -> Result<(), Failure> {
        if self.has_run || self.kept.is_some() {
            let expected = "files before `keep` and the first stage";
            return Err(Failure::out_of_order("file", expected));
        }
        files::write(file, &self.path, self.identity)
    }

    /// Has every later stage find what is there now: the memory that this takes in bytes, or `None` where there is no room.
    pub fn keep(&mut self) -> Result<Option<u64>, Failure> {
        // The one before goes first: there may be no room for both.
        self.kept = None;
        match Kept::take(&self.path, self.identity) {
            Ok(kept) => {
                self.is_altered = !kept.is_exact;
                Ok(Some(self.kept.insert(kept).bytes()))
            }
            Err(error) if is_no_room(&error) => Ok(None),
            Err(error) => {
                let object = self.path.display();
                Err(Failure::new("keep the work directory", object, error))
            }
        }
    }

    /// Makes it what the next stage is to find. False where there is no room for what was kept.
    pub fn begin_stage(&mut self) -> Result<bool, Failure> {
        if let Some(kept) = self.kept.as_ref().filter(|_| self.is_altered) {
            match kept.lay_out() {
                Err(error) if is_no_room(&error) => return Ok(false),
                laid_out => laid_out.naming("lay out what was kept", self.path.display())?,
            }
        }
        self.begin_tool();
        Ok(true)
    }

    /// Leaves it as it is for a tool, which is no stage but may alter it as one does.
    pub fn begin_tool(&mut self) {
        self.has_run = true;
        self.is_altered = true;
    }
}

/// Whether a step failed for want of memory or of disk in memory: a submission's doing.
fn is_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOSPC))
}
