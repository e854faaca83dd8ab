//! Where an operator sits: a server, the command, and the rights to make letters.

use std::time::Duration;

use envicutor::{
    bus::{
        Bus, Role,
        api::{Stored, header, header_of},
        queue,
    },
    submission::{
        dead_letter::DeadLetter,
        encoding::Encoding,
        names::{Lane, Tenant},
    },
};
use serde_json::{Value, json};

use crate::fleet::{
    letters::{bury, letter},
    messages::{id, tenant},
    nats::TestNats,
    operator::Operator,
};

/// More than any condition here takes.
pub const LONG: Duration = Duration::from_mins(1);

/// A submission that asks for little memory.
pub const BODY: &str = r#"{"runtime":"python@3.11","files":[{"text":"print(1)"}],"run":{"limits":{"memory_bytes":1048576}},"labels":{"course":"cs101"}}"#;

/// A server with an operator, and the rights to make letters.
pub struct Desk {
    pub nats: TestNats,
    pub operator: Operator,
    pub bus: Bus,
    pub worker: Bus,
}

impl Desk {
    pub async fn open() -> Self {
        let nats = TestNats::start_with(|config| config.nats.tenants.push(other_tenant())).await;
        Self {
            operator: Operator::new(&nats.url(Role::Operator)),
            bus: nats.bus(Role::Operator).await,
            worker: nats.bus(Role::Worker).await,
            nats,
        }
    }

    /// Buries so many submissions `a0`, `a1`, …; their sequences follow each other.
    pub async fn bury(&self, count: usize) {
        for n in 0..count {
            bury(&self.worker, &letter(&format!("a{n}"), BODY)).await;
        }
    }

    /// The sequences of the letters that there are.
    pub async fn sequences(&self) -> Vec<u64> {
        let letters = self.operator.json(&["dead", "ls", "--json"]).await;
        let sequences = letters.iter().map(|letter| letter["sequence"].as_u64());
        sequences.map(|it| it.expect("a sequence")).collect()
    }

    pub async fn queued(&self, name: &str) -> Option<(Lane, Stored)> {
        queue::find_queued(&self.bus, &tenant(), &id(name))
            .await
            .expect("the queue can be asked")
    }

    /// Takes a message out of its queue, as its ack would.
    pub async fn take(&self, name: &str) {
        let subject = self.bus.names.submission_in_any_lane(&tenant(), name);
        let purge = json!({ "filter": subject });
        let call = "STREAM.PURGE.SUBMISSIONS_default";
        let purged = self.bus.api::<Value>(call, &purge).await.expect("purged");
        assert_eq!(purged["purged"], 1, "{name}");
    }

    pub async fn generation_queued(&self, name: &str) -> Option<String> {
        let (_, stored) = self.queued(name).await?;
        header_of(&stored.headers, header::GENERATION).map(str::to_owned)
    }
}

pub fn other_tenant() -> Tenant {
    "other".parse().expect("valid")
}

pub fn packed(name: &str) -> DeadLetter {
    let body: Value = serde_json::from_str(BODY).expect("JSON");
    let mut letter = letter(name, Encoding::MessagePack.encode(&body).expect("encoded"));
    letter.submission.content_type = Some("application/msgpack".into());
    letter
}

pub fn outcomes(lines: &[Value]) -> Vec<(&str, &str)> {
    let letters = lines.iter().filter(|line| line["outcome"].is_string());
    letters
        .map(|line| {
            let id = line["id"].as_str().expect("an id");
            (id, line["outcome"].as_str().expect("an outcome"))
        })
        .collect()
}

pub fn message<'a>(lines: &'a [Value], id: &str) -> &'a str {
    let line = lines.iter().find(|line| line["id"] == id).expect(id);
    line["message"].as_str().expect("a message")
}
