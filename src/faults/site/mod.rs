//! The fleet of a run on this machine, real processes all of it: NATS servers, workers, their containers; and what strikes them.
//!
//! | | |
//! | --- | --- |
//! | [`servers`] | the NATS servers |
//! | [`place`] | where a worker runs, and the next one after it |
//! | [`cable`] | what their connections go through |
//! | [`containers`] | the workers' containers |
//! | [`tag`] | what tells a run from every other |
//! | [`setup`] | configuration, streams, connections |

mod cable;
mod containers;
mod place;
mod servers;
mod setup;
mod tag;

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    cable::Line,
    place::{Order, Place, Start},
    servers::{ServerRoom, Servers},
};
pub(super) use self::{containers::Containers, tag::Tag};
use super::{
    history::{Recorder, What},
    plan::{Kind, Plan},
    schedule::{Planned, Schedule},
};
use crate::{
    bus::{
        Bus, ConnectError, Role, credentials::CredentialsError, provision::ProvisionError,
        registry::RegistryError,
    },
    docker::{self, DockerError},
    nats_server::{
        ServerError,
        binary::{self, BinaryError},
        cluster::NodeAddressError,
    },
};

/// How long a worker may take to drain beyond its own grace time.
const DRAIN: Duration = Duration::from_mins(1);

/// The fleet could not be had, or not be struck.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A file or process.
    #[error("the fleet under faults: {0}")]
    Io(#[from] io::Error),
    /// The program of the NATS servers.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// Their files.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Their addresses.
    #[error(transparent)]
    Address(#[from] NodeAddressError),
    /// Their passwords.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A connection to them.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The streams.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// A stream is refused.
    #[error("{object} could not be made: {reasons}")]
    Refused {
        /// Which.
        object: String,
        /// Why.
        reasons: String,
    },
    /// The Docker Engine.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The Docker Engine again.
    #[error("the Docker Engine: {0}")]
    Engine(#[from] bollard::errors::Error),
    /// The registry of workers.
    #[error("the registry of workers: {0}")]
    Registry(#[from] RegistryError),
    /// The workers are not there.
    #[error("{there} of {count} workers are there; their logs are in the directory of the run")]
    NoWorkers {
        /// How many are.
        there: usize,
        /// How many should be.
        count: usize,
    },
    /// The workers' configuration has no form.
    #[error("the workers' configuration: {0}")]
    Toml(#[from] toml::ser::Error),
}

/// The fleet.
#[derive(Debug)]
pub(super) struct Site {
    room: ServerRoom,
    places: Vec<Place>,
    /// One for each place, and the last one for the clients.
    lines: Vec<Arc<Line>>,
    containers: Arc<Containers>,
    recorder: Recorder,
    absence: Duration,
}

/// What connects to the fleet.
#[derive(Debug)]
pub(super) struct Connections {
    /// An operator's, to every server, behind no cable.
    pub(super) operator: Bus,
    /// Services', behind the clients' cables.
    pub(super) clients: Vec<Bus>,
    /// Services', one at each server, behind no cable.
    pub(super) witnesses: Vec<Bus>,
}

impl Site {
    /// Starts everything in `dir` and waits until every worker is there.
    pub(super) async fn open(
        plan: &Plan,
        dir: &Path,
        tag: &Tag,
        recorder: &Recorder,
    ) -> Result<(Self, Connections), SiteError> {
        let config = setup::config(plan, dir);
        let program = binary::obtain(config.nats.server.as_deref(), dir).await?;
        let nats_dir = dir.join("nats");
        let servers = Servers::start(program, &nats_dir, &config.nats, plan.servers)?;
        let direct = servers.addresses().to_vec();
        let operator =
            setup::connect(&servers, &direct, &config.nats, Role::Operator, "operator").await?;
        servers.wait_until_they_answer(&operator).await?;
        setup::provision(&operator, &config).await?;
        let docker = docker::connect(
            config.container.docker_host.as_deref(),
            config.container.call_timeout_us,
        );
        let containers = Arc::new(Containers::watch(docker.await?, tag));
        let logs = dir.join("logs");
        fs::create_dir_all(&logs)?;
        let (mut places, mut lines) = (Vec::new(), Vec::new());
        for number in 0..plan.workers {
            let line = Line::lay(&direct).await?;
            let file = dir.join(format!("worker-{number}.toml"));
            let url = servers.url(Role::Worker, &line.addresses());
            let own = setup::config_of_place(&config, tag, number, url);
            fs::write(&file, toml::to_string(&own)?)?;
            let start = Start {
                program: plan.worker.clone(),
                config: file,
                logs: logs.clone(),
                name: tag.place(number),
                patience: config.worker.drain_grace_us.duration() + DRAIN,
            };
            places.push(Place::open(start, recorder.clone()));
            lines.push(Arc::new(line));
        }
        let line = Line::lay(&direct).await?;
        let connections = Connections {
            clients: setup::clients(&servers, &line.addresses(), &config.nats).await?,
            witnesses: setup::witnesses(&servers, &config.nats).await?,
            operator: operator.clone(),
        };
        lines.push(Arc::new(line));
        setup::wait_for_workers(&operator, tag, plan.workers).await?;
        let site = Self {
            room: ServerRoom::open(servers, operator, recorder.clone()),
            places,
            lines,
            containers,
            recorder: recorder.clone(),
            absence: plan.absence(),
        };
        Ok((site, connections))
    }

    /// Lets the faults of `schedule` strike until it is `calm`, and waits until the last ones are over.
    pub(super) async fn strike(&self, schedule: Schedule, calm: CancellationToken) {
        let began = Instant::now();
        let mut under_way = JoinSet::new();
        for planned in schedule {
            tokio::select! {
                () = sleep_until(began + planned.at) => self.fault(planned, &mut under_way),
                () = calm.cancelled() => break,
            }
            while under_way.try_join_next().is_some() {}
        }
        // Without any fault the run is as long as its work.
        calm.cancelled().await;
        while under_way.join_next().await.is_some() {}
    }

    fn fault(&self, planned: Planned, under_way: &mut JoinSet<()>) {
        let Planned { kind, choice, .. } = planned;
        let place = &self.places[choice % self.places.len()];
        let line = choice % self.lines.len();
        let is_struck = match kind {
            Kind::WorkerKilled => place.order(Order::Kill),
            Kind::WorkerFrozen => place.order(Order::Freeze(self.absence)),
            Kind::WorkerDrained => place.order(Order::Drain),
            Kind::LeaderKilled => self.room.strike(choice),
            Kind::ConnectionCut => {
                self.note(kind, self.owner(line));
                self.lines[line].cut();
                true
            }
            Kind::ConnectionSilent => {
                self.note(kind, format!("{} for {:?}", self.owner(line), self.absence));
                let (line, absence) = (Arc::clone(&self.lines[line]), self.absence);
                under_way.spawn(async move {
                    line.silence(true);
                    sleep(absence).await;
                    line.silence(false);
                });
                true
            }
            Kind::ContainerRemoved | Kind::AgentKilled => {
                let (containers, recorder) = (Arc::clone(&self.containers), self.recorder.clone());
                under_way.spawn(async move {
                    let struck = if kind == Kind::AgentKilled {
                        containers.kill_agent(choice).await
                    } else {
                        containers.remove_one(choice).await
                    };
                    match struck {
                        Ok(Some(whom)) => recorder.note(What::Fault { kind, whom }),
                        Ok(None) => {}
                        Err(error) => {
                            let note = format!("{}: {error}", kind.as_str());
                            recorder.note(What::Note(note));
                        }
                    }
                });
                true
            }
        };
        if !is_struck {
            let note = format!("{} was left out: the last one is not over", kind.as_str());
            self.recorder.note(What::Note(note));
        }
    }

    fn note(&self, kind: Kind, whom: String) {
        self.recorder.note(What::Fault { kind, whom });
    }

    /// Whose line it is.
    fn owner(&self, line: usize) -> String {
        if line == self.places.len() {
            "the clients".to_owned()
        } else {
            format!("the workers of place {line}")
        }
    }

    /// Drains every worker; no other is started.
    pub(super) async fn drain(&mut self) -> io::Result<()> {
        for closed in futures_util::future::join_all(self.places.drain(..).map(Place::close)).await
        {
            closed?;
        }
        Ok(())
    }

    /// The workers' containers.
    pub(super) fn containers(&self) -> &Containers {
        &self.containers
    }

    /// Ends the NATS servers; what is left knows the containers only.
    pub(super) async fn close(self) -> io::Result<Arc<Containers>> {
        self.room.close().await?.stop().await?;
        Ok(self.containers)
    }
}
