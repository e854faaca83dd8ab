//! How a container with an agent comes to run, whatever it is for: named, created, started, let in, greeted. Whatever
//! fails, nothing stays behind.

use std::time::Duration;

use bollard::models::ContainerCreateBody;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{
    ContainerError, Spools,
    door::Door,
    options::Place,
    removal::{Existence, Occupancy, Remover},
    session::Session,
    state_dir::{SHORT_NAME_CHARS, StateDir},
    sweep::Labels,
    uids::Uids,
};
use crate::config;

/// An agent connects within a few milliseconds. After this the Engine is asked whether the container has ended.
const DOUBT: Duration = Duration::from_millis(500);

/// Starts containers of a worker.
pub(super) struct Starter {
    pub(super) config: config::Container,
    pub(super) state_dir: StateDir,
    pub(super) labels: Labels,
    pub(super) uids: Uids,
    pub(super) remover: Remover,
    pub(super) spools: Spools,
}

/// A container that runs, its agent connected.
pub(super) struct Started {
    pub(super) session: Session,
    pub(super) occupancy: Occupancy,
    /// What the Engine calls it: 64 hexadecimal digits.
    pub(super) id: String,
}

impl Starter {
    /// Starts the container that `body` describes for its place.
    pub(super) async fn start(
        &self,
        body: impl FnOnce(&Place<'_>) -> ContainerCreateBody,
    ) -> Result<Started, ContainerError> {
        let short_name = short_name();
        let socket_dir = self.state_dir.socket_dir(&short_name);
        let mut occupancy = self.remover.occupy(
            format!("envicutor-{short_name}"),
            socket_dir.clone(),
            self.uids.take()?,
        );
        let door = Door::open(&socket_dir)?;
        let agent = self.state_dir.agent();
        let place = Place {
            uid: occupancy.uid(),
            agent: &agent,
            socket_dir: &socket_dir,
            labels: &self.labels,
        };
        let id = self.create(&mut occupancy, body(&place)).await?;
        let patience = self.config.start_timeout_us.duration();
        let session = timeout(patience, self.connect(&mut occupancy, door))
            .await
            .map_err(|_| ContainerError::NoAgent {
                name: occupancy.name().to_owned(),
                problem: format!("{patience:?} have passed (container.start_timeout_us)"),
            })??;
        Ok(Started {
            session,
            occupancy,
            id,
        })
    }

    async fn create(
        &self,
        occupancy: &mut Occupancy,
        body: ContainerCreateBody,
    ) -> Result<String, ContainerError> {
        occupancy.set(Existence::Unknown);
        let created = self.remover.engine.create(occupancy.name(), body).await;
        occupancy.set(match &created {
            Ok(_) => Existence::Created,
            Err(error) if error.is_outage() => Existence::Unknown,
            Err(_) => Existence::None,
        });
        created
    }

    async fn connect(
        &self,
        occupancy: &mut Occupancy,
        door: Door,
    ) -> Result<Session, ContainerError> {
        self.remover.engine.start(occupancy.name()).await?;
        occupancy.set(Existence::Started);
        let stream = tokio::select! {
            stream = door.admit() => stream?,
            error = self.early_end(occupancy.name()) => return Err(error),
        };
        Session::greet(stream, self.spools.clone()).await
    }

    /// Resolves only if the container ends.
    async fn early_end(&self, name: &str) -> ContainerError {
        sleep(DOUBT).await;
        let problem = match self.remover.engine.wait_until_stopped(name).await {
            Some(code) => format!("it ended with exit code {code}"),
            None => "it ended".to_owned(),
        };
        ContainerError::NoAgent {
            name: name.to_owned(),
            problem,
        }
    }
}

/// A name that no container has had: hexadecimal digits at random.
fn short_name() -> String {
    let random = Uuid::from_u128(rand::random()).simple().to_string();
    random[..SHORT_NAME_CHARS].to_owned()
}
