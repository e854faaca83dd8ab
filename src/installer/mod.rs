//! The installer: takes a runtime's definition from the stream, makes its image in a container that reaches nothing but what the
//! definition names, tries it, and registers it with the fleet.
//!
//! | in the order of an installation's way | |
//! | --- | --- |
//! | this file | takes one at a time, renews it while it goes on, acknowledges it when what became of it is noted |
//! | `attempt` | one installation, from definition to catalogue |
//! | `log` | what it says meanwhile |
//! | `self_test` | what it has to be able to do |
//!
//! The invariant: the catalogue changes in one write, after everything else has succeeded. Whatever fails, is killed or is done twice
//! before that, the fleet has what it had.

mod attempt;
mod log;
mod self_test;

use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use self::attempt::Attempt;
pub use self::{log::LogLine, self_test::TestError};
use crate::{
    blobs::{BlobError, Blobs, Store},
    bus::{
        Bus, ConnectError, Role,
        api::ApiError,
        installations::{self, InstallationError, Records, Taken},
    },
    config::Config,
    docker::{self, DockerError},
    runtimes::{Runtimes, error::RuntimeError},
    submission::{
        installation::{Installation, InstallationState},
        names::RuntimeName,
    },
};

/// How long an installation waits that an outage of this machine interrupted.
const AFTER_OUTAGE: Duration = Duration::from_secs(5);

/// How long to wait before NATS is asked again after it failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Why an installer cannot start: the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum InstallerError {
    /// NATS cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The Docker Engine.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// The object store.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// The runtimes.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// An installer that is connected.
pub struct Installer {
    config: Config,
    id: String,
    bus: Bus,
    docker: bollard::Docker,
    /// Where images go.
    images: Blobs,
    runtimes: Runtimes,
}

/// What became of a taken installation.
enum End {
    /// It is over, and noted.
    Ack,
    /// Somebody else may do it, after a while.
    HandBack(Duration),
}

impl Installer {
    /// Connects to NATS and to the Docker Engine.
    pub async fn connect(config: &Config) -> Result<Self, InstallerError> {
        let random: u32 = rand::random();
        let id = format!("installer-{}-{random:08x}", crate::worker::host_name());
        let bus = Bus::connect(&config.nats, Role::Installer, &id).await?;
        let docker = docker::connect(
            config.container.docker_host.as_deref(),
            config.container.call_timeout_us,
        )
        .await?;
        let work_dir = config.data_dir.0.join("runtimes");
        let images = Store::open(config, Some(&bus))?.images();
        let runtimes = Runtimes::load(config, &work_dir)?;
        runtimes.load_from(images.clone());
        Ok(Self {
            runtimes,
            config: config.clone(),
            images,
            id,
            bus,
            docker,
        })
    }

    /// Installs what comes, one after the other, until `shutdown`. What is under way then is given up and handed back.
    pub async fn run(self, shutdown: CancellationToken) {
        tracing::info!(installer = self.id, "the installer is ready");
        loop {
            let taken = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                taken = installations::take(&self.bus) => taken,
            };
            let wait = match taken {
                Ok(Some(taken)) => {
                    self.see_to(taken, &shutdown).await;
                    continue;
                }
                Ok(None) => self.config.installer.poll_us.duration(),
                Err(error) => {
                    tracing::warn!(%error, "no installation could be taken");
                    AFTER_FAILURE
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.bus.close().await;
    }

    /// Does an installation, and answers for its message.
    async fn see_to(&self, taken: Taken, shutdown: &CancellationToken) {
        let end = tokio::select! {
            end = self.install(&taken) => end.unwrap_or_else(|error| {
                tracing::warn!(%error, runtime = taken.name, "what became of an installation is not noted yet: it is done again");
                End::HandBack(AFTER_FAILURE)
            }),
            () = self.renew(&taken) => return,
            () = shutdown.cancelled() => End::HandBack(Duration::ZERO),
        };
        let answered = match end {
            End::Ack => taken.ack().await,
            End::HandBack(delay) => taken.hand_back(delay).await,
        };
        if let Err(error) = answered {
            tracing::warn!(%error, runtime = taken.name, "an installation was not answered for: it comes again");
        }
    }

    /// Says again and again that it goes on. Ends when it could not for as long as it takes to be given to another one.
    async fn renew(&self, taken: &Taken) {
        let wait = self.config.installer.ack_wait_us.duration();
        let mut failing: Option<tokio::time::Instant> = None;
        loop {
            tokio::time::sleep(wait / 3).await;
            match taken.renew().await {
                Ok(()) => failing = None,
                Err(error) => {
                    let since = *failing.get_or_insert_with(tokio::time::Instant::now);
                    tracing::warn!(%error, runtime = taken.name, "an installation could not be renewed");
                    if since.elapsed() > wait {
                        return;
                    }
                }
            }
        }
    }

    /// The life of an installation: what became of it is noted, whatever it is.
    async fn install(&self, taken: &Taken) -> Result<End, InstallationError> {
        let Ok(name) = taken.name.parse::<RuntimeName>() else {
            tracing::warn!(
                name = taken.name,
                "dropped an installation under a name that no runtime can have"
            );
            return Ok(End::Ack);
        };
        let records = Records::new(&self.bus);
        let last = records
            .last(&name)
            .await?
            .filter(|it| it.sequence == taken.sequence);
        // Its acknowledgement was lost.
        if last.as_ref().is_some_and(Installation::has_ended) {
            return Ok(End::Ack);
        }
        let mut record = last.unwrap_or_else(|| self.begin(name, taken.sequence));
        if record.attempts >= self.config.installer.max_attempts {
            let error = format!(
                "its installer was lost {} times (installer.max_attempts)",
                record.attempts
            );
            return self.end(&records, record, Err(error)).await;
        }
        record.attempts += 1;
        record.installer.clone_from(&self.id);
        records.put(&record).await?;
        let attempt = Attempt::new(self, &record.name, taken);
        let ended = Box::pin(attempt.run(&mut record.version)).await;
        let log = attempt.log();
        drop(attempt);
        record.log = log;
        match ended {
            Ok(image) => {
                record.image = Some(image);
                self.end(&records, record, Ok(())).await
            }
            Err(error) if error.is_outage() => {
                tracing::warn!(%error, runtime = %record.name, "an installation is tried again later");
                record.attempts -= 1;
                records.put(&record).await?;
                Ok(End::HandBack(AFTER_OUTAGE))
            }
            Err(error) => self.end(&records, record, Err(error.to_string())).await,
        }
    }

    fn begin(&self, name: RuntimeName, sequence: u64) -> Installation {
        Installation {
            name,
            version: None,
            sequence,
            state: InstallationState::Running,
            attempts: 0,
            error: None,
            image: None,
            log: String::new(),
            installer: self.id.clone(),
            started_at: OffsetDateTime::now_utc(),
            ended_at: None,
        }
    }

    /// Notes how it ended, and tells it.
    async fn end(
        &self,
        records: &Records,
        mut record: Installation,
        ended: Result<(), String>,
    ) -> Result<End, InstallationError> {
        record.ended_at = Some(OffsetDateTime::now_utc());
        record.error = ended.err();
        record.state = match &record.error {
            None => InstallationState::Installed,
            Some(_) => InstallationState::Failed,
        };
        match &record.error {
            None => tracing::info!(runtime = %record.reference(), "installed"),
            Some(error) => tracing::warn!(runtime = %record.reference(), error, "not installed"),
        }
        records.put(&record).await?;
        let subject = self
            .bus
            .names
            .installation_event(record.name.as_str(), "ended");
        let told = self
            .bus
            .client
            .publish(subject, serde_json::to_vec(&record)?.into());
        told.await.map_err(|_| ApiError::NotConnected)?;
        Ok(End::Ack)
    }
}
