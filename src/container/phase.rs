//! What may be done with a container that serves a submission: files first, then stages, one at a time. Whatever was not
//! seen to its end leaves it used up.

use super::ContainerError;

/// Where a submission stands in its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Files may be laid out.
    Fresh,
    /// Stages may run.
    Open,
    /// Something is under way, or was not seen to its end.
    Busy,
}

impl Phase {
    /// Begins `what`, which is allowed in `wanted` only. Whoever ends well sets the next phase.
    pub(super) fn enter(&mut self, wanted: Self, what: &'static str) -> Result<(), ContainerError> {
        if *self != wanted {
            let state = match self {
                Self::Fresh => "not open yet",
                Self::Open => "open already",
                Self::Busy => "used up",
            };
            return Err(ContainerError::Misused { what, state });
        }
        *self = Self::Busy;
        Ok(())
    }
}
