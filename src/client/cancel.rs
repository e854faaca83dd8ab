//! Cancelling a submission. To ask again is always safe, so that an answer that is lost is asked for again.

use std::time::Duration;

use super::{Client, ClientError};
use crate::{
    bus::{
        Role,
        api::ApiError,
        outage::{Backoff, Outage as _},
        withdraw::{WithdrawError, Withdrawal, ask_to_cancel},
    },
    submission::{
        cancellation::Cancelled,
        names::{SubmissionId, Tenant},
    },
};

/// Before the second try, and the longest wait between two.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Whom a result names as its worker that an operator settled, no worker being there.
const OPERATOR: &str = "operator";

impl Client {
    /// Cancels a submission, queued or running: one that runs is killed. Says what it is now; one that was over before, or is not
    /// known, stays as it is. A worker does it; where none answers and this connection is an operator's, it is done here.
    ///
    /// ```no_run
    /// # async fn example(client: envicutor::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use envicutor::submission::{cancellation::Cancelled, names::Tenant};
    ///
    /// match client.cancel(&Tenant::default_tenant(), &"a1".parse()?).await? {
    ///     Cancelled::Cancelled => println!("its result says so"),
    ///     Cancelled::Finished => println!("too late: it has a result"),
    ///     Cancelled::Unknown => println!("there is no such submission"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cancel(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Cancelled, ClientError> {
        let mut tries = 1;
        let mut backoff = Backoff::new(WAITS.0, WAITS.1);
        loop {
            let error = match ask_to_cancel(&self.bus, tenant, id).await {
                Ok(cancelled) => return Ok(cancelled),
                Err(WithdrawError::Api(error)) => error,
                Err(error) => return Err(error.into()),
            };
            let is_unanswered = matches!(
                error,
                ApiError::NoResponders { .. } | ApiError::Timeout { .. }
            );
            if is_unanswered && self.bus.role == Role::Operator {
                return self.cancel_here(tenant, id).await;
            }
            if matches!(error, ApiError::NoResponders { .. }) {
                return Err(ClientError::NoWorker);
            }
            if !error.is_outage() || tries >= self.config.publish_tries {
                return Err(error.into());
            }
            tracing::debug!(%id, tries, %error, "the cancellation is asked for again");
            tokio::time::sleep(backoff.next_wait()).await;
            tries += 1;
        }
    }

    async fn cancel_here(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Cancelled, ClientError> {
        let withdrawal = Withdrawal {
            bus: &self.bus,
            by: OPERATOR,
            patience: self.bus.request_timeout,
        };
        Ok(withdrawal.cancel(tenant, id).await?)
    }
}
