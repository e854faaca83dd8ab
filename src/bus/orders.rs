//! What an operator tells one worker: take no more work, take it again, or end. The worker acknowledges with what it is now, so
//! that an order that was given twice does no more than once.

use async_nats::HeaderMap;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    api::{ApiError, header, header_of},
    connect::Bus,
    registry::{Registry, RegistryError, Running, WorkerState},
};
use crate::submission::{
    encoding::{Encoding, EncodingError},
    names::SubmissionId,
};

/// What a worker can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Finish what runs, take nothing new.
    Cordon,
    /// Take work again.
    Uncordon,
    /// Finish what runs within the grace time, hand back the rest, and end.
    Drain,
}

impl Order {
    /// Every order.
    pub const ALL: [Self; 3] = [Self::Cordon, Self::Uncordon, Self::Drain];

    /// Its token in a subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cordon => "cordon",
            Self::Uncordon => "uncordon",
            Self::Drain => "drain",
        }
    }
}

/// A worker's acknowledgement of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obeyed {
    /// Its id.
    pub worker: String,
    /// What it is now.
    pub state: WorkerState,
    /// What it still runs.
    pub running: Vec<Running>,
}

/// An order that was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Nobody has this id.
    #[error("there is no worker {worker:?}: `envicutor worker ls` shows those that there are")]
    NoSuchWorker {
        /// As it was given.
        worker: String,
    },
    /// It is in the registry and does not listen.
    #[error(
        "the worker {worker} does not answer. It was heard of {} s ago: it is cut off or just gone; ask again, or look at its host",
        (OffsetDateTime::now_utc() - *seen_at).whole_seconds().max(0)
    )]
    Silent {
        /// Which.
        worker: String,
        /// When the registry last heard of it.
        seen_at: OffsetDateTime,
    },
    /// The registry could not be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The server could not be asked.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The answer cannot be read.
    #[error("the answer of the worker cannot be read: {0}")]
    Answer(#[from] EncodingError),
}

/// Gives an order to a worker, and returns its acknowledgement. Needs an operator's rights.
pub async fn give(bus: &Bus, worker: &str, order: Order) -> Result<Obeyed, OrderError> {
    // By the rule for ids, so that it is one token of a subject.
    if worker.parse::<SubmissionId>().is_err() {
        return Err(no_such(worker));
    }
    let subject = bus.names.worker_order(worker, order.as_str());
    let answer = match bus.ask(&subject, HeaderMap::new(), "".into()).await {
        Ok(answer) => answer,
        Err(ApiError::NoResponders { .. } | ApiError::Timeout { .. }) => {
            return Err(silent(bus, worker).await?);
        }
        Err(error) => return Err(error.into()),
    };
    let headers = answer.headers.unwrap_or_default();
    let encoding = Encoding::of_content_type(header_of(&headers, header::CONTENT_TYPE))?;
    Ok(encoding.decode(&answer.payload)?)
}

/// Why a worker is silent.
async fn silent(bus: &Bus, worker: &str) -> Result<OrderError, OrderError> {
    let workers = Registry::new(bus).list().await?;
    let entry = workers.into_iter().find(|entry| entry.worker == worker);
    Ok(entry.map_or_else(
        || no_such(worker),
        |entry| OrderError::Silent {
            worker: entry.worker,
            seen_at: entry.seen_at,
        },
    ))
}

fn no_such(worker: &str) -> OrderError {
    OrderError::NoSuchWorker {
        worker: worker.to_owned(),
    }
}
