//! A failure of ours while a submission ran, never its verdict; and what becomes of the submission: counted and tried again, dead
//! after the last attempt, or handed back uncounted where it is an outage.

use std::time::Duration;

use super::{
    attempts::{History, Kept},
    health::Part,
    life::{End, Life, Step},
};
use crate::{
    blobs::{BlobError, cache::CacheError},
    bus::attempts::Start,
    container::ContainerError,
    runtimes::error::RuntimeError,
    submission::result::FailureCode,
};

/// How often, and how long apart, it is tried to note that a start does not count.
const NOTES: (u32, Duration) = (30, Duration::from_secs(1));

/// A failure of ours while it ran.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(super) code: FailureCode,
    pub(super) stage: &'static str,
    pub(super) message: String,
    /// What is away, where that is known: not this submission's doing, and not counted.
    pub(super) outage: Option<Part>,
}

impl Trouble {
    pub(super) fn bug(message: &str) -> Self {
        Self {
            code: FailureCode::Internal,
            stage: "worker",
            message: message.to_owned(),
            outage: None,
        }
    }

    pub(super) fn image(error: &RuntimeError) -> Self {
        let outage = error.is_outage().then_some(Part::Machine);
        Self {
            code: FailureCode::Image,
            stage: "image",
            message: error.to_string(),
            outage,
        }
    }

    pub(super) fn container(stage: &'static str, error: &ContainerError) -> Self {
        let outage = error.is_outage().then_some(Part::Machine);
        Self {
            code: error.code(),
            stage,
            message: error.to_string(),
            outage,
        }
    }

    /// The object store did not do its part. What is missing or corrupt may be right for the next attempt, elsewhere.
    pub(crate) fn store(stage: &'static str, error: &BlobError) -> Self {
        let outage = error.is_outage().then_some(Part::Store);
        Self {
            code: FailureCode::Store,
            stage,
            message: error.to_string(),
            outage,
        }
    }

    /// What it needs of the object store could not be had.
    pub(super) fn cache(error: &CacheError) -> Self {
        let outage = match error {
            CacheError::Store(error) => return Self::store("stage", error),
            CacheError::Disk { .. } => Some(Part::Machine),
            CacheError::Length { .. } | CacheError::TooLarge { .. } => None,
        };
        Self {
            code: FailureCode::Store,
            stage: "stage",
            message: error.to_string(),
            outage,
        }
    }

    /// The object store answers, and what it gives takes too long.
    pub(super) fn slow_store(waited: Duration) -> Self {
        Self {
            code: FailureCode::Store,
            stage: "stage",
            message: format!(
                "what it needs did not come from the object store within {waited:?} (worker.stage_timeout_us)"
            ),
            outage: None,
        }
    }
}

impl Life {
    /// Step 8: a failure of ours. Counted and tried again, or dead after the last attempt; an outage is not counted.
    pub(super) async fn failed(&self, mut history: History, trouble: Trouble) -> Step<()> {
        self.journal
            .warn(&format!("{}: {}", trouble.stage, trouble.message));
        if let Some(part) = self.outage(&trouble).await {
            self.fleet.health.suspect(part);
            let has_started = self.started().is_some();
            self.note_hand_back(&mut history, has_started).await;
            return Err(End::HandBack(self.fleet.backoff(history.uncounted())));
        }
        if let Some(kept) = self.kept() {
            let start = self.started().map_or_else(|| self.start(), |(_, it)| it);
            let noted = history.fail(kept, &start, trouble.code, &trouble.message);
            noted.await.map_err(|error| self.nats(&error))?;
        }
        fail_point!(Counted, &self.facts.address.raw_id);
        if history.attempts() < self.fleet.config.worker.max_attempts {
            return Err(End::HandBack(self.fleet.backoff(history.attempts())));
        }
        self.bury(&history, trouble.code, trouble.stage, trouble.message)
            .await
    }

    /// What is away, if that is what it met. What the error does not tell, a probe does.
    async fn outage(&self, trouble: &Trouble) -> Option<Part> {
        if trouble.outage.is_some() {
            return trouble.outage;
        }
        let (part, is_well) = match trouble.code {
            FailureCode::Store => (Part::Store, self.fleet.probe_store().await.is_ok()),
            _ => (Part::Machine, self.fleet.probe_machine().await.is_ok()),
        };
        (!is_well).then_some(part)
    }

    /// A panic: the attempt counts, so that what makes us panic every time is dead in the end and not tried for ever.
    pub(super) async fn panicked(&self) -> End {
        let message = "the worker panicked: a bug. Its log has the place";
        let failed = async {
            let history = self.history().await?;
            self.failed(history, Trouble::bug(message)).await
        };
        failed.await.err().unwrap_or(End::Ack)
    }

    /// Hands the message back, uncounted, for a worker that can do what this one cannot.
    pub(super) async fn leave_to_another(&self, history: &mut History) -> End {
        self.note_hand_back(history, false).await;
        // Soon for a few times: beside an old worker there may be a new one, which has to meet it first.
        End::HandBack(self.fleet.backoff(1 + history.uncounted() / 3))
    }

    /// Notes that this delivery, and its start where it had `started`, end without counting: the next delivery must not take
    /// the start for a lost worker.
    pub(super) async fn note_hand_back(&self, history: &mut History, started: bool) {
        let Some(kept) = self.kept() else {
            return;
        };
        if let Err(error) = history.hand_back(kept, started).await {
            let line = format!("the hand-back could not be noted and will count: {error}");
            self.journal.warn(&line);
        }
    }

    /// NATS was away: neither this delivery nor its start counts.
    pub(super) async fn note_outage(&self) {
        if self.started().is_some() {
            self.note_uncounted().await;
        } else {
            self.note_hand_back(&mut self.no_history(), false).await;
        }
    }

    /// Notes that this worker lives, so that its start is taken for no lost worker. NATS may be away for a while: that is how a
    /// delivery is lost.
    pub(super) async fn note_uncounted(&self) {
        let (Some(kept), Some((number, start))) = (self.kept(), self.started()) else {
            return;
        };
        for _ in 0..NOTES.0 {
            let mut history = self.no_history();
            let noted = history.end_uncounted(kept, number, &start.worker).await;
            let Err(error) = noted else { return };
            tracing::warn!(%error, "it is not noted yet that this worker lives");
            tokio::select! {
                () = tokio::time::sleep(NOTES.1) => {}
                () = self.fleet.duty.draining().cancelled() => return,
            }
        }
    }

    /// NATS did not do its part: the message comes again. Nothing more is pulled until it does: an outage, however long, must not
    /// use up the deliveries of the backlog.
    pub(super) fn nats(&self, error: &dyn std::fmt::Display) -> End {
        self.journal.warn(&format!("NATS: {error}"));
        self.fleet.health.suspect(Part::Nats);
        End::Away
    }

    /// Where the attempts are kept; an id that breaks the rule has none.
    pub(super) fn kept(&self) -> Option<Kept<'_>> {
        Some(Kept {
            bus: &self.fleet.bus,
            tenant: &self.facts.address.tenant,
            lane: self.facts.address.lane,
            id: self.facts.id.as_ref()?,
        })
    }

    /// A start of this worker's, now.
    pub(super) fn start(&self) -> Start {
        Start {
            worker: self.fleet.id.clone(),
            host: self.fleet.host.clone(),
            at: time::OffsetDateTime::now_utc(),
        }
    }
}
