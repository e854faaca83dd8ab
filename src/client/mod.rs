//! What a service uses: publish a submission, wait for its result, watch what happens.
//!
//! | | |
//! | --- | --- |
//! | [`Client`] | the connection, and the questions that are one request: result, status, runtimes, limits, workers |
//! | [`upload`], [`pack`] | large contents, files and directories of this machine to the object store, before the publish |
//! | [`submit`] | publish until it is stored, or refused |
//! | [`cancel`] | end one, queued or running |
//! | [`wait`] | the result, whatever happens to the connection meanwhile |
//! | [`watch`] | the events, and the result as the last of them |
//! | [`download`], [`place`] | whole outputs and collected files, to a writer or a directory |
//! | [`error`] | what can go wrong, by what the caller can do about it |
//!
//! ```no_run
//! use envicutor::{Client, submission::{message::Submission, names::{Lane, Tenant}}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("nats://service:password@127.0.0.1:4222").await?;
//! let submission = Submission::new("python".parse()?).source("print(input())").stdin("hello");
//! let tenant = Tenant::default_tenant();
//! let result = client.submit_and_wait(&tenant, Lane::Interactive, None, &submission).await?;
//! println!("{:?}: {}", result.verdict, String::from_utf8_lossy(&result.runs[0].stdout.data));
//! # Ok(())
//! # }
//! ```
//!
//! Contents that are large go to the object store by themselves; a service names files and directories of its own:
//!
//! ```no_run
//! # use envicutor::{Client, submission::{message::Submission, names::{Lane, Tenant}}};
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let submission = Submission::new("python".parse()?)
//!     .project("./analysis")
//!     .file_from("data/big.csv", "/data/2026.csv")
//!     .collect("out/*.png");
//! let result = client.submit_and_wait(&Tenant::default_tenant(), Lane::Batch, None, &submission).await?;
//! client.fetch(&result, "./results".as_ref(), false).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The invariant: whatever a method says is stored or standing, JetStream has acknowledged or shown.

pub mod cancel;
pub mod download;
pub mod error;
pub mod pack;
pub mod place;
mod status;
pub mod submit;
pub mod upload;
pub mod wait;
pub mod watch;

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::de::DeserializeOwned;

pub use self::{
    download::{Fetched, OnReceiving, Receiving},
    error::ClientError,
    status::Status,
    submit::Submitted,
    upload::{OnSending, Sending},
    watch::{Update, Watch},
};
use crate::{
    blobs::Store,
    bus::{
        Bus, Role,
        api::{header, header_of},
        installations::Records,
        orders::{self, Obeyed, Order},
        registry::{Heartbeat, Registry},
        results::Results,
    },
    config::{self, Config},
    submission::{
        catalogue::{Catalogue, Ceilings},
        encoding::Encoding,
        installation::Installation,
        names::{RuntimeRef, SubmissionId, Tenant},
        result::SubmissionResult,
    },
};

/// The name that the server shows for a client's connection.
const CONNECTION_NAME: &str = "envicutor-client";

/// A connection to a fleet, for a service. Cheap to clone; clones share the connection, which comes back by itself when it
/// is lost.
#[derive(Debug, Clone)]
pub struct Client {
    bus: Bus,
    config: config::Client,
    store: Store,
    /// For so long at least nothing is collected that was claimed in the store.
    claim_time: Duration,
    encoding: Option<Encoding>,
}

impl Client {
    /// Connects to the server at `url`, `nats://user:password@host:port`, with the default configuration.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), envicutor::client::ClientError> {
    /// let client = envicutor::Client::connect("nats://service:password@127.0.0.1:4222").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(url: &str) -> Result<Self, ClientError> {
        let mut config = Config::default();
        url.clone_into(&mut config.nats.url);
        Self::connect_with(&config).await
    }

    /// Connects as `service`, with the parts `nats`, `blobs` and `client` of a configuration.
    pub async fn connect_with(config: &Config) -> Result<Self, ClientError> {
        Self::connect_as(config, Role::Service).await
    }

    /// Connects as another user: an operator may also ask for the workers.
    pub async fn connect_as(config: &Config, role: Role) -> Result<Self, ClientError> {
        let bus = Bus::connect(&config.nats, role, CONNECTION_NAME).await?;
        Ok(Self {
            store: Store::open(config, Some(&bus))?,
            bus,
            config: config.client.clone(),
            claim_time: config.blobs.grace_us.duration() / 4,
            encoding: None,
        })
    }

    /// Publishes every submission in this encoding, and so has its result in it. Without this, each is JSON where all its
    /// content is text and it fits, else MessagePack.
    #[must_use]
    pub fn with_encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = Some(encoding);
        self
    }

    /// The result that stands for an id; `None` where there is none (yet, or any more).
    ///
    /// ```no_run
    /// # async fn example(client: envicutor::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use envicutor::submission::names::Tenant;
    ///
    /// if let Some(result) = client.result(&Tenant::default_tenant(), &"a1".parse()?).await? {
    ///     println!("{:?}", result.outcome);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn result(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
    ) -> Result<Option<SubmissionResult>, ClientError> {
        let standing = Results::new(&self.bus).read(tenant, id.as_str()).await?;
        Ok(standing.map(|standing| standing.result))
    }

    /// The runtimes that the fleet offers; a worker answers.
    pub async fn runtimes(&self) -> Result<Catalogue, ClientError> {
        self.info(&self.bus.names.info_runtimes()).await
    }

    /// What became of a runtime's last installation, with the end of its log: of any version where `runtime` names none. `None`
    /// where it was never installed, or too long ago.
    pub async fn installation(
        &self,
        runtime: &RuntimeRef,
    ) -> Result<Option<Installation>, ClientError> {
        Ok(Records::new(&self.bus).last_of(runtime).await?)
    }

    /// What no submission may exceed; a worker answers.
    pub async fn limits(&self) -> Result<Ceilings, ClientError> {
        self.info(&self.bus.names.info_limits()).await
    }

    /// The workers that have been heard of lately. For operators: a service's user may not read them.
    pub async fn workers(&self) -> Result<Vec<Heartbeat>, ClientError> {
        Ok(Registry::new(&self.bus).list().await?)
    }

    /// Tells a worker something, and returns what it is now. For operators.
    pub async fn order(&self, worker: &str, order: Order) -> Result<Obeyed, ClientError> {
        Ok(orders::give(&self.bus, worker, order).await?)
    }

    /// Sends what is still buffered and closes the connection, on every clone.
    pub async fn close(&self) {
        self.bus.close().await;
    }

    async fn info<T: DeserializeOwned>(&self, subject: &str) -> Result<T, ClientError> {
        let answer = self.bus.ask(subject, HeaderMap::new(), Bytes::new());
        let answer = answer.await.map_err(ClientError::of_info)?;
        let headers = answer.headers.unwrap_or_default();
        let encoding = Encoding::of_content_type(header_of(&headers, header::CONTENT_TYPE))?;
        Ok(encoding.decode(&answer.payload)?)
    }
}
