//! A connection's state: whether it stands, when it breaks, which server it goes to next, and when it is no use.
//!
//! A server that its cluster has lost looks well to whoever is connected to it: it answers pings, and nothing that needs a leader.
//! So a client on which nothing but outages was seen for a while moves to another server, if `nats.url` names one.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_nats::{Event, ReconnectToServer, Server, ServerAddr};
use rand::{RngExt as _, seq::IndexedRandom as _};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{Bus, api::ApiError, outage::Outage};

/// Between two looks whether a connection that is away is back.
const LOOK: Duration = Duration::from_millis(50);

/// The longest wait between two tries to connect.
const RECONNECT_MOST: Duration = Duration::from_secs(2);

/// What all clones of a [`Bus`] know of their connection.
#[derive(Debug)]
pub(super) struct Link {
    /// Changes whenever the connection is made or lost.
    told: watch::Sender<()>,
    /// The server that was chosen last.
    chosen: Mutex<Option<ServerAddr>>,
    /// Since when nothing but outages was seen, and how long is too long.
    useless: Mutex<Option<(Instant, Duration)>>,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            told: watch::Sender::new(()),
            chosen: Mutex::new(None),
            useless: Mutex::new(None),
        }
    }

    /// Hears what the client tells of its connection.
    pub(super) fn hear(&self, event: &Event) {
        if matches!(event, Event::Connected | Event::Disconnected) {
            self.told.send_replace(());
        }
    }

    /// The server to connect to: any of those that failed least, but not the one that was just left, while there is another.
    pub(super) fn choose(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        let mut chosen = lock(&self.chosen);
        let others = |server: &&Server| servers.len() == 1 || Some(&server.addr) != chosen.as_ref();
        let least = servers
            .iter()
            .filter(others)
            .map(|server| server.failed_attempts)
            .min()?;
        let best: Vec<_> = servers
            .iter()
            .filter(others)
            .filter(|server| server.failed_attempts == least)
            .collect();
        let addr = best.choose(&mut rand::rng())?.addr.clone();
        *chosen = Some(addr.clone());
        Some(ReconnectToServer { addr, delay: None })
    }

    /// Notes an outage of what was asked at `asked`; true where there was nothing else for `too_long` and a part of it, once.
    fn is_useless(&self, asked: Instant, too_long: Duration) -> bool {
        let mut useless = lock(&self.useless);
        let until = || (asked, too_long.mul_f64(rand::rng().random_range(1.0..1.5)));
        let (since, too_long) = *useless.get_or_insert_with(until);
        let is_useless = since.elapsed() > too_long;
        if is_useless {
            *useless = None;
        }
        is_useless
    }

    fn is_of_use(&self) {
        *lock(&self.useless) = None;
    }
}

/// Before the `attempt`th try to connect, from 1: none before the first, then growing, with jitter.
pub(super) fn reconnect_delay(attempt: usize) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempt).unwrap_or(u32::MAX).min(12);
    let wait = Duration::from_millis(1 << doublings).min(RECONNECT_MOST);
    wait.mul_f64(rand::rng().random_range(0.5..1.0))
}

impl Bus {
    /// Whether the connection stands at this moment.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// How often the connection has come about.
    pub fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Waits until the connection stands, for `patience` at most; whether it does. What is sent while there is none would go out
    /// when it is back, whenever that is.
    pub(super) async fn stands_within(&self, patience: Duration) -> bool {
        if self.is_connected() {
            return true;
        }
        let back = async {
            while !self.is_connected() {
                sleep(LOOK).await;
            }
        };
        timeout(patience, back).await.is_ok()
    }

    /// Waits until the connection breaks, or is another one than at the `connects`th time.
    pub(super) async fn broken(&self, connects: u64) {
        let mut told = self.link.told.subscribe();
        while self.is_connected() && self.connects() == connects {
            // The sender lives in `self`, so that waiting cannot fail.
            let _ = told.changed().await;
        }
    }

    /// Waits until the connection is back after it was lost; `connects` is what was known of it, and is brought up to date. What was
    /// told meanwhile was missed.
    pub async fn reconnected(&self, connects: &mut u64) {
        let mut told = self.link.told.subscribe();
        while !self.is_connected() || self.connects() == *connects {
            let _ = told.changed().await;
        }
        *connects = self.connects();
    }

    /// Whether what a worker cannot do without has leaders: the results, and the attempts.
    pub async fn probe(&self) -> Result<(), ApiError> {
        for stream in [
            self.names.results_stream(),
            format!("KV_{}", self.names.bucket("attempts")),
        ] {
            // Whatever is said of the first message, the leader says it.
            self.get_from_leader(&stream, &json!({ "seq": 1 })).await?;
        }
        Ok(())
    }

    /// Asks for something that only a leader answers, so that a connection on which nothing else is asked leaves a server that has
    /// none.
    pub async fn check_for_leader(&self) {
        if let Err(error) = self.api_once::<Value>("INFO", &Value::Null).await {
            tracing::debug!(%error, "no leader was heard of");
        }
    }

    /// Notes that something else than an outage was heard.
    pub(super) fn is_of_use(&self) {
        self.link.is_of_use();
    }

    /// Notes what came of something that was asked at `asked` and that only a leader answers, and leaves the server where that is
    /// nothing but outages.
    pub(super) async fn heard<T, E: Outage>(&self, asked: Instant, answer: &Result<T, E>) {
        let is_outage = matches!(answer, Err(error) if error.is_outage());
        if !is_outage || !self.is_connected() {
            return self.is_of_use();
        }
        if self.servers > 1 && self.link.is_useless(asked, self.request_timeout) {
            tracing::warn!("NATS: this server has no leader to offer: trying another one");
            // An error says that the connection is closed; the time, that it is on its way anyway.
            let _ = timeout(self.request_timeout, self.client.force_reconnect()).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str, failed_attempts: usize) -> Server {
        Server {
            addr: address.parse().expect("an address"),
            failed_attempts,
            did_connect: false,
            is_discovered: false,
            last_error: None,
        }
    }

    #[test]
    fn the_server_that_was_left_is_not_chosen_while_there_is_another() {
        let link = Link::new();
        let servers = [
            server("nats://a:1", 0),
            server("nats://b:1", 0),
            server("nats://c:1", 7),
        ];
        let mut last = None;
        for _ in 0..50 {
            let chosen = link.choose(&servers).expect("one of them").addr;
            assert_ne!(Some(&chosen), last.as_ref());
            assert_ne!(chosen.host(), "c");
            last = Some(chosen);
        }
        let one = [server("nats://a:1", 3)];
        assert!(link.choose(&one).is_some() && link.choose(&one).is_some());
        assert!(link.choose(&[]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_with_nothing_but_outages_is_left_once_in_a_while() {
        let link = Link::new();
        let too_long = Duration::from_secs(5);
        assert!(!link.is_useless(Instant::now(), too_long));
        sleep(Duration::from_secs(8)).await;
        link.is_of_use();
        let now = Instant::now();
        assert!(
            !link.is_useless(now, too_long),
            "there was an answer in between"
        );
        sleep(Duration::from_secs(8)).await;
        assert!(link.is_useless(Instant::now(), too_long));
        let now = Instant::now();
        assert!(
            !link.is_useless(now, too_long),
            "the next server has its time too"
        );
    }

    #[test]
    fn the_first_try_to_reconnect_is_made_at_once() {
        assert!(reconnect_delay(1).is_zero());
        for attempt in 2..100 {
            assert!(reconnect_delay(attempt) <= RECONNECT_MOST, "{attempt}");
        }
    }
}
