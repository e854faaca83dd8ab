//! The containers of the run's workers, as the Docker Engine has them: every one that was made, those that are there, and what
//! is done to them by hand.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerSummary, EventMessage},
    query_parameters::{
        EventsOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use futures_util::StreamExt as _;
use tokio::{task::JoinSet, time::sleep};

use super::tag::Tag;
use crate::{container::WORKER_LABEL, nats_server::signal};

/// Between two tries to hear the Engine's events.
const RETRY: Duration = Duration::from_millis(200);

/// The containers of a run.
#[derive(Debug)]
pub(in crate::faults) struct Containers {
    docker: Docker,
    tag: Tag,
    /// The ids of all that were ever seen.
    seen: Arc<Mutex<BTreeSet<String>>>,
    _listener: JoinSet<()>,
}

impl Containers {
    /// Notes from now on every container that the run's workers make.
    pub(super) fn watch(docker: Docker, tag: &Tag) -> Self {
        let seen = Arc::new(Mutex::default());
        let mut listener = JoinSet::new();
        listener.spawn(listen(docker.clone(), tag.clone(), Arc::clone(&seen)));
        Self {
            docker,
            tag: tag.clone(),
            seen,
            _listener: listener,
        }
    }

    /// The ids of all that were made.
    pub(in crate::faults) fn seen(&self) -> BTreeSet<String> {
        lock(&self.seen).clone()
    }

    /// Those that are there, running or not: id, and the worker they are of.
    pub(in crate::faults) async fn there(&self) -> Result<Vec<(String, String)>, Error> {
        self.list(true).await
    }

    /// Where this host has the volume of that name, where it is there and may be looked into.
    pub(in crate::faults) async fn volume(&self, name: &str) -> Option<PathBuf> {
        let volume = self.docker.inspect_volume(name).await.ok()?;
        let path = PathBuf::from(volume.mountpoint);
        fs::read_dir(&path).ok().map(|_| path)
    }

    /// Removes one that runs, as an operator would. Which it was, where one ran.
    pub(super) async fn remove_one(&self, choice: usize) -> Result<Option<String>, Error> {
        let Some((id, worker)) = self.pick(choice).await? else {
            return Ok(None);
        };
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        match self.docker.remove_container(&id, Some(options)).await {
            // It went meanwhile, or goes.
            Err(Error::DockerResponseServerError {
                status_code: 404 | 409,
                ..
            }) => Ok(None),
            removed => removed.map(|()| Some(format!("{} of {worker}", short(&id)))),
        }
    }

    /// Kills the agent of one that runs. Which it was, where one ran.
    pub(super) async fn kill_agent(&self, choice: usize) -> Result<Option<String>, Error> {
        let Some((id, worker)) = self.pick(choice).await? else {
            return Ok(None);
        };
        let inspected = self.docker.inspect_container(&id, None).await;
        let pid = match inspected {
            Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => return Ok(None),
            inspected => inspected?.state.and_then(|state| state.pid),
        };
        let Some(pid) = pid
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 1)
        else {
            return Ok(None);
        };
        signal("KILL", pid);
        Ok(Some(format!("process {pid} of {} of {worker}", short(&id))))
    }

    async fn pick(&self, choice: usize) -> Result<Option<(String, String)>, Error> {
        let mut running = self.list(false).await?;
        if running.is_empty() {
            return Ok(None);
        }
        let place = choice % running.len();
        Ok(Some(running.swap_remove(place)))
    }

    async fn list(&self, all: bool) -> Result<Vec<(String, String)>, Error> {
        let options = ListContainersOptionsBuilder::default()
            .all(all)
            .filters(&HashMap::from([("label", vec![WORKER_LABEL])]))
            .build();
        let listed = self.docker.list_containers(Some(options)).await?;
        let of_run = |container: ContainerSummary| {
            let worker = container.labels?.remove(WORKER_LABEL)?;
            self.tag.is_of(&worker).then_some((container.id?, worker))
        };
        Ok(listed.into_iter().filter_map(of_run).collect())
    }
}

/// The Engine shows so much of an id.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

async fn listen(docker: Docker, tag: Tag, seen: Arc<Mutex<BTreeSet<String>>>) {
    let filters = HashMap::from([
        ("type", vec!["container"]),
        ("event", vec!["create"]),
        ("label", vec![WORKER_LABEL]),
    ]);
    loop {
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let mut events = std::pin::pin!(docker.events(Some(options)));
        while let Some(Ok(event)) = events.next().await {
            if let Some(id) = made(event, &tag) {
                lock(&seen).insert(id);
            }
        }
        sleep(RETRY).await;
    }
}

/// The id of the container that was made, where it is the run's.
fn made(event: EventMessage, tag: &Tag) -> Option<String> {
    let actor = event.actor?;
    let worker = actor.attributes?.remove(WORKER_LABEL)?;
    tag.is_of(&worker).then_some(actor.id?)
}

fn lock(seen: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
