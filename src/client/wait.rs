//! Waiting for a result so that none is missed: listen first, then read what stands, and read again after the connection
//! came back and every few seconds.

use std::time::Duration;

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

/// Every so many readings ask the leader. The others ask any copy, which costs little; but the copy of a server that its cluster
/// has lost stays as it is, and only that no leader answers tells that.
const LEADER_READS: u32 = 5;

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
        self.wait_for(tenant, id, 0, time).await
    }

    /// The same for a submission that is replayed: the result of this generation, or of a later one.
    pub async fn wait_for(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        generation: u64,
        time: Option<Duration>,
    ) -> Result<SubmissionResult, ClientError> {
        let time = time.unwrap_or_else(|| self.config.wait_timeout_us.duration());
        let mut waiting = Waiting::start(self, tenant, id).await?;
        waiting.generation = generation;
        waiting.result_within(time).await
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
    /// Results of earlier ones are passed over.
    generation: u64,
    poll: Duration,
    /// How often the connection had come about at the last look.
    connects: u64,
    /// When it was last read what stands.
    read_at: Option<Instant>,
    /// How often it was read.
    reads: u32,
}

impl Waiting {
    pub(super) async fn start(
        client: &Client,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Self, ClientError> {
        let results = Results::new(&client.bus);
        let connects = client.bus.connects();
        Ok(Self {
            listener: results.subscribe(tenant, id.as_str()).await?,
            bus: client.bus.clone(),
            results,
            tenant: tenant.clone(),
            id: id.clone(),
            generation: 0,
            poll: client.config.wait_poll_us.duration().max(RECONNECT_LOOK),
            connects,
            read_at: None,
            reads: 0,
        })
    }

    /// Nothing can stand yet: the id is new, and was not published before it was listened for.
    pub(super) fn expect_nothing(&mut self) {
        self.read_at = Some(Instant::now());
    }

    /// The result, if it comes in time.
    pub(super) async fn result_within(
        &mut self,
        time: Duration,
    ) -> Result<SubmissionResult, ClientError> {
        match timeout(time, self.result()).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut {
                tenant: self.tenant.clone(),
                id: self.id.clone(),
                waited: time,
            }),
        }
    }

    /// The result. May be dropped while it waits, and called again.
    pub(super) async fn result(&mut self) -> Result<SubmissionResult, ClientError> {
        let mut look = interval(RECONNECT_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What was heard goes first: it spares the reading.
                biased;
                heard = self.listener.next() => match heard {
                    Some(Ok(result)) if result.generation < self.generation => {}
                    Some(Ok(result)) => return Ok(result),
                    // Not one of ours, or of another version; what stands decides.
                    Some(Err(error)) => tracing::debug!(%error, "a result was passed over"),
                    None => return Err(ClientError::Closed),
                },
                _ = look.tick() => {
                    let is_back = self.connects != self.bus.connects();
                    let is_due = self.read_at.is_none_or(|at| at.elapsed() >= self.poll);
                    if (is_back || is_due) && self.bus.is_connected() {
                        self.connects = self.bus.connects();
                        self.read_at = Some(Instant::now());
                        if let Some(result) = self.read().await? {
                            return Ok(result);
                        }
                    }
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Option<SubmissionResult>, ClientError> {
        use crate::bus::results::ResultError;
        self.reads = self.reads.wrapping_add(1);
        let (tenant, id) = (&self.tenant, self.id.as_str());
        let read = if self.reads.is_multiple_of(LEADER_READS) {
            self.results.standing(tenant, id).await
        } else {
            self.results.read(tenant, id).await
        };
        match read {
            Ok(standing) => {
                let result = standing.map(|standing| standing.result);
                Ok(result.filter(|result| result.generation >= self.generation))
            }
            // The next reading may be luckier; the time that the caller gave bounds this.
            Err(ResultError::Api(error)) => {
                tracing::debug!(%error, "the result could not be read");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}
