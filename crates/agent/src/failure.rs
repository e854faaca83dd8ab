//! What the agent could not do: the step, on what, and the system's error. Never a verdict on the submission.

use std::{fmt::Display, io};

use envicutor_protocol::Report;

/// A step of the agent's own that failed. It ends the agent.
#[derive(Debug, thiserror::Error)]
#[error("the agent could not {step} ({object}): {error}")]
pub struct Failure {
    /// What it was doing: `write file`, `fork`.
    pub step: String,
    /// On what: a path, a command.
    pub object: String,
    /// The system's error, or what was expected.
    pub error: String,
}

impl Failure {
    /// A failure of `step` on `object`.
    pub fn new(step: &str, object: impl Display, error: impl Display) -> Self {
        Self::of(step, &object, &error)
    }

    /// The worker sent `command` when it was not its turn.
    pub fn out_of_order(command: &str, expected: &str) -> Self {
        let error = format!("it came out of order, expected {expected}");
        Self::new("obey", command, error)
    }

    /// The same for all types: one copy of it is enough.
    #[cold]
    #[inline(never)]
    fn of(step: &str, object: &dyn Display, error: &dyn Display) -> Self {
        Self {
            step: step.to_owned(),
            object: object.to_string(),
            error: error.to_string(),
        }
    }

    /// As the worker is told.
    pub fn report(&self) -> Report {
        Report::Failed {
            step: self.step.clone(),
            object: self.object.clone(),
            error: self.error.clone(),
        }
    }
}

/// Names the step and the object of a system call that failed.
pub trait Naming<T> {
    /// The value, or a [`Failure`] of `step` on `object`.
    fn naming(self, step: &str, object: impl Display) -> Result<T, Failure>;
}

impl<T> Naming<T> for io::Result<T> {
    fn naming(self, step: &str, object: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, object, error))
    }
}
