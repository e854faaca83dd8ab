//! Waiting for a result so that none is missed: listen first, then read what stands, and read again after the connection
//! came back and every few seconds.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Client, ClientError};
use crate::{
    bus::{
        Bus,
        results::{ResultListener, Results},
    },
    submission::{
        names::{SubmissionId, Tenant},
        result::SubmissionResult,
    },
};

/// How often it is looked whether the connection came back.
const RECONNECT_LOOK: Duration = Duration::from_millis(250);

impl Client {
    /// The result of a submission, once it stands; `None` for a time is `client.wait_timeout_us`. Any number of clients may
    /// wait for one submission, before or after it is published.
    ///
    /// ```no_run
    /// # async fn example(client: envicutor::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use envicutor::{client::ClientError, submission::names::Tenant};
    ///
    /// match client.wait(&Tenant::default_tenant(), &"a1".parse()?, Some(Duration::from_secs(60))).await {
    ///     Ok(result) => println!("{:?}", result.verdict),
    ///     Err(ClientError::TimedOut { .. }) => println!("not yet"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        time: Option<Duration>,
    ) -> Result<SubmissionResult, ClientError> {
        let time = time.unwrap_or_else(|| self.waiting.wait_timeout_us.duration());
        let started = Instant::now();
        let mut waiting = Waiting::start(self, tenant, id).await?;
        match timeout(time.saturating_sub(started.elapsed()), waiting.result()).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut {
                tenant: tenant.clone(),
                id: id.clone(),
                waited: time,
            }),
        }
    }
}

/// Waits for one submission's result. It listens from the beginning.
#[derive(Debug)]
pub(super) struct Waiting {
    bus: Bus,
    results: Results,
    listener: ResultListener,
    tenant: Tenant,
    id: SubmissionId,
    poll: Duration,
}

impl Waiting {
    pub(super) async fn start(
        client: &Client,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Self, ClientError> {
        let results = Results::new(&client.bus);
        Ok(Self {
            listener: results.subscribe(tenant, id.as_str()).await?,
            bus: client.bus.clone(),
            results,
            tenant: tenant.clone(),
            id: id.clone(),
            poll: client.waiting.wait_poll_us.duration().max(RECONNECT_LOOK),
        })
    }

    /// The result. May be dropped while it waits, and called again.
    pub(super) async fn result(&mut self) -> Result<SubmissionResult, ClientError> {
        let mut look = interval(RECONNECT_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connects = self.connects();
        let mut read_at: Option<Instant> = None;
        loop {
            tokio::select! {
                // What was heard goes first: it spares the reading.
                biased;
                heard = self.listener.next() => match heard {
                    Some(Ok(result)) => return Ok(result),
                    // Not one of ours, or of another version; what stands decides.
                    Some(Err(error)) => tracing::debug!(%error, "a result was passed over"),
                    None => return Err(ClientError::Closed),
                },
                _ = look.tick() => {
                    let is_back = std::mem::replace(&mut connects, self.connects()) != connects;
                    let is_due = read_at.is_none_or(|at| at.elapsed() >= self.poll);
                    if (is_back || is_due) && self.bus.is_connected() {
                        read_at = Some(Instant::now());
                        if let Some(result) = self.read().await? {
                            return Ok(result);
                        }
                    }
                }
            }
        }
    }

    async fn read(&self) -> Result<Option<SubmissionResult>, ClientError> {
        use crate::bus::results::ResultError;
        match self.results.read(&self.tenant, self.id.as_str()).await {
            Ok(standing) => Ok(standing.map(|standing| standing.result)),
            // The next reading may be luckier; the time that the caller gave bounds this.
            Err(ResultError::Api(error)) => {
                tracing::debug!(%error, "the result could not be read");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn connects(&self) -> u64 {
        let statistics = self.bus.client.statistics();
        statistics.connects.load(Ordering::Relaxed)
    }
}
