//! A fleet under faults, and whether it kept its promise: `envicutor bench --faults`, and `tests/faults/`.
//!
//! Real NATS servers, real workers and real containers on this machine run what clients submit, while a schedule that follows
//! from a seed kills them, freezes them, and cuts their connections. Then everything is let come to rest, and every invariant
//! is checked from what the streams hold and what the clients and plain subscribers saw.
//!
//! | in the order of a run | |
//! | --- | --- |
//! | [`plan`], [`schedule`] | what is to happen |
//! | `site` | the fleet, and what strikes it |
//! | `load`, `witness` | who submits; who looks on |
//! | [`history`] | what they did and saw |
//! | `standing`, `leftovers` | what the streams hold at the end; what is left on the machine |
//! | [`evidence`], [`invariants`] | all of it as plain data; what must hold of it |
//! | `story`, [`report`] | what is told of one submission; of the run |
//!
//! The invariant: nothing here judges by what a worker says of itself. A run that went wrong is told with everything that is
//! known of the submission that shows it.

pub mod evidence;
pub mod history;
pub mod invariants;
mod leftovers;
mod load;
pub mod plan;
pub mod report;
pub mod schedule;
mod site;
mod standing;
mod story;
mod witness;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::{
    evidence::Evidence,
    history::{Operation, Recorder, What},
    leftovers::Traces,
    load::{Load, LoadError},
    plan::Plan,
    report::{Report, Times, Told},
    schedule::Schedule,
    site::{Connections, Site, SiteError, Tag},
    standing::StandingError,
    witness::Witness,
};
use crate::{bus::Bus, submission::names::Tenant};

/// Between two looks at how far a run is.
const POLL: Duration = Duration::from_millis(500);

/// Between two lines about how far it is.
const TELL: Duration = Duration::from_secs(5);

/// Reads by id at a time, at the end.
const READS: usize = 16;

/// The violations that are told with a story.
const STORIES: usize = 5;

/// A run could not be carried through. That says nothing of the promise.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// The fleet.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The clients.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The subscribers.
    #[error("results cannot be listened for: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The streams at the end.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// Files and processes.
    #[error("the run: {0}")]
    Io(#[from] std::io::Error),
    /// The Docker Engine.
    #[error("the Docker Engine: {0}")]
    Engine(#[from] bollard::errors::Error),
}

/// A run.
pub struct Run<'a> {
    plan: &'a Plan,
    dir: PathBuf,
    tag: Tag,
    tell: &'a (dyn Fn(&str) + Sync),
    site: Site,
    connections: Connections,
    witness: Witness,
    load: Load,
    recorder: Recorder,
    traces: Traces,
    times: Times,
}

/// The whole of it: the fleet is started in `dir`, which must be empty, struck, let come to rest, and judged.
pub async fn run(
    plan: &Plan,
    dir: &Path,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Report, FaultsError> {
    // Boxed: each is large.
    let mut run = Box::pin(Run::begin(plan, dir, tell)).await?;
    Box::pin(run.under_faults()).await?;
    Box::pin(run.come_to_rest()).await?;
    Box::pin(run.judge()).await
}

impl<'a> Run<'a> {
    /// Starts the fleet, sees one submission through it, and has everything ready for the faults.
    pub async fn begin(
        plan: &'a Plan,
        dir: &Path,
        tell: &'a (dyn Fn(&str) + Sync),
    ) -> Result<Self, FaultsError> {
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let recorder = Recorder::default();
        let tag = Tag::fresh();
        tell("starting the fleet");
        let (site, connections) = Box::pin(Site::open(plan, &dir, &tag, &recorder)).await?;
        let witness = Witness::start(&connections.witnesses, &recorder).await?;
        let (submissions, waiting) = (plan.submissions, witness.waiting());
        let load = Load::new(
            plan.seed,
            submissions,
            plan.patience,
            recorder.clone(),
            waiting,
        );
        tell("the first submission: images and root file systems are made where they are missing");
        load.warm_up(&connections.clients[0]).await?;
        let volume = site
            .containers()
            .volume(&plan.config.container.runtimes_volume)
            .await;
        let traces = Traces {
            containers: BTreeSet::new(),
            root_parts: volume
                .as_deref()
                .map(leftovers::root_parts)
                .unwrap_or_default(),
            volume,
            dir: dir.clone(),
        };
        Ok(Self {
            plan,
            dir,
            tag,
            tell,
            site,
            connections,
            witness,
            load,
            recorder,
            traces,
            times: Times::default(),
        })
    }

    /// An operator's connection to the fleet, behind no cable.
    pub fn operator(&self) -> &Bus {
        &self.connections.operator
    }

    /// What the workers of a place are called: the beginning of their ids.
    pub fn place(&self, place: usize) -> String {
        self.tag.place(place)
    }

    /// Submits everything while the faults strike; done when no client waits any more.
    pub async fn under_faults(&mut self) -> Result<(), FaultsError> {
        let schedule = Schedule::new(self.plan.seed, &self.plan.paces);
        let calm = CancellationToken::new();
        let began = Instant::now();
        let submitting = async {
            let _calm = calm.clone().drop_guard();
            let clients = &self.connections.clients;
            self.load.run(clients, self.plan.at_a_time).await
        };
        let (submitted, (), ()) = tokio::join!(
            submitting,
            self.site.strike(schedule, calm.clone()),
            self.keep_watch(calm.clone())
        );
        submitted?;
        self.times.under_faults = began.elapsed();
        Ok(())
    }

    /// Tells how far it is, and has the faults stop where nothing goes on at all, until it is calm.
    async fn keep_watch(&self, calm: CancellationToken) {
        let (mut ended, mut since, mut told) = (0, Instant::now(), Instant::now());
        while !calm.is_cancelled() {
            tokio::select! {
                () = sleep(POLL) => {}
                () = calm.cancelled() => return,
            }
            let now = self.load.ended();
            if now != ended {
                (ended, since) = (now, Instant::now());
            }
            if told.elapsed() > TELL {
                told = Instant::now();
                (self.tell)(&format!("{ended} of {} are over", self.plan.submissions));
            }
            if since.elapsed() > self.plan.patience {
                let note = format!(
                    "no client heard anything for {:?}: the faults stop",
                    self.plan.patience
                );
                (self.tell)(&note);
                self.recorder.note(What::Note(note));
                calm.cancel();
            }
        }
    }

    /// Waits until the queues are empty (or nothing goes on), reads every result by id, and drains the workers.
    pub async fn come_to_rest(&mut self) -> Result<(), FaultsError> {
        (self.tell)("the faults are over: waiting until the queues are empty");
        let began = Instant::now();
        let (mut left, mut since) = (u64::MAX, Instant::now());
        while since.elapsed() < self.plan.patience {
            let now = standing::queued(self.operator()).await;
            match now {
                Ok(0) => break,
                Ok(now) if now != left => (left, since) = (now, Instant::now()),
                Ok(_) => {}
                Err(error) => self
                    .recorder
                    .note(What::Note(format!("the queue: {error}"))),
            }
            sleep(POLL).await;
        }
        self.times.until_empty = began.elapsed();
        (self.tell)("reading every result by its id, and draining the workers");
        self.read_all().await;
        self.site.drain().await?;
        Ok(())
    }

    /// Each submission is read once by its id, from whatever replica answers.
    async fn read_all(&self) {
        let history = self.recorder.history();
        let ids = history.iter().filter_map(|entry| match &entry.what {
            What::Client {
                id,
                operation: Operation::Invoked { .. },
            } => Some(id.clone()),
            _ => None,
        });
        let ids: BTreeSet<String> = ids.collect();
        stream::iter(ids)
            .for_each_concurrent(READS, |id| self.read(id))
            .await;
    }

    async fn read(&self, id: String) {
        let bus = &self.connections.witnesses[0];
        match load::read(bus, &Tenant::default_tenant(), &id).await {
            Ok(seen) => self.recorder.client(&id, Operation::Read(seen)),
            Err(error) => self.recorder.note(What::Note(format!("{id}: {error}"))),
        }
    }

    /// Reads the streams, ends the fleet, looks what is left of it, and judges.
    pub async fn judge(self) -> Result<Report, FaultsError> {
        (self.tell)("reading the streams, and looking what is left");
        let standing = standing::read(&self.connections.operator).await?;
        self.witness.stop().await;
        let Connections {
            operator,
            clients,
            witnesses,
        } = self.connections;
        for bus in clients.iter().chain(&witnesses).chain([&operator]) {
            bus.close().await;
        }
        let containers = self.site.close().await?;
        let mut traces = self.traces;
        traces.containers = containers.seen();
        let leftovers = traces.left(self.plan.patience, &containers).await?;
        let evidence = Evidence {
            history: self.recorder.history(),
            standing,
            leftovers,
        };
        story::write(&self.dir.join("history.txt"), &evidence.history)?;
        let violations = invariants::check(&evidence);
        let logs = self.dir.join("logs");
        let tell = |(place, violation): (usize, invariants::Violation)| {
            let id = violation.id.as_deref().filter(|_| place < STORIES);
            let story = id.map(|id| story::tell(id, &evidence.history, &logs));
            Told {
                story: story.unwrap_or_default(),
                violation,
            }
        };
        let violations = violations.into_iter().enumerate().map(tell).collect();
        let made = traces.containers.len();
        Ok(Report::of(
            self.plan, &evidence, self.times, made, violations,
        ))
    }
}
