//! A failure of ours while a submission ran: never its verdict.

use crate::{
    container::ContainerError, runtimes::error::RuntimeError, submission::result::FailureCode,
};

/// A failure of ours while it ran.
pub(super) struct Trouble {
    pub(super) code: FailureCode,
    pub(super) stage: &'static str,
    pub(super) message: String,
    /// The whole worker cannot run anything: not this submission's doing, and not counted.
    pub(super) outage: bool,
}

impl Trouble {
    pub(super) fn bug(message: &str) -> Self {
        Self {
            code: FailureCode::Internal,
            stage: "worker",
            message: message.to_owned(),
            outage: false,
        }
    }

    pub(super) fn image(error: &RuntimeError) -> Self {
        let outage = error.is_outage();
        Self {
            code: FailureCode::Image,
            stage: "image",
            message: error.to_string(),
            outage,
        }
    }

    pub(super) fn container(stage: &'static str, error: &ContainerError) -> Self {
        let outage = error.is_outage();
        Self {
            code: error.code(),
            stage,
            message: error.to_string(),
            outage,
        }
    }
}
