//! `envicutor runtime test`: the self-tests of runtimes as submissions to a fleet, what starting them costs, and a table of it.
//! A runtime whose image is not there is installed by its first submission, so that one is installed after the other.
//!
//! The invariant: what is counted as passed was run by a worker, through the queue, as anybody's submission is.

use std::collections::BTreeSet;

use bollard::{Docker, query_parameters::RemoveImageOptionsBuilder};
use tokio_util::sync::CancellationToken;

use super::super::{
    exit::{CliError, Exit},
    options::{Options, user_of},
    printer::say_json,
    run::{Fleet, find_or_start},
    terminal::{escape_line, say, tell},
};
use super::tested::{Cost, Failed, Gain, Tested, table};
use crate::{
    bus::{Bus, Role, runtimes::Shelf},
    client::{Client, ClientError},
    config::Config,
    docker, nats_server,
    runtimes::{Runtimes, definition::Definition, self_test::SelfTest},
    submission::{
        catalogue::Runtime,
        message::{self, EventsWanted, Submission},
        names::{Digest, Lane, RuntimeName, RuntimeRef, RuntimeVersion, Tenant},
        result::{Outcome, SubmissionResult, Verdict},
        units::{ByteSize, Micros},
    },
};

/// How often the program that does nothing is run; the first run warms the caches and does not count.
const STARTS: usize = 6;

/// How often a self-test is compiled each way where two compile commands are compared.
const COMPILATIONS: usize = 3;

/// How often roots of images that are gone are removed meanwhile.
const COLLECT: Micros = Micros(20_000_000);

/// Run the self-tests of runtimes, and print a table: what passed, what starting costs, how large the image is.
///
/// Uses the `envicutor up` of the data directory where one runs, or the fleet that --nats names; else starts a worker of its own.
/// What that fleet has installed is tested too. What is not installed is installed first, one after the other; that goes to standard error. Exits 1 when a self-test fails.
#[derive(Debug, Clone, clap::Args)]
pub struct Test {
    /// `python`, or with a version `python@3.11`.
    #[arg(required_unless_present = "all")]
    runtimes: Vec<RuntimeRef>,
    /// Every version of every runtime.
    #[arg(long, conflicts_with = "runtimes")]
    all: bool,
    /// Remove each image that was not there before, so that the disk holds one at a time. Needs a worker of its own.
    #[arg(long)]
    drop: bool,
    /// The longest wait for each submission, the installation included: `30s`, `10min`.
    #[arg(long, value_name = "TIME")]
    timeout: Option<Micros>,
    /// Print what came of it as JSON.
    #[arg(long)]
    json: bool,
}

impl Test {
    /// Runs them and prints.
    pub async fn run(
        self,
        options: &Options,
        shutdown: CancellationToken,
    ) -> Result<Exit, CliError> {
        let mut config = options.load()?;
        if let Some(timeout) = self.timeout {
            config.client.wait_timeout_us = timeout;
        }
        let is_named = options.names_a_server(&config);
        let runtimes = Runtimes::load(&config, &config.data_dir.0.join("runtimes"))?;
        tokio::select! {
            followed = follow(&config, is_named, &runtimes) => followed?,
            () = shutdown.cancelled() => return Err(CliError::Interrupted),
        }
        let definitions = self.definitions(&runtimes)?;
        let fleet = tokio::select! {
            fleet = self.fleet(&config, is_named) => fleet?,
            () = shutdown.cancelled() => return Err(CliError::Interrupted),
        };
        match fleet {
            Fleet::Running(_) if self.drop => Err(CliError::Usage(
                "--drop would take images from a fleet that is in use: stop it, or name another --data-dir".into(),
            )),
            Fleet::Running(url) => tokio::select! {
                exit = self.test(&config, &url, &runtimes, &definitions) => exit,
                () = shutdown.cancelled() => Err(CliError::Interrupted),
            },
            Fleet::Own(mut fleet) => {
                let url = fleet.url(Role::Service);
                let exit = tokio::select! {
                    exit = self.test(&config, &url, &runtimes, &definitions) => exit,
                    error = fleet.ended() => Err(error.into()),
                    () = shutdown.cancelled() => Err(CliError::Interrupted),
                };
                let stopped = fleet.stop().await;
                let exit = exit?;
                stopped.map_err(CliError::from).map(|()| exit)
            }
        }
    }

    /// What is tested, in the order of names and versions.
    fn definitions(&self, runtimes: &Runtimes) -> Result<Vec<Definition>, CliError> {
        let catalogue = runtimes.catalogue();
        let mut wanted = BTreeSet::new();
        if self.all {
            wanted.extend(catalogue.runtimes.iter().map(key));
        }
        for reference in &self.runtimes {
            let unknown = || CliError::Usage(format!("there is no runtime {reference}"));
            wanted.insert(key(catalogue.find(reference).ok_or_else(unknown)?));
        }
        let definitions = wanted.iter().filter_map(|(name, version)| {
            let found = runtimes.definition(name, version);
            found.map(|found| Definition::clone(&found))
        });
        Ok(definitions.collect())
    }

    /// The fleet that is named or runs, else one for this alone: with one slot, and nothing beside what is measured.
    async fn fleet(&self, config: &Config, is_named: bool) -> Result<Fleet, CliError> {
        if is_named {
            return Ok(Fleet::Running(config.nats.url.clone()));
        }
        let mut own = config.clone();
        own.worker.slots = Some(1);
        own.worker.drain_grace_us = Micros(0);
        own.container.pool_size = Some(1);
        own.runtimes.preload.clear();
        own.runtimes.measure_after_us = Micros(u64::MAX / 4);
        if self.drop {
            own.container.collect_us = COLLECT;
        }
        find_or_start(config, &own).await
    }

    async fn test(
        &self,
        config: &Config,
        url: &str,
        runtimes: &Runtimes,
        definitions: &[Definition],
    ) -> Result<Exit, CliError> {
        let mut config = config.clone();
        url.clone_into(&mut config.nats.url);
        let container = &config.container;
        let engine = docker::connect(container.docker_host.as_deref(), container.call_timeout_us);
        let bench = Bench {
            client: Client::connect_with(&config).await?,
            // A fleet elsewhere has its images elsewhere: then their sizes are not known here.
            docker: engine.await.ok(),
            runtimes: runtimes.clone(),
        };
        let mut tested = Vec::new();
        for (index, definition) in definitions.iter().enumerate() {
            let reference = definition.reference();
            tell(format!("[{}/{}] {reference}", index + 1, definitions.len()));
            let kept = bench.is_there(definition).await;
            let one = bench.test(definition).await?;
            tell(format!(
                "[{}/{}] {reference}: {one}",
                index + 1,
                definitions.len()
            ));
            if let (true, false, Some(image)) = (self.drop, kept, &one.image) {
                bench.remove(image).await;
            }
            tested.push(one);
        }
        bench.client.close().await;
        if self.json {
            say_json(&tested)?;
        } else {
            say(table(&tested))?;
        }
        let good = tested.iter().all(|one| one.failed.is_empty());
        Ok(if good { Exit::Ok } else { Exit::NotOk })
    }
}

/// Adds what the fleet has installed, where one is named or runs: its catalogue has the definitions. One that cannot be read is told of,
/// and what is known here is tested.
async fn follow(config: &Config, is_named: bool, runtimes: &Runtimes) -> Result<(), CliError> {
    let mut nats = config.nats.clone();
    if !is_named {
        let Some(url) = nats_server::running_url(&config.data_dir.0, Role::Service) else {
            return Ok(());
        };
        nats.url = url;
    }
    let role = user_of(&nats.url).unwrap_or(Role::Service);
    let bus = Bus::connect(&nats, role, "envicutor-runtime").await;
    let bus = bus.map_err(ClientError::from)?;
    let entries = Shelf::new(&bus).list().await;
    bus.close().await;
    match entries {
        Ok(entries) => runtimes.follow(entries.into_iter().map(|it| it.installed).collect()),
        Err(error) => tell(format!(
            "what the fleet has installed cannot be read, and is not tested: {error}"
        )),
    }
    Ok(())
}

fn key(runtime: &Runtime) -> (RuntimeName, RuntimeVersion) {
    (runtime.name.clone(), runtime.version.clone())
}

/// What tests runtimes: a fleet, and the Engine of this machine.
struct Bench {
    client: Client,
    docker: Option<Docker>,
    runtimes: Runtimes,
}

impl Bench {
    /// Whether the image was there before, or is the base that others stand on.
    async fn is_there(&self, definition: &Definition) -> bool {
        let runtime = &definition.runtime;
        let (Some(docker), false) = (&self.docker, definition.is_bare()) else {
            return true;
        };
        let found = self.runtimes.found(docker, &runtime.name, &runtime.version);
        !matches!(found.await, Ok(None))
    }

    async fn test(&self, definition: &Definition) -> Result<Tested, CliError> {
        let mut tested = Tested::new(definition.reference());
        for test in &definition.tests {
            let submission = test.submission(definition.reference());
            let result = self.run(&submission).await?;
            if result.image.is_some() {
                tested.image.clone_from(&result.image);
            }
            let could_not_run = matches!(result.outcome, Outcome::Failed | Outcome::Rejected);
            match test.judge(&result) {
                Ok(()) => tested.passed += 1,
                Err(reason) => tested.failed.push(Failed {
                    test: test.name.clone(),
                    reason: escape_line(&reason),
                }),
            }
            if could_not_run {
                // There is no image, or no such runtime in that fleet: the others would come to the same, each after as long.
                return Ok(tested);
            }
            self.gain(definition, test, &mut tested).await?;
        }
        if let Some(empty) = &definition.empty {
            self.start(definition.reference(), empty, &mut tested)
                .await?;
        }
        if let (Some(docker), Some(image)) = (&self.docker, &tested.image) {
            let inspected = docker.inspect_image(image.as_str()).await.ok();
            let size = inspected.and_then(|image| image.size);
            tested.image_bytes = size.and_then(|size| u64::try_from(size).ok()).map(ByteSize);
        }
        Ok(tested)
    }

    /// Measures a program that does nothing.
    async fn start(
        &self,
        runtime: RuntimeRef,
        empty: &str,
        tested: &mut Tested,
    ) -> Result<(), CliError> {
        let mut submission = Submission::new(runtime).source(empty);
        submission.events = EventsWanted::None;
        for _ in 0..STARTS {
            submission = submission.test(message::Test::new(""));
        }
        let result = self.run(&submission).await?;
        if result.verdict == Some(Verdict::Ok) {
            tested.start = Some(Cost::of(&result.runs[1..]));
        } else {
            tested.failed.push(Failed {
                test: "empty".into(),
                reason: format!("the program that does nothing came to {:?}", result.verdict),
            });
        }
        Ok(())
    }

    /// Compiles the program of `test` by the runtime's command and by the other one in turns, where there is another one.
    async fn gain(
        &self,
        definition: &Definition,
        test: &SelfTest,
        tested: &mut Tested,
    ) -> Result<(), CliError> {
        let own = test.submission(definition.reference());
        let Some(beside) = test.submission_beside(definition.reference()) else {
            return Ok(());
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..COMPILATIONS {
            for (submission, stages) in [(&own, &mut ours), (&beside, &mut theirs)] {
                let result = self.run(submission).await?;
                if let Err(reason) = test.judge(&result) {
                    tested.failed.push(Failed {
                        test: format!("{}, compared", test.name),
                        reason: escape_line(&reason),
                    });
                    return Ok(());
                }
                stages.extend(result.compile);
            }
        }
        tested.gains.push(Gain::of(test, &ours, &theirs));
        Ok(())
    }

    async fn run(&self, submission: &Submission) -> Result<SubmissionResult, CliError> {
        let tenant = Tenant::default_tenant();
        let result = self
            .client
            .submit_and_wait(&tenant, Lane::Interactive, None, submission)
            .await?;
        Ok(result)
    }

    /// Removes an image of ours; the root that was made of it is collected by the worker.
    async fn remove(&self, image: &Digest) {
        let Some(docker) = &self.docker else { return };
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        if let Err(error) = docker
            .remove_image(image.as_str(), Some(options), None)
            .await
        {
            tell(format!("the image {image} could not be removed: {error}"));
        }
    }
}
