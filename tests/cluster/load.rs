//! What runs while servers die: workers, a service that publishes without a pause, a subscriber.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex as StdMutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use envicutor::{
    bus::{Bus, Role},
    client::Client,
    submission::{
        message::Submission,
        names::{Lane, SubmissionId},
    },
};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::{process::Child, task::JoinHandle};

use crate::{
    LONG,
    fleet::{
        self,
        cluster::{Cluster, HEALED},
        comes_true, containers_of, eventually,
        messages::tenant,
        signal,
    },
};

/// Worker processes, stopped in good order at the end.
pub struct Workers(pub Vec<(String, Child)>);

impl Workers {
    /// `count` workers of two slots each, that connect to `url`, started and seen in the registry.
    pub async fn start(cluster: &Cluster, count: u32, url: &str) -> Self {
        let mut workers = Vec::new();
        for place in 0..count {
            let id = format!("w{place}-{}", &SubmissionId::generate().as_str()[19..]);
            let mut command = cluster.worker(&id, 2);
            command
                .env("ENVICUTOR__NATS__URL", url)
                .env("ENVICUTOR__RUNTIMES__PRELOAD", "bash")
                .env("ENVICUTOR__CONTAINER__ISOLATION", "sandbox")
                .env(
                    "ENVICUTOR__CONTAINER__UID_FIRST",
                    (740_000 + place * 10_000).to_string(),
                );
            workers.push((id, command.spawn().expect("envicutor-worker starts")));
        }
        let workers = Self(workers);
        let operator = Client::connect_as(&cluster.config(Role::Operator), Role::Operator).await;
        let operator = operator.expect("connected");
        eventually("every worker is registered", fleet::FIRST_USE, || async {
            let there = operator.workers().await.unwrap_or_default();
            workers
                .0
                .iter()
                .all(|(id, _)| there.iter().any(|worker| worker.worker == *id))
        })
        .await;
        operator.close().await;
        workers
    }

    /// Stops them and checks that they were alive and leave nothing.
    pub async fn stop(self) {
        for (id, mut worker) in self.0 {
            assert!(
                worker.try_wait().expect("asked").is_none(),
                "{id} ended by itself"
            );
            signal(&worker, "TERM").await;
            let ended = tokio::time::timeout(fleet::slowly(LONG), worker.wait()).await;
            let status = ended
                .expect("it ends in time")
                .expect("it can be waited for");
            assert!(status.success(), "{id} ended with {status}");
            assert!(containers_of(&id).await.is_empty(), "{id} left containers");
        }
    }
}

/// A service that publishes without a pause, and a subscriber.
pub struct Load {
    over: Arc<AtomicBool>,
    publishing: JoinHandle<BTreeSet<String>>,
    heard: Arc<StdMutex<Vec<String>>>,
    listening: JoinHandle<()>,
    published: Arc<AtomicUsize>,
}

impl Load {
    /// Begins to publish and to listen over `url`.
    pub async fn start(cluster: &Cluster, url: &str) -> Self {
        let mut config = cluster.config(Role::Service);
        url.clone_into(&mut config.nats.url);
        let client = Client::connect_with(&config).await.expect("connected");
        let listener = Bus::connect(&config.nats, Role::Service, "test")
            .await
            .expect("connected");
        let mut results = listener
            .client
            .subscribe("envicutor.results.default.>")
            .await
            .expect("subscribed");
        listener
            .round_trip()
            .await
            .expect("the subscription stands");
        let heard = Arc::new(StdMutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            let mut look = tokio::time::interval(Duration::from_secs(2));
            loop {
                let message = tokio::select! {
                    message = results.next() => message.expect("the subscription lasts"),
                    // Who only listens hears nothing from a server that lost its cluster, not even that.
                    _ = look.tick() => {
                        listener.check_for_leader().await;
                        continue;
                    }
                };
                let result: Value = serde_json::from_slice(&message.payload).expect("a result");
                assert_eq!(
                    (&result["outcome"], &result["verdict"]),
                    (&"finished".into(), &"ok".into()),
                    "{result:#}"
                );
                let id = result["id"].as_str().expect("an id").to_owned();
                hearing.lock().expect("no panic").push(id);
            }
        });
        let over = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicUsize::new(0));
        let (ending, counting) = (Arc::clone(&over), Arc::clone(&published));
        let publishing = tokio::spawn(async move {
            let mut ids = BTreeSet::new();
            while !ending.load(Ordering::Relaxed) {
                let submission =
                    Submission::new("bash".parse().expect("valid")).source("echo $((6 * 7))");
                let submitted = client
                    .submit(&tenant(), Lane::Interactive, None, &submission)
                    .await;
                let submitted =
                    submitted.expect("a publish that is tried again is stored in the end");
                ids.insert(submitted.id.to_string());
                counting.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            client.close().await;
            ids
        });
        Self {
            over,
            publishing,
            heard,
            listening,
            published,
        }
    }

    fn heard(&self) -> usize {
        self.heard.lock().expect("no panic").len()
    }

    /// Waits until submissions that are published from now on are run.
    pub async fn goes_on(&self, after: &str) {
        let (published, heard) = (self.published.load(Ordering::Relaxed), self.heard());
        eventually(
            &format!("submissions are published and run after {after}"),
            LONG,
            || async {
                self.published.load(Ordering::Relaxed) >= published + 10
                    && self.heard() >= heard + 10
            },
        )
        .await;
    }

    /// Ends the publishing, and checks that each submission came to one result, and that nothing is left.
    pub async fn ends_well(self, bus: &Bus) {
        self.over.store(true, Ordering::Relaxed);
        let ids = self
            .publishing
            .await
            .expect("every submission was published");
        let state = |stream: String| async move {
            let info: Value = bus
                .api(&format!("STREAM.INFO.{stream}"), &Value::Null)
                .await
                .expect("asked");
            info["state"].clone()
        };
        // A server that was cut off may answer for a while as the leader that it was: what it does not have yet is no loss. And what
        // was acked while the queue's leader changed, a server may remove only when it looks for it: every two minutes and a half
        // at most (`checkInterestState` of nats-server 2.15).
        let seen = StdMutex::new(Vec::new());
        let ended = comes_true(HEALED, || async {
            let queued = state(bus.names.submissions_stream(&tenant())).await;
            let results = state(bus.names.results_stream()).await;
            assert!(
                results["last_seq"].as_u64() <= Some(ids.len() as u64),
                "one had two, if only for a moment: {results}"
            );
            let all = queued["messages"] == 0
                && results["messages"] == ids.len()
                && results["last_seq"] == ids.len();
            *seen.lock().expect("no panic") = vec![queued, results];
            all
        })
        .await;
        if !ended {
            let queue = bus.names.submissions_stream(&tenant());
            let mut of_consumers = Vec::new();
            for lane in Lane::ALL {
                let call = format!("CONSUMER.INFO.{queue}.{lane}");
                let asked = bus.api(&call, &Value::Null);
                of_consumers.push(
                    asked
                        .await
                        .unwrap_or_else(|error| Value::String(error.to_string())),
                );
            }
            panic!(
                "not within {HEALED:?}: the queue is empty and each of {} submissions has a result: {:#?}, {of_consumers:#?}",
                ids.len(),
                seen.lock().expect("no panic"),
            );
        }
        assert_eq!(
            state(bus.names.dead_letters_stream()).await["last_seq"],
            0,
            "nothing was dead-lettered"
        );
        self.listening.abort();
        let heard = self.heard.lock().expect("no panic").clone();
        let distinct: BTreeSet<_> = heard.iter().cloned().collect();
        assert_eq!(
            distinct.len(),
            heard.len(),
            "a subscriber heard a result twice"
        );
        assert!(
            distinct.is_subset(&ids),
            "a result of nothing that was published"
        );
        println!("{} submissions, {} heard live", ids.len(), heard.len());
    }
}
