//! What a slot may be, as types: nobody's, a tenant's, or over. There is no way from one tenant to another nor back from
//! retirement, because there is no function for it.

use std::time::Duration;

use envicutor_protocol::Bounds;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::pool::Seat;
use crate::{
    container::{ContainerError, removal::Occupancy, session::Session},
    submission::names::Tenant,
};

/// A container with its agent. Dropped, it is destroyed.
pub(super) struct Slot<State> {
    /// First: the agent ends everything when its socket closes, before the Engine is asked to.
    pub(super) session: Session,
    occupancy: Occupancy,
    state: State,
    /// Its place in the pool, free again with it.
    seat: Seat,
}

/// No tenant has had it.
pub(super) struct Virgin;

/// One tenant has it.
pub(super) struct Bound {
    tenant: Tenant,
    since: Instant,
    /// The submissions that it served.
    uses: u64,
}

/// It serves nobody any more.
pub(super) struct Retired {
    why: String,
}

/// When a slot is retired that nothing is wrong with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// The submissions that it serves.
    pub(super) uses: u64,
    /// How long one tenant has it.
    pub(super) age: Duration,
}

impl<State> Slot<State> {
    /// Its name at the Docker Engine.
    pub(super) fn name(&self) -> &str {
        self.occupancy.name()
    }

    /// Whether its agent is connected and silent, as it must be between submissions.
    pub(super) fn is_well(&self) -> bool {
        self.session.is_quiet()
    }

    fn with<Next>(self, state: Next) -> Slot<Next> {
        let Self {
            session,
            occupancy,
            seat,
            ..
        } = self;
        Slot {
            session,
            occupancy,
            state,
            seat,
        }
    }

    /// Ends its service.
    pub(super) fn retire(self, why: impl Into<String>) -> Slot<Retired> {
        self.with(Retired { why: why.into() })
    }
}

impl Slot<Virgin> {
    pub(super) fn new(session: Session, occupancy: Occupancy, seat: Seat) -> Self {
        Self {
            session,
            occupancy,
            state: Virgin,
            seat,
        }
    }

    /// Gives it to a tenant, once and for all.
    pub(super) fn bind(self, tenant: Tenant) -> Slot<Bound> {
        self.with(Bound {
            tenant,
            since: Instant::now(),
            uses: 0,
        })
    }
}

impl Slot<Bound> {
    pub(super) fn tenant(&self) -> &Tenant {
        &self.state.tenant
    }

    /// When it will be too old.
    pub(super) fn expires(&self, terms: Terms) -> Instant {
        self.state.since + terms.age
    }

    /// Ends the submission that is in it. Only a slot that is as it was before goes on.
    pub(super) async fn close_submission(
        mut self,
        terms: Terms,
        patience: Duration,
    ) -> Result<Self, Slot<Retired>> {
        let closed = tokio::time::timeout(patience, self.session.close_submission()).await;
        let closed = closed.unwrap_or(Err(ContainerError::AgentOverdue {
            doing: "clear the slot",
            waited: patience,
        }));
        self.state.uses += 1;
        match closed {
            Err(error) => Err(self.anomalous(error.to_string())),
            Ok(Some(anomaly)) => Err(self.anomalous(anomaly)),
            Ok(None) if self.state.uses >= terms.uses => {
                let uses = self.state.uses;
                Err(self.retire(format!("it has served {uses} submissions")))
            }
            Ok(None) if self.expires(terms) <= Instant::now() => {
                Err(self.retire("its time with the tenant is over"))
            }
            Ok(None) => Ok(self),
        }
    }

    fn anomalous(self, anomaly: String) -> Slot<Retired> {
        warn!(slot = self.name(), tenant = %self.tenant(), anomaly, "a slot is not as it was before the submission");
        self.retire(anomaly)
    }
}

impl Slot<Retired> {
    /// Destroys it, in the background.
    pub(super) fn destroy(self) {
        debug!(
            slot = self.name(),
            why = self.state.why,
            "a slot is retired"
        );
    }
}

/// What a submission finds in a slot.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// The runtime's root.
    pub(super) root: String,
    /// The bounds of the work directory.
    pub(super) work: Bounds,
}
