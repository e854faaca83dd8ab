//! The life of a submission in a worker, from its delivery to its ack: steps 2 to 8 of "One submission's way" in
//! `docs/architecture.md`, in that order. What stands decides in `settle`, a failure of ours ends in `trouble` and `bury`.
//!
//! The one invariant: a message is acked only after a result of its generation, or of a later one, was seen to stand
//! (or its dead letter, where its id belongs to another content).

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use time::OffsetDateTime;

use super::{
    Fleet,
    admit::Admitted,
    attempts::{Care, History},
    catalogue,
    compile_cache::Key,
    execute::{self, Built, Came, Fault, Means},
    facts::Facts,
    journal::Journal,
    live::{Live, Origin},
    outputs::Outlet,
    stage,
    trouble::Trouble,
    watch::{self, Interrupt, Lease, Outside},
};
use crate::{
    blobs::Blobs,
    bus::{
        api::ApiError,
        attempts::Start as Started,
        history,
        queue::{Delivery, QueueError},
    },
    container::Sandbox,
    submission::{
        check::{self, Rejected},
        event::Happened,
        message::EventsWanted,
        names::Digest,
        plan::Plan,
        result::{FailureCode, Outcome, Start, SubmissionResult},
    },
};

/// How long to wait after NATS did not do its part.
const AWAY: Duration = Duration::from_secs(1);

/// What becomes of the delivery.
#[derive(Debug)]
pub(super) enum End {
    /// The result stands: the message is done.
    Ack,
    /// Another delivery is to try again, after this long.
    HandBack(Duration),
    /// NATS did not do its part: the same, and nothing counts.
    Away,
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
    lease: Lease,
    /// The attempt that this delivery became, with its number.
    started: OnceLock<(u64, Started)>,
    /// A build that is to be kept.
    pub(super) built: OnceLock<Mutex<Option<(Key, Built)>>>,
}

/// Sees `delivery` to its end. The place that was `admitted` for it is freed before that is told to NATS, so that the next
/// submission is asked for in the same breath.
pub(super) async fn live(fleet: Arc<Fleet>, delivery: Delivery, mut admitted: Admitted) {
    let life = Life::new(fleet, delivery);
    let way = async {
        let way = AssertUnwindSafe(life.way(&mut admitted)).catch_unwind();
        let outcome = match way.await {
            Ok(outcome) => outcome,
            Err(_) => Err(life.panicked().await),
        };
        if matches!(outcome, Err(End::Away)) {
            life.note_outage().await;
        }
        outcome
    };
    let outcome = tokio::select! {
        // First: who has lost the delivery does nothing more.
        biased;
        () = life.lease.keep() => {
            life.journal.warn("the delivery could not be renewed and is lost");
            Err(End::Lost)
        }
        outcome = way => outcome,
    };
    drop(admitted);
    life.end(outcome.err().unwrap_or(End::Ack)).await;
    life.keep_build().await;
}

impl Life {
    fn new(fleet: Arc<Fleet>, delivery: Delivery) -> Self {
        let delivery = Arc::new(delivery);
        let ack_wait = fleet.config.nats.ack_wait_us.duration();
        Self {
            facts: Facts::of(&fleet, &delivery),
            journal: Journal::new(fleet.config.worker.log_tail_lines),
            lease: Lease::new(Arc::clone(&delivery), ack_wait),
            started: OnceLock::new(),
            built: OnceLock::new(),
            fleet,
            delivery,
        }
    }

    async fn end(&self, end: End) {
        let done = match end {
            End::Ack => self.ack().await,
            End::HandBack(delay) if self.lease.is_held() => self.delivery.hand_back(delay).await,
            End::Away if self.lease.is_held() => self.delivery.hand_back(AWAY).await,
            End::HandBack(_) | End::Away | End::Lost => return self.note_uncounted().await,
        };
        if let Err(error) = done {
            // The message comes again, and step 4 finds what stands.
            tracing::warn!(%error, "the end of the delivery could not be told to NATS");
        }
    }

    async fn ack(&self) -> Result<(), QueueError> {
        let Delivery {
            address,
            headers,
            body,
            ..
        } = &*self.delivery;
        // In one write with the ack.
        history::keep(&self.fleet.bus, address, headers, body.clone()).await;
        let raw_id = &address.raw_id;
        fail_point!(Ack, raw_id, QueueError::Api(ApiError::NotConnected));
        self.delivery.ack().await?;
        fail_point!(Acked, raw_id, QueueError::Api(ApiError::NotConnected));
        Ok(())
    }

    /// The whole way; `Ok` is the ordinary end, an ack.
    async fn way(&self, admitted: &mut Admitted) -> Step<()> {
        fail_point!(Pulled, &self.facts.address.raw_id);
        // Before the look at what stands, and in one write with it: nothing is missed in between.
        let mut outside = self.listen().await?;
        self.skip_what_is_done().await?;
        let mut history = self.history().await?;
        if let Some(schema) = &self.facts.newer_schema {
            self.journal.warn(&format!(
                "its Envicutor-Schema {schema:?} is for a newer worker"
            ));
            return Err(self.leave_to_another(&mut history).await);
        }
        tracing::Span::current().record("attempt", history.next_attempt());
        if let Some((code, message)) =
            history.exhausted(&self.fleet.config.worker, self.delivery.num_delivered)
        {
            return self.bury(&history, code, "delivery", message).await;
        }
        let plan = match self.plan_of_what_is_installed().await {
            Ok(plan) => plan,
            Err(rejected) if self.waits_for_its_runtime(&rejected).await => {
                self.journal.note("it waits until its runtime is installed");
                return Err(self.leave_to_another(&mut history).await);
            }
            Err(rejected) => return self.reject(rejected, &history).await,
        };
        let is_in_time = tokio::select! {
            admitted = self.admit(&plan, admitted, &mut history) => Ok(admitted.map(|()| !plan.has_expired())?),
            () = watch::until_expired(&plan) => Ok(false),
            interrupt = outside.interrupt() => Err(interrupt),
        };
        match is_in_time {
            Ok(true) => {}
            Ok(false) => return self.expire(plan, &history).await,
            Err(interrupt) => return Err(self.interrupted(interrupt, &mut history, false).await),
        }
        match self.attempt(&plan, &mut history, outside).await? {
            Ok(result) => {
                fail_point!(Ran, &self.facts.address.raw_id);
                self.settle_and_be_done(*result).await
            }
            Err(trouble) => self.failed(history, trouble).await,
        }
    }

    /// Step 2: the attempts of this generation so far, with a start that never ended taken for a lost worker.
    pub(super) async fn history(&self) -> Step<History> {
        let none = self.no_history();
        let redelivered = self.delivery.num_delivered > 1;
        let Some(kept) = self.kept().filter(|_| redelivered) else {
            return Ok(none);
        };
        none.read(kept).await.map_err(|error| self.nats(&error))
    }

    /// Whether it asks to wait for a runtime, and that is being installed.
    async fn waits_for_its_runtime(&self, rejected: &Rejected) -> bool {
        if !self.facts.waits_for_runtime || !rejected.errors.iter().all(|it| it.path == "runtime") {
            return false;
        }
        let shape = check::check_shape(&self.delivery.body, self.facts.encoding);
        let Ok(submission) = shape else { return false };
        catalogue::is_being_installed(&self.fleet, &submission.runtime).await
    }

    /// Step 3, with a runtime that was installed a moment ago.
    async fn plan_of_what_is_installed(&self) -> Result<Plan, Rejected> {
        let rejected = match self.plan() {
            Ok(plan) => return Ok(plan),
            Err(rejected) => rejected,
        };
        let names_unknown = rejected.errors.iter().any(|error| error.path == "runtime");
        if !names_unknown {
            return Err(rejected);
        }
        catalogue::look_again(&self.fleet).await;
        self.plan()
    }

    /// Step 3: what to run, or everything that is wrong.
    pub(super) fn plan(&self) -> Result<Plan, Rejected> {
        let content_type = self.facts.content_type.as_deref();
        let ceilings = &self.fleet.config.ceilings.0;
        let checked = check::check(
            &self.delivery.body,
            content_type,
            &self.fleet.runtimes.catalogue(),
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
        self.settle_and_be_done(result).await
    }

    /// It was not started in time.
    async fn expire(&self, plan: Plan, history: &History) -> Step<()> {
        self.journal.note("expired before it could start");
        let now = OffsetDateTime::now_utc();
        let mut result = self
            .facts
            .result(Outcome::Expired, history.next_attempt(), now);
        result.labels = plan.labels;
        self.settle_and_be_done(result).await
    }

    /// Holds the memory that the plan needs, or leaves the message to a larger worker.
    async fn admit(&self, plan: &Plan, admitted: &mut Admitted, history: &mut History) -> Step<()> {
        if history.care(&self.fleet.config.worker) == Care::Alone {
            self.journal.note(
                "workers were lost under it: its last attempt waits until nothing else runs here",
            );
            admitted.alone().await;
        }
        match admitted.fit(self.fleet.need(plan)).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.journal.warn(&error.to_string());
                Err(self.leave_to_another(history).await)
            }
        }
    }

    /// Steps 5 and 6: one attempt, and the result that it comes to. `Err` in it is a failure of ours, which counts; an [`End`] is none.
    async fn attempt(
        &self,
        plan: &Plan,
        history: &mut History,
        mut outside: Outside<'_>,
    ) -> Step<Result<Box<SubmissionResult>, Trouble>> {
        let Some(id) = self.facts.id.clone() else {
            return Ok(Err(Trouble::bug("an invalid id was planned")));
        };
        let fresh = history.care(&self.fleet.config.worker) != Care::None;
        let attempt = self.begin(history).await?;
        let origin = Origin {
            tenant: self.facts.address.tenant.clone(),
            id,
            generation: self.facts.generation,
            attempt,
            worker: self.fleet.id.clone(),
            labels: plan.labels.clone(),
            message: self.delivery.stream_sequence,
        };
        let live = Live::new(origin, plan.events, self.facts.encoding);
        live.tell(Happened::Started);
        live.flush(&self.fleet.bus).await;
        fail_point!(Started, &self.facts.address.raw_id);
        let need = self.fleet.need(plan);
        let _running = self.fleet.running.enter(&self.facts.address, need);
        tokio::select! {
            // What is over already does not begin.
            biased;
            interrupt = outside.interrupt() => Err(self.interrupted(interrupt, history, true).await),
            ran = self.run(plan, &live, fresh) => Ok(ran),
        }
    }

    /// The delivery becomes an attempt: its number.
    async fn begin(&self, history: &mut History) -> Step<u64> {
        let start = self.start();
        // A first start is told by its event alone: one more write for every submission would be a price for a crash of the server
        // and of the worker at once.
        if let Some(kept) = self.kept().filter(|_| self.delivery.num_delivered > 1) {
            let begun = history.begin(kept, &start).await;
            begun.map_err(|error| self.nats(&error))?;
        }
        let number = history.next_attempt();
        let (number, _) = self.started.get_or_init(|| (number, start));
        Ok(*number)
    }

    /// The attempt that this delivery became, with its number; none where it did not start.
    pub(super) fn started(&self) -> Option<(u64, Started)> {
        self.started.get().cloned()
    }

    /// Runs the plan while its events are published.
    async fn run(
        &self,
        plan: &Plan,
        live: &Live,
        fresh: bool,
    ) -> Result<Box<SubmissionResult>, Trouble> {
        let over = tokio_util::sync::CancellationToken::new();
        // Boxed: it is large.
        let way: BoxFuture<'_, _> = Box::pin(async {
            let _over = over.clone().drop_guard();
            let blobs = self.fleet.store.of(&self.facts.address.tenant);
            let outlet = Outlet::new(&blobs, &self.fleet.config.worker);
            let ran = self.stages(plan, &blobs, outlet, live, fresh).await?;
            let mut result = Box::new(self.result(plan, ran));
            outlet.fit(&mut result, self.facts.encoding).await?;
            Ok(result)
        });
        let (result, ()) = tokio::join!(way, live.publish(&self.fleet.bus, &over));
        result
    }

    /// Stages the plan and runs it; once more without what an earlier build left, where that cannot be used.
    async fn stages(
        &self,
        plan: &Plan,
        blobs: &Blobs,
        outlet: Outlet<'_>,
        live: &Live,
        fresh: bool,
    ) -> Result<Ran, Trouble> {
        let image = self.image(plan).await?;
        let (fleet, tenant) = (&self.fleet, &self.facts.address.tenant);
        for builds in [true, false] {
            let staged = stage::stage(fleet, tenant, blobs, plan, &image, builds).await?;
            fail_point!(Staged, &self.facts.address.raw_id);
            let means = Means {
                plan,
                staged: &staged,
                outlet,
                live,
                most_packed: fleet.compile_cache.most(),
                compilations: &fleet.compilations,
            };
            if let Some(came) = means.failed_before() {
                let start = None;
                return Ok(Ran { came, start, image });
            }
            let mut sandbox = self.sandbox(plan, &image, fresh).await?;
            let came = means.execute(&mut sandbox).await;
            let start = Some(sandbox.start());
            sandbox.end().await;
            match came {
                Ok(mut came) => {
                    self.note_build(&mut came, staged.key);
                    return Ok(Ran { came, start, image });
                }
                Err(Fault::Build(refused)) => {
                    let line = format!("what an earlier build left cannot be unpacked: {refused}");
                    self.journal.warn(&line);
                }
                Err(Fault::Trouble(trouble)) => return Err(trouble),
            }
        }
        Err(Trouble::bug("an earlier build was used against the order"))
    }

    /// The runtime's image, which is prepared where it is missing.
    async fn image(&self, plan: &Plan) -> Result<Digest, Trouble> {
        let (name, version) = &plan.runtime;
        let image = self.fleet.image(name, version).await;
        image.map_err(|error| Trouble::image(&error))
    }

    /// A sandbox with the runtime's image.
    async fn sandbox(&self, plan: &Plan, image: &Digest, fresh: bool) -> Result<Sandbox, Trouble> {
        let tenant = &self.facts.address.tenant;
        let request = execute::request(plan, tenant, image, fresh)
            .ok_or_else(|| Trouble::bug("a plan without stages"))?;
        self.fleet.containers.take(&request).await.map_err(|error| {
            if error.code() == FailureCode::Image {
                let (name, version) = &plan.runtime;
                self.fleet.runtimes.forget(name, version);
            }
            Trouble::container("start", &error)
        })
    }

    async fn interrupted(&self, interrupt: Interrupt, history: &mut History, started: bool) -> End {
        match interrupt {
            // Whoever cancelled the id meant this message too, whatever the other lane's holds.
            Interrupt::ResultStands(standing)
                if standing.outcome == Outcome::Cancelled
                    && self.is_of_other_content(&standing) =>
            {
                self.journal.note("cancelled");
                End::Ack
            }
            Interrupt::ResultStands(standing) => {
                self.journal
                    .note("a result appeared meanwhile: it is ended");
                self.done_by(&standing).await.err().unwrap_or(End::Ack)
            }
            Interrupt::HandBack => {
                self.journal.note("handed back: the worker drains");
                self.note_hand_back(history, started).await;
                End::HandBack(Duration::ZERO)
            }
        }
    }
}

/// What an attempt brought: what came of the stages, how it got its container (where it needed one), and the image.
pub(super) struct Ran {
    pub(super) came: Came,
    pub(super) start: Option<Start>,
    pub(super) image: Digest,
}
