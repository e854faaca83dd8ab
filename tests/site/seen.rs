//! What a plain subscriber sees of a fleet: results, starts, and how deliveries were answered.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use envicutor::{
    bus::Bus,
    submission::{encoding::Encoding, event::Event, result::SubmissionResult},
};
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

/// A message as it came.
#[derive(Debug, Clone)]
struct Message {
    subject: String,
    body: Vec<u8>,
}

/// Everything that was seen, in order.
pub struct Seen {
    messages: Arc<Mutex<Vec<Message>>>,
    listening: JoinHandle<()>,
}

/// How a worker answered a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which delivery of its message it was.
    pub delivery: u64,
    /// `+ACK`, `-NAK`, `+WPI`, `+TERM`.
    pub word: String,
}

impl Seen {
    pub async fn begin(bus: &Bus) -> Self {
        let subjects = [
            "envicutor.results.>",
            "envicutor.settle.>",
            "envicutor.events.>",
            // The old form and the new one, with domain and account.
            "$JS.ACK.SUBMISSIONS_default.>",
            "$JS.ACK.*.*.SUBMISSIONS_default.>",
        ];
        let mut all = Vec::new();
        for subject in subjects {
            all.push(bus.client.subscribe(subject).await.expect("subscribed"));
        }
        // The subscriptions stand.
        bus.round_trip().await.expect("answered");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&messages);
        let listening = tokio::spawn(async move {
            let mut all = futures_util::stream::select_all(all);
            while let Some(message) = all.next().await {
                noted.lock().expect("no panic").push(Message {
                    subject: message.subject.to_string(),
                    body: message.payload.to_vec(),
                });
            }
        });
        Self {
            messages,
            listening,
        }
    }

    fn of(&self, beginning: &str) -> Vec<Message> {
        let messages = self.messages.lock().expect("no panic");
        let of = messages
            .iter()
            .filter(|it| it.subject.starts_with(beginning));
        of.cloned().collect()
    }

    /// Waits until what has come to this connection is noted.
    pub async fn settle(&self) {
        let count = || self.messages.lock().expect("no panic").len();
        let mut before = usize::MAX;
        while count() != before {
            before = count();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The results of an id, as they came.
    pub fn results(&self, id: &str) -> Vec<SubmissionResult> {
        let subject = format!("envicutor.results.default.{id}");
        let of = self
            .of(&subject)
            .into_iter()
            .filter(|it| it.subject == subject);
        of.map(|it| Encoding::Json.decode(&it.body).expect("a result"))
            .collect()
    }

    /// How often a result of this id was sent to be stored.
    pub fn settlements(&self, id: &str) -> usize {
        self.of(&format!("envicutor.settle.default.{id}")).len()
    }

    /// The events of this kind of an id, as they came.
    pub fn events(&self, id: &str, kind: &str) -> Vec<Event> {
        let subject = format!("envicutor.events.default.{id}.{kind}");
        let of = self.of(&subject).into_iter();
        of.map(|it| Encoding::Json.decode(&it.body).expect("an event"))
            .collect()
    }

    /// Every id that started or has a result.
    pub fn ids(&self) -> BTreeSet<String> {
        let subjects = self.of("envicutor.").into_iter().map(|it| it.subject);
        // An installation has events of its own, and comes to no result of this kind.
        let subjects = subjects.filter(|it| !it.starts_with("envicutor.events._installations."));
        let ids = subjects.filter_map(|subject| subject.split('.').nth(3).map(str::to_owned));
        ids.collect()
    }

    /// `started <id>` and `ended <id>` in the order in which they came.
    pub fn order(&self) -> Vec<String> {
        let name = |subject: &str| {
            let tokens: Vec<&str> = subject.split('.').collect();
            match tokens[..] {
                [_, "events", _, id, "started"] => Some(format!("started {id}")),
                [_, "results", _, id] => Some(format!("ended {id}")),
                _ => None,
            }
        };
        let all = self.of("envicutor.").into_iter();
        all.filter_map(|it| name(&it.subject)).collect()
    }

    /// Where a delivery of the queue's message at `sequence` is answered, once it was.
    pub fn ack_subject(&self, sequence: u64, delivery: u64) -> Option<String> {
        let answered = self.of("$JS.ACK.").into_iter().map(|it| it.subject);
        let is_it = |subject: &String| {
            let place = place(subject);
            place.is_some_and(|place| place == (sequence, delivery))
        };
        answered.into_iter().find(is_it)
    }

    /// How the deliveries of the queue's message at `sequence` were answered.
    pub fn answers(&self, sequence: u64) -> Vec<Answer> {
        let one = |message: Message| {
            let (of, delivery) = place(&message.subject)?;
            let word = String::from_utf8_lossy(&message.body).into_owned();
            let word = word.split(' ').next().unwrap_or_default().to_owned();
            (of == sequence).then_some(Answer { delivery, word })
        };
        self.of("$JS.ACK.").into_iter().filter_map(one).collect()
    }
}

/// The message's place in its queue, and which delivery of it, from the subject of an answer.
fn place(subject: &str) -> Option<(u64, u64)> {
    let tokens: Vec<&str> = subject.split('.').collect();
    let stream = tokens
        .iter()
        .position(|it| it.starts_with("SUBMISSIONS_"))?;
    let number = |at: usize| tokens.get(stream + at)?.parse::<u64>().ok();
    Some((number(3)?, number(2)?))
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
