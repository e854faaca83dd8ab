//! The clients: each publishes a submission, waits for its result, does to it what a service might (reads it by id, publishes it
//! again, uses its id for something else), and goes on to the next. What each is told goes into the history.
//!
//! A client takes an answer for what the contract says it is, no more: a publish without an answer may be stored.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    history::{Operation, Recorder, Seen},
    witness::Waiting,
};
use crate::{
    bus::{Bus, publish::PublishError},
    submission::{
        encoding::{Encoding, EncodingError},
        message::Submission,
        names::{Digest, Lane, NameError, SubmissionId, Tenant},
    },
};

/// Between two tries to publish: doubled from this, up to [`BACKOFF_MOST`].
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MOST: Duration = Duration::from_secs(2);

/// How often a client that waits for a result looks for it besides: its subscriber may have missed it.
const LOOK: Duration = Duration::from_secs(3);

/// How long the first submission may take: images may have to be made.
const WARM_UP: Duration = Duration::from_mins(25);

/// A tenant that nobody provisioned: whatever is published to it is refused.
const NOBODY: &str = "nobody";

/// What a client does with one submission.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Work {
    /// Follows from the seed and the number.
    pub(super) id: SubmissionId,
    lane: Lane,
    /// What its program prints.
    nonce: String,
    /// How long the program sleeps first.
    nap: Duration,
    besides: Besides,
}

/// What a client does besides publishing and waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Besides {
    Nothing,
    /// Reads the result by id.
    Read,
    /// Publishes the same again when the result is there: nothing runs again.
    Again,
    /// Publishes another content under the id once it is stored: refused, or in the dead letters.
    Reuse {
        /// Only when the result is there.
        late: bool,
    },
    /// Publishes to a tenant that nobody provisioned, and nowhere else.
    Astray,
}

impl Work {
    /// The `number`th of a seed.
    pub(super) fn of(seed: u64, number: usize) -> Result<Self, NameError> {
        let offset = u64::try_from(number).unwrap_or(u64::MAX);
        let mut random = StdRng::seed_from_u64(seed.rotate_left(17) ^ offset);
        let nonce: u64 = random.random();
        // Most are over at once; some are there when a fault strikes; a few are so long that they meet several.
        let nap = match random.random_range(0..100) {
            0..80 => 0,
            80..95 => random.random_range(20..300),
            95..99 => random.random_range(300..1_000),
            _ => random.random_range(1_000..3_000),
        };
        let besides = match random.random_range(0..100) {
            0..10 => Besides::Read,
            10..13 => Besides::Again,
            13..16 => Besides::Reuse { late: false },
            16..19 => Besides::Reuse { late: true },
            19..21 => Besides::Astray,
            _ => Besides::Nothing,
        };
        Ok(Self {
            id: format!("s{seed}-{number:06}").parse()?,
            lane: if random.random_bool(0.7) {
                Lane::Interactive
            } else {
                Lane::Batch
            },
            nonce: format!("{nonce:016x}"),
            nap: Duration::from_millis(nap),
            besides,
        })
    }
}

/// What a message holds.
#[derive(Debug, Clone)]
struct Message {
    nonce: String,
    body: Bytes,
    digest: Digest,
}

impl Message {
    /// A program that sleeps, then prints `nonce`.
    fn new(nonce: String, nap: Duration) -> Result<Self, LoadError> {
        let source = if nap.is_zero() {
            format!("echo {nonce}\n")
        } else {
            format!("sleep {}\necho {nonce}\n", nap.as_secs_f64())
        };
        let submission = Submission::new("bash".parse()?).source(source);
        let body = Encoding::Json.encode(&submission)?;
        Ok(Self {
            nonce,
            digest: Digest::of(&body),
            body: body.into(),
        })
    }
}

/// A client could not go on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A message has no form.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// A client met a bug of ours.
    #[error("a client ended: {0}")]
    Client(#[from] tokio::task::JoinError),
}

/// What all clients share.
#[derive(Debug, Clone)]
pub(super) struct Load {
    seed: u64,
    submissions: usize,
    /// How long a client waits for anything.
    patience: Duration,
    recorder: Recorder,
    waiting: Waiting,
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Load {
    /// So many submissions of a seed. Results are heard of by `waiting`.
    pub(super) fn new(
        seed: u64,
        submissions: usize,
        patience: Duration,
        recorder: Recorder,
        waiting: Waiting,
    ) -> Self {
        Self {
            seed,
            submissions,
            patience,
            recorder,
            waiting,
            begun: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// One submission, before anything strikes: what it needs and is missing on this machine is made.
    pub(super) async fn warm_up(&self, bus: &Bus) -> Result<(), LoadError> {
        let load = Self {
            patience: WARM_UP,
            ..self.clone()
        };
        let work = Work {
            id: format!("s{}-first", self.seed).parse()?,
            lane: Lane::Interactive,
            nonce: "first".to_owned(),
            nap: Duration::ZERO,
            besides: Besides::Nothing,
        };
        load.submit(bus, &work).await
    }

    /// How many are over: a result came, or nobody waits for it any more.
    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// Everything, by so many clients at a time over these connections. May be dropped.
    pub(super) async fn run(&self, buses: &[Bus], at_a_time: usize) -> Result<(), LoadError> {
        let mut clients = JoinSet::new();
        for bus in buses.iter().cycle().take(at_a_time.min(self.submissions)) {
            let (load, bus) = (self.clone(), bus.clone());
            clients.spawn(async move { load.client(&bus).await });
        }
        while let Some(client) = clients.join_next().await {
            client??;
        }
        Ok(())
    }

    async fn client(&self, bus: &Bus) -> Result<(), LoadError> {
        loop {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            if number >= self.submissions {
                return Ok(());
            }
            let work = Work::of(self.seed, number)?;
            self.submit(bus, &work).await?;
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn submit(&self, bus: &Bus, work: &Work) -> Result<(), LoadError> {
        let message = Message::new(work.nonce.clone(), work.nap)?;
        if work.besides == Besides::Astray {
            self.publish_once(bus, &NOBODY.parse()?, work, &message)
                .await;
            return Ok(());
        }
        let heard = self.waiting.hear(work.id.as_str());
        let tenant = Tenant::default_tenant();
        let is_stored = self.publish(bus, &tenant, work, &message).await;
        // The same program but for what it prints.
        let other = Message::new(format!("{}-other", work.nonce), work.nap)?;
        if is_stored && work.besides == (Besides::Reuse { late: false }) {
            self.publish_once(bus, &tenant, work, &other).await;
        }
        let has_result = self.wait(bus, &tenant, work, heard).await;
        self.waiting.forget(work.id.as_str());
        if !has_result {
            self.recorder.client(work.id.as_str(), Operation::GaveUp);
            return Ok(());
        }
        match work.besides {
            Besides::Read => drop(self.read(bus, &tenant, work).await),
            Besides::Again => self.publish_once(bus, &tenant, work, &message).await,
            Besides::Reuse { late: true } => self.publish_once(bus, &tenant, work, &other).await,
            Besides::Nothing | Besides::Reuse { late: false } | Besides::Astray => {}
        }
        Ok(())
    }

    /// Publishes until it is stored, as the client library does, for as long as the patience lasts. Whether it is.
    async fn publish(&self, bus: &Bus, tenant: &Tenant, work: &Work, message: &Message) -> bool {
        let began = Instant::now();
        let mut wait = BACKOFF_FIRST;
        // An earlier try may have been stored: who then finds the id taken has taken it.
        let mut is_unsure = false;
        while began.elapsed() < self.patience {
            match self.invoke(bus, tenant, work, message, is_unsure).await {
                Told::Stored => return true,
                Told::NotStored => {}
                Told::Nothing => is_unsure = true,
            }
            sleep(wait).await;
            wait = (wait * 2).min(BACKOFF_MOST);
        }
        false
    }

    async fn publish_once(&self, bus: &Bus, tenant: &Tenant, work: &Work, message: &Message) {
        self.invoke(bus, tenant, work, message, false).await;
    }

    async fn invoke(
        &self,
        bus: &Bus,
        tenant: &Tenant,
        work: &Work,
        message: &Message,
        is_unsure: bool,
    ) -> Told {
        let note = |operation| self.recorder.client(work.id.as_str(), operation);
        let content = message.digest.clone();
        note(Operation::Invoked {
            content: content.clone(),
            nonce: message.nonce.clone(),
        });
        let (lane, body, headers) = (work.lane, message.body.clone(), HeaderMap::new());
        let published =
            bus.publish_submission(tenant, lane, &work.id, body, Encoding::Json, headers);
        let error = match published.await {
            Ok(published) => {
                let by = format!("sequence {}", published.sequence);
                note(Operation::Acknowledged { content, by });
                return Told::Stored;
            }
            Err(error) => error,
        };
        let why = error.to_string();
        match error {
            PublishError::StillQueued { is_same: true, .. } if is_unsure => {
                note(Operation::Acknowledged { content, by: why });
                Told::Stored
            }
            PublishError::NoSuchQueue { .. }
            | PublishError::StillQueued { .. }
            | PublishError::QueueFull { .. }
            | PublishError::NoLeader { .. }
            | PublishError::TooLarge { .. } => {
                note(Operation::Refused { content, why });
                Told::NotStored
            }
            // "Refused" by a server that may have passed it on before it lost its place says nothing.
            PublishError::Unknown(_)
            | PublishError::NotSeen { .. }
            | PublishError::NoConnection
            | PublishError::Refused(_) => {
                note(Operation::Unknown { content, why });
                Told::Nothing
            }
        }
    }

    /// Waits for a result, by the subscribers and by looking. Whether one came.
    async fn wait(
        &self,
        bus: &Bus,
        tenant: &Tenant,
        work: &Work,
        mut heard: oneshot::Receiver<()>,
    ) -> bool {
        let began = Instant::now();
        while began.elapsed() < self.patience {
            if let Ok(Ok(())) = timeout(LOOK, &mut heard).await {
                return true;
            }
            if self.read(bus, tenant, work).await.is_some() {
                return true;
            }
        }
        false
    }

    /// Reads the result by id, from any replica, as a service does.
    async fn read(&self, bus: &Bus, tenant: &Tenant, work: &Work) -> Option<Seen> {
        let read = read(bus, tenant, work.id.as_str()).await;
        // Nothing was read: nothing is known.
        let seen = read.ok()?;
        let operation = Operation::Read(seen.clone());
        self.recorder.client(work.id.as_str(), operation);
        seen
    }
}

/// What a publisher knows of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Stored,
    NotStored,
    Nothing,
}

/// The result that stands under an id, as any replica has it.
pub(super) async fn read(bus: &Bus, tenant: &Tenant, id: &str) -> Result<Option<Seen>, String> {
    let (stream, subject) = (bus.names.results_stream(), bus.names.result(tenant, id));
    let stored = bus.get_last(&stream, &subject).await;
    let Some(stored) = stored.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let seen = Seen::read(&stored.headers, &stored.body, stored.sequence);
    seen.map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_submissions_and_no_nonce_twice() {
        let work = |seed| {
            let all = (0..2_000).map(move |number| Work::of(seed, number).expect("valid"));
            all.collect::<Vec<_>>()
        };
        assert_eq!(work(7), work(7));
        assert_ne!(work(7), work(8));
        let nonces: std::collections::BTreeSet<_> =
            work(7).into_iter().map(|work| work.nonce).collect();
        assert_eq!(nonces.len(), 2_000);
    }

    #[test]
    fn every_kind_of_client_is_among_them() {
        let all: Vec<_> = (0..1_000)
            .map(|number| Work::of(1, number).expect("valid"))
            .collect();
        for besides in [
            Besides::Nothing,
            Besides::Read,
            Besides::Again,
            Besides::Reuse { late: true },
            Besides::Reuse { late: false },
            Besides::Astray,
        ] {
            assert!(
                all.iter().any(|work| work.besides == besides),
                "{besides:?}"
            );
        }
        assert!(all.iter().any(|work| work.lane == Lane::Batch));
        assert!(all.iter().any(|work| work.nap > Duration::from_secs(1)));
    }
}
