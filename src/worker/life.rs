//! The life of a submission in a worker, from its delivery to its ack: steps 2 to 8 of "One submission's way" in
//! `docs/architecture.md`, in that order.
//!
//! The one invariant: a message is acked only after a result of its generation, or of a later one, was seen to stand
//! (or its dead letter, where its id belongs to another content).

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use time::OffsetDateTime;

use super::{
    Fleet,
    admit::Admitted,
    attempts::History,
    execute::{self, Executed},
    facts::Facts,
    journal::Journal,
    live::{Live, Origin},
    trouble::Trouble,
    watch::{self, Interrupt},
};
use crate::{
    bus::{
        queue::Delivery,
        results::{Results, Settled, Settlement},
    },
    container::Container,
    submission::{
        budget,
        check::{self, Rejected},
        event::Happened,
        message::EventsWanted,
        names::{Digest, RuntimeRef},
        plan::Plan,
        result::{FailureCode, Outcome, Start, SubmissionResult},
        units::ByteSize,
    },
};

/// What becomes of the delivery.
#[derive(Debug)]
pub(super) enum End {
    /// The result stands: the message is done.
    Ack,
    /// Another delivery is to try again, after this long.
    HandBack(Duration),
    /// The delivery is another worker's by now. Silence: a stale nak or term would act on the newer delivery.
    Lost,
}

/// An end other than the ordinary one, or the reason to go on.
pub(super) type Step<T> = Result<T, End>;

/// One submission in the hands of this worker.
pub(super) struct Life {
    pub(super) fleet: Arc<Fleet>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) facts: Facts,
    pub(super) journal: Journal,
}

/// Sees `delivery` to its end. The place that was `admitted` for it is freed with the return.
pub(super) async fn live(fleet: Arc<Fleet>, delivery: Delivery, mut admitted: Admitted) {
    let delivery = Arc::new(delivery);
    let facts = Facts::of(&fleet, &delivery);
    let journal = Journal::new(fleet.config.worker.log_tail_lines);
    let life = Life {
        fleet,
        delivery: Arc::clone(&delivery),
        facts,
        journal,
    };
    let way = async {
        match AssertUnwindSafe(life.way(&mut admitted))
            .catch_unwind()
            .await
        {
            Ok(outcome) => outcome,
            Err(_) => Err(life.panicked().await),
        }
    };
    let outcome = tokio::select! {
        outcome = way => outcome,
        () = watch::until_lost(&delivery, life.fleet.config.nats.ack_wait_us.duration()) => {
            life.journal.warn("the delivery could not be renewed and is lost");
            Err(End::Lost)
        }
    };
    end(&delivery, outcome.err().unwrap_or(End::Ack)).await;
}

async fn end(delivery: &Delivery, end: End) {
    let done = match end {
        End::Ack => delivery.ack().await,
        End::HandBack(delay) => delivery.hand_back(delay).await,
        End::Lost => return,
    };
    if let Err(error) = done {
        // The message comes again, and step 4 finds what stands.
        tracing::warn!(%error, "the end of the delivery could not be told to NATS");
    }
}

impl Life {
    /// The whole way; `Ok` is the ordinary end, an ack.
    async fn way(&self, admitted: &mut Admitted) -> Step<()> {
        self.skip_what_is_done().await?;
        let history = self.history().await?;
        if let Some(schema) = &self.facts.newer_schema {
            self.journal.warn(&format!(
                "its Envicutor-Schema {schema:?} is for a newer worker"
            ));
            return Err(self.leave_to_another(&history).await);
        }
        tracing::Span::current().record("attempt", history.next_attempt());
        if let Some((code, message)) =
            history.exhausted(&self.fleet.config.worker, self.delivery.num_delivered)
        {
            return self.bury(&history, code, "delivery", message).await;
        }
        let plan = match self.plan() {
            Ok(plan) => plan,
            Err(rejected) => return self.reject(rejected, &history).await,
        };
        self.admit(&plan, admitted, &history).await?;
        let started_at = OffsetDateTime::now_utc();
        match self.attempt(&plan, &history).await? {
            Ok((executed, start, image)) => {
                let mut result =
                    self.facts
                        .result(Outcome::Finished, history.next_attempt(), started_at);
                result.verdict = Some(executed.verdict);
                result.image = Some(image);
                result.isolation = Some(self.fleet.config.container.isolation);
                result.start = Some(start);
                result.compile = executed.compile;
                result.runs = executed.runs;
                let (name, version) = plan.runtime;
                result.runtime = Some(RuntimeRef {
                    name,
                    version: Some(version),
                });
                result.labels = plan.labels;
                self.settle(result).await.map(drop)
            }
            Err(trouble) => self.failed(history, started_at, trouble).await,
        }
    }

    /// Step 4: goes on only where no result makes this message done.
    async fn skip_what_is_done(&self) -> Step<()> {
        let results = Results::new(&self.fleet.bus);
        let standing = results
            .standing(&self.facts.address.tenant, &self.facts.address.raw_id)
            .await;
        let Some(standing) = standing.map_err(|error| self.nats(&error))? else {
            return Ok(());
        };
        let result = standing.result;
        if result.generation < self.facts.generation {
            return Ok(());
        }
        if self.facts.generation == 0
            && result.generation == 0
            && result.submission_digest != self.facts.digest
        {
            let message = format!(
                "the id {} has a result of other content already",
                self.facts.address.raw_id
            );
            self.letter(
                &self.no_history(),
                FailureCode::IdReused,
                "delivery",
                &message,
            )
            .await?;
            return Err(End::Ack);
        }
        if result.generation == self.facts.generation && result.outcome == Outcome::Failed {
            self.ensure_letter(&result).await?;
        }
        self.journal.note("a result stands already");
        Err(End::Ack)
    }

    /// Step 2: the attempts of this generation so far, with a start that never ended taken for a lost worker.
    pub(super) async fn history(&self) -> Step<History> {
        let none = self.no_history();
        let redelivered = self.delivery.num_delivered > 1;
        let Some(id) = self.facts.address.id().filter(|_| redelivered) else {
            return Ok(none);
        };
        let history = none
            .read(&self.fleet.bus, &self.facts.address.tenant, &id)
            .await;
        history.map_err(|error| self.nats(&error))
    }

    /// Step 3: what to run, or everything that is wrong.
    pub(super) fn plan(&self) -> Result<Plan, Rejected> {
        let content_type = self.facts.content_type.as_deref();
        let ceilings = &self.fleet.config.ceilings.0;
        let checked = check::check(
            &self.delivery.body,
            content_type,
            self.fleet.runtimes.catalogue(),
            ceilings,
        );
        if self.facts.errors.is_empty() {
            return checked;
        }
        let none = || Rejected {
            errors: Vec::new(),
            labels: BTreeMap::new(),
            events: EventsWanted::default(),
        };
        let mut rejected = checked.err().unwrap_or_else(none);
        rejected
            .errors
            .splice(0..0, self.facts.errors.iter().cloned());
        Err(rejected)
    }

    async fn reject(&self, rejected: Rejected, history: &History) -> Step<()> {
        self.journal
            .note(&format!("rejected with {} errors", rejected.errors.len()));
        let now = OffsetDateTime::now_utc();
        let mut result = self
            .facts
            .result(Outcome::Rejected, history.next_attempt(), now);
        result.errors = rejected.errors;
        result.labels = rejected.labels;
        self.settle(result).await.map(drop)
    }

    /// Holds the memory that the plan needs, or leaves the message to a larger worker.
    async fn admit(&self, plan: &Plan, admitted: &mut Admitted, history: &History) -> Step<()> {
        let overhead = self.fleet.config.container.overhead_bytes.0;
        let need = ByteSize(plan.memory_bytes().0.saturating_add(overhead));
        match admitted.fit(need).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.journal.warn(&error.to_string());
                Err(self.leave_to_another(history).await)
            }
        }
    }

    /// Step 6: one attempt. `Err` in it is a failure of ours, which counts; an [`End`] is none.
    async fn attempt(&self, plan: &Plan, history: &History) -> Step<Result<Ran, Trouble>> {
        let Some(id) = self.facts.address.id() else {
            return Ok(Err(Trouble::bug("an invalid id was planned")));
        };
        let origin = Origin {
            tenant: self.facts.address.tenant.clone(),
            id,
            generation: self.facts.generation,
            attempt: history.next_attempt(),
            worker: self.fleet.id.clone(),
            labels: plan.labels.clone(),
        };
        let results = Results::new(&self.fleet.bus);
        let listener = results
            .subscribe(&self.facts.address.tenant, &self.facts.address.raw_id)
            .await;
        let mut listener = listener.map_err(|error| self.nats(&error))?;
        let live = Live::new(origin, plan.events, self.facts.encoding);
        live.tell(Happened::Started);
        live.flush(&self.fleet.bus).await;
        let _running = self.fleet.running.enter(&self.facts.address);
        let interrupt =
            watch::until_interrupted(&mut listener, self.facts.generation, &self.fleet.hand_back);
        tokio::select! {
            ran = self.run(plan, &live) => Ok(ran),
            interrupt = interrupt => Err(self.interrupted(interrupt, history).await),
        }
    }

    /// Runs the plan while its events are published.
    async fn run(&self, plan: &Plan, live: &Live) -> Result<Ran, Trouble> {
        let over = tokio_util::sync::CancellationToken::new();
        let stages = async {
            let _over = over.clone().drop_guard();
            let (mut container, image) = self.container(plan).await?;
            let start = container.start();
            let executed = execute::execute(plan, &mut container, live).await;
            container.destroy().await;
            let executed = executed.map_err(|error| Trouble::container("run", &error))?;
            Ok((executed, start, image))
        };
        let (ran, ()) = tokio::join!(stages, live.publish(&self.fleet.bus, &over));
        ran
    }

    /// A container of the runtime's image, which is prepared where it is missing.
    async fn container(&self, plan: &Plan) -> Result<(Container, Digest), Trouble> {
        let (name, version) = &plan.runtime;
        let image = self
            .fleet
            .image(name, version)
            .await
            .map_err(|error| Trouble::image(&error))?;
        let request =
            execute::request(plan, &image).ok_or_else(|| Trouble::bug("a plan without stages"))?;
        match self.fleet.containers.take(&request).await {
            Ok(container) => Ok((container, image)),
            Err(error) => {
                if error.code() == FailureCode::Image {
                    self.fleet.runtimes.forget(name, version);
                }
                Err(Trouble::container("start", &error))
            }
        }
    }

    async fn interrupted(&self, interrupt: Interrupt, history: &History) -> End {
        match interrupt {
            Interrupt::ResultStands => {
                self.journal.note("a result appeared while it ran");
                End::Ack
            }
            Interrupt::HandBack => {
                self.journal.note("handed back: the worker drains");
                self.note_hand_back(history, true).await;
                End::HandBack(Duration::ZERO)
            }
        }
    }

    /// Step 7: the result stands, this one or another of this generation or a later one. Says whether it is this one, or as
    /// good as it: a `failed` of the same generation.
    pub(super) async fn settle(&self, result: SubmissionResult) -> Step<bool> {
        let (outcome, verdict) = (result.outcome, result.verdict);
        let encoding = self.facts.encoding;
        let body = budget::fit(result, encoding).map_err(|error| self.nats(&error))?;
        let settlement = Settlement {
            tenant: &self.facts.address.tenant,
            raw_id: &self.facts.address.raw_id,
            generation: self.facts.generation,
            encoding,
            body: body.into(),
        };
        let patience = self.fleet.config.worker.retry_max_us.duration();
        let settled = Results::new(&self.fleet.bus)
            .settle(&settlement, patience)
            .await;
        match settled.map_err(|error| self.nats(&error))? {
            Settled::Stored(_) => {
                self.journal
                    .note(&format!("settled: {outcome:?} {verdict:?}"));
                Ok(true)
            }
            Settled::Standing(other, _) => {
                self.journal.note("another result won");
                let both_failed = outcome == Outcome::Failed && other.outcome == Outcome::Failed;
                Ok(both_failed && other.generation == self.facts.generation)
            }
        }
    }

    /// Step 8: a failure of ours. Counted and tried again, or dead after the last attempt; an outage is not counted.
    async fn failed(
        &self,
        mut history: History,
        started_at: OffsetDateTime,
        trouble: Trouble,
    ) -> Step<()> {
        self.journal
            .warn(&format!("{}: {}", trouble.stage, trouble.message));
        if trouble.outage || self.fleet.containers.probe().await.is_err() {
            self.fleet.health.suspect();
            self.note_hand_back(&history, true).await;
            return Err(End::HandBack(Duration::from_secs(1)));
        }
        history.push(
            &self.fleet.id,
            &self.fleet.host,
            started_at,
            trouble.code,
            &trouble.message,
        );
        if let Some(id) = self.facts.address.id() {
            let written = history
                .write(&self.fleet.bus, &self.facts.address.tenant, &id)
                .await;
            written.map_err(|error| self.nats(&error))?;
        }
        if history.attempts() < self.fleet.config.worker.max_attempts {
            return Err(End::HandBack(self.fleet.backoff(history.attempts())));
        }
        self.bury(&history, trouble.code, trouble.stage, trouble.message)
            .await
    }
}

/// What an attempt brought: the stages' reports, how it got its container, and the image.
type Ran = (Executed, Start, Digest);

impl Life {
    /// No attempts of this message yet.
    fn no_history(&self) -> History {
        History::none(self.facts.generation, self.delivery.stream_sequence)
    }

    /// Hands the message back, uncounted, for a worker that can do what this one cannot.
    async fn leave_to_another(&self, history: &History) -> End {
        self.note_hand_back(history, false).await;
        End::HandBack(self.fleet.config.worker.retry_max_us.duration())
    }

    /// Notes that this delivery, and its start where it had `started`, end without counting: the next delivery must not take
    /// the start for a lost worker.
    async fn note_hand_back(&self, history: &History, started: bool) {
        let Some(id) = self.facts.address.id() else {
            return;
        };
        let mut history = history.clone();
        history.handed_back(started);
        let (bus, tenant) = (&self.fleet.bus, &self.facts.address.tenant);
        if let Err(error) = history.write(bus, tenant, &id).await {
            let line = format!("the hand-back could not be noted and will count: {error}");
            self.journal.warn(&line);
        }
    }

    /// A panic: the attempt counts, so that what makes us panic every time is dead in the end and not tried for ever.
    async fn panicked(&self) -> End {
        let message = "the worker panicked: a bug. Its log has the place";
        let failed = async {
            let history = self.history().await?;
            let trouble = Trouble::bug(message);
            self.failed(history, OffsetDateTime::now_utc(), trouble)
                .await
        };
        failed.await.err().unwrap_or(End::Ack)
    }

    /// NATS did not do its part: the message comes again.
    pub(super) fn nats(&self, error: &dyn std::fmt::Display) -> End {
        self.journal.warn(&format!("NATS: {error}"));
        End::HandBack(Duration::from_secs(1))
    }
}
