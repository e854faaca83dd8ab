//! What a service uses: publish a submission, wait for its result, watch what happens.
//!
//! | | |
//! | --- | --- |
//! | [`Client`] | the connection, and the questions that are one request: result, status, runtimes, limits, workers |
//! | [`submit`] | publish until it is stored, or refused |
//! | [`wait`] | the result, whatever happens to the connection meanwhile |
//! | [`watch`] | the events, and the result as the last of them |
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
//! The invariant: whatever a method says is stored or standing, JetStream has acknowledged or shown.

pub mod error;
mod status;
pub mod submit;
pub mod wait;
pub mod watch;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::de::DeserializeOwned;

pub use self::{
    error::ClientError,
    status::Status,
    submit::Submitted,
    watch::{Update, Watch},
};
use crate::{
    bus::{
        Bus, Role,
        api::{header, header_of},
        registry::{Heartbeat, Registry},
        results::Results,
    },
    config::{self, Config},
    submission::{
        catalogue::{Catalogue, Ceilings},
        encoding::Encoding,
        names::{SubmissionId, Tenant},
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
    waiting: config::Client,
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

    /// Connects as `service`, with the parts `nats` and `client` of a configuration.
    pub async fn connect_with(config: &Config) -> Result<Self, ClientError> {
        Self::connect_as(config, Role::Service).await
    }

    /// Connects as another user: an operator may also ask for the workers.
    pub async fn connect_as(config: &Config, role: Role) -> Result<Self, ClientError> {
        Ok(Self {
            bus: Bus::connect(&config.nats, role, CONNECTION_NAME).await?,
            waiting: config.client.clone(),
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

    /// What no submission may exceed; a worker answers.
    pub async fn limits(&self) -> Result<Ceilings, ClientError> {
        self.info(&self.bus.names.info_limits()).await
    }

    /// The workers that have been heard of lately. For operators: a service's user may not read them.
    pub async fn workers(&self) -> Result<Vec<Heartbeat>, ClientError> {
        Ok(Registry::new(&self.bus).list().await?)
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
