//! Brings a server to the state of [`Definitions`]: creates what is missing, updates what differs, and refuses a change that
//! would lose data. Applying twice changes nothing the second time, and nothing is ever deleted, but for one stream of which nothing
//! is promised: see `make_anew`.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    api::{ApiError, code},
    connect::Bus,
    definitions::{DefinitionError, Definitions, StreamDefinition},
};
use crate::config::Config;

/// What became of one stream or consumer, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `stream RESULTS`, or `consumer SUBMISSIONS_default/batch`.
    pub object: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of one stream or consumer, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was missing.
    Created,
    /// It differed: each difference, for people.
    Updated(Vec<String>),
    /// It is as it should be.
    Unchanged,
    /// It differs in a way that would lose data, or that the server refuses; it was left as it is. Why.
    Refused(Vec<String>),
    /// It is as it should be, but not every copy of it: a server is away, or has not caught up yet. Which.
    Degraded(Vec<String>),
}

/// Provisioning stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The definitions cannot be used.
    #[error(transparent)]
    Definitions(#[from] DefinitionError),
    /// The server cannot be asked.
    #[error("{object}: {source}")]
    Api {
        /// What was asked about.
        object: String,
        /// Why.
        source: ApiError,
    },
}

/// Creates or updates everything that the configuration asks for. A refused object does not stop the others.
pub async fn apply(bus: &Bus, config: &Config) -> Result<Vec<Report>, ProvisionError> {
    walk(bus, config, true).await
}

/// What [`apply`] would do, without doing it.
pub async fn check(bus: &Bus, config: &Config) -> Result<Vec<Report>, ProvisionError> {
    walk(bus, config, false).await
}

async fn walk(bus: &Bus, config: &Config, change: bool) -> Result<Vec<Report>, ProvisionError> {
    let mut reports = Vec::new();
    for stream in Definitions::of(config)?.streams {
        let object = Object::stream(&stream);
        let outcome = object.bring_about(bus, change).await?;
        let stream_exists = change || outcome != Outcome::Created;
        let stream_stays = matches!(outcome, Outcome::Refused(_));
        reports.push(Report {
            object: object.title.clone(),
            outcome,
        });
        for (name, config) in &stream.consumers {
            let object = Object::consumer(&stream.name, name, config, stream_stays);
            let outcome = if stream_exists {
                object.bring_about(bus, change).await?
            } else {
                Outcome::Created
            };
            reports.push(Report {
                object: object.title,
                outcome,
            });
        }
    }
    Ok(reports)
}

/// A stream or a consumer: how it is asked for and changed.
struct Object<'a> {
    title: String,
    wanted: &'a Value,
    info: String,
    create: String,
    update: String,
    /// The name of the stream, for a consumer.
    consumer_of: Option<&'a str>,
    /// The stream was left as it is: a consumer has no more copies than that.
    stream_stays: bool,
}

/// What the server has.
#[derive(Deserialize)]
struct Info {
    config: Map<String, Value>,
    #[serde(default)]
    state: State,
    #[serde(default)]
    cluster: Copies,
}

/// Where the copies of a stream or consumer are.
#[derive(Default, Deserialize)]
struct Copies {
    #[serde(default)]
    leader: String,
    #[serde(default)]
    replicas: Vec<Copy>,
}

/// A copy that does not lead.
#[derive(Deserialize)]
struct Copy {
    name: String,
    #[serde(default)]
    current: bool,
    #[serde(default)]
    offline: bool,
}

impl Copies {
    /// What keeps the copies from being as many as are `wanted`.
    fn missing(&self, wanted: &Value) -> Vec<String> {
        let wanted = wanted.as_u64().unwrap_or(1);
        if wanted <= 1 {
            return Vec::new();
        }
        let mut missing = Vec::new();
        if self.leader.is_empty() {
            missing.push("it has no leader".to_owned());
        }
        for copy in &self.replicas {
            if copy.offline {
                missing.push(format!("the copy on {} is away", copy.name));
            } else if !copy.current {
                missing.push(format!("the copy on {} is behind", copy.name));
            }
        }
        let there = self.replicas.len() as u64 + 1;
        if there < wanted {
            missing.push(format!("{there} of {wanted} copies are made"));
        }
        missing
    }
}

/// What a stream holds.
#[derive(Default, Deserialize)]
struct State {
    #[serde(default)]
    messages: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    first_ts: String,
}

impl<'a> Object<'a> {
    fn stream(stream: &'a StreamDefinition) -> Self {
        let name = &stream.name;
        Self {
            title: format!("stream {name}"),
            wanted: &stream.config,
            info: format!("STREAM.INFO.{name}"),
            create: format!("STREAM.CREATE.{name}"),
            update: format!("STREAM.UPDATE.{name}"),
            consumer_of: None,
            stream_stays: false,
        }
    }

    fn consumer(stream: &'a str, name: &str, wanted: &'a Value, stream_stays: bool) -> Self {
        let create = format!("CONSUMER.DURABLE.CREATE.{stream}.{name}");
        Self {
            title: format!("consumer {stream}/{name}"),
            wanted,
            info: format!("CONSUMER.INFO.{stream}.{name}"),
            update: create.clone(),
            create,
            consumer_of: Some(stream),
            stream_stays,
        }
    }

    async fn bring_about(&self, bus: &Bus, change: bool) -> Result<Outcome, ProvisionError> {
        let current = match bus.api::<Info>(&self.info, &Value::Null).await {
            Ok(info) => Some(info),
            Err(error)
                if matches!(
                    error.code(),
                    Some(code::STREAM_NOT_FOUND | code::CONSUMER_NOT_FOUND)
                ) =>
            {
                None
            }
            Err(source) => return Err(self.failed(source)),
        };
        let Some(current) = current else {
            let body = self.body(self.wanted.clone(), "create");
            return self
                .send(bus, change, &self.create, &body, Outcome::Created)
                .await;
        };
        let differences = differences(self.wanted, &current.config);
        if differences.is_empty() {
            let missing = current.cluster.missing(&self.wanted["num_replicas"]);
            return Ok(if missing.is_empty() {
                Outcome::Unchanged
            } else {
                Outcome::Degraded(missing)
            });
        }
        let mut shown: Vec<_> = differences.iter().map(ToString::to_string).collect();
        if self.cannot_be_copied(&current.config) {
            shown.push(
                "it is made anew: what it holds is lost, and is nothing that was promised"
                    .to_owned(),
            );
            return self.make_anew(bus, change, Outcome::Updated(shown)).await;
        }
        let refusals: Vec<_> = differences
            .iter()
            .filter_map(|difference| self.refusal(difference, &current.state))
            .collect();
        if !refusals.is_empty() {
            return Ok(Outcome::Refused(refusals));
        }
        let mut config = current.config;
        for difference in &differences {
            config.insert(difference.key.clone(), difference.wanted.clone());
        }
        let body = self.body(Value::Object(config), "update");
        self.send(bus, change, &self.update, &body, Outcome::Updated(shown))
            .await
    }

    /// Whether it has one copy and cannot have more: the server refuses to add them to a stream that it writes out when it likes,
    /// which is one of which nothing is promised.
    fn cannot_be_copied(&self, current: &Map<String, Value>) -> bool {
        let is_async = |config: Option<&Value>| config == Some(&json!("async"));
        self.consumer_of.is_none()
            && is_async(current.get("persist_mode"))
            && !is_async(self.wanted.get("persist_mode"))
    }

    /// Deletes the stream and creates it as it is wanted.
    async fn make_anew(
        &self,
        bus: &Bus,
        change: bool,
        done: Outcome,
    ) -> Result<Outcome, ProvisionError> {
        if change {
            let delete = self.info.replacen("INFO", "DELETE", 1);
            let deleted = bus.api::<Value>(&delete, &Value::Null).await;
            deleted.map_err(|source| self.failed(source))?;
        }
        let body = self.body(self.wanted.clone(), "create");
        self.send(bus, change, &self.create, &body, done).await
    }

    fn body(&self, config: Value, action: &str) -> Value {
        match self.consumer_of {
            Some(stream) => json!({ "stream_name": stream, "config": config, "action": action }),
            None => config,
        }
    }

    async fn send(
        &self,
        bus: &Bus,
        change: bool,
        call: &str,
        body: &Value,
        done: Outcome,
    ) -> Result<Outcome, ProvisionError> {
        if !change {
            return Ok(done);
        }
        match bus.api::<Value>(call, body).await {
            Ok(_) => Ok(done),
            Err(ApiError::Refused { code, description }) => {
                let hint = match code {
                    10047 | 10028 => {
                        ": raise max_file_store (on a cluster max_memory_store for EVENTS) in the server's configuration, or lower the sizes in [nats]"
                    }
                    code::NO_CLUSTER => ": nats.replicas over 1 needs a cluster of as many servers",
                    code::NO_PEERS => {
                        ": nats.replicas needs as many servers that are up, each with room for the stream (max_file_store)"
                    }
                    _ => "",
                };
                Ok(Outcome::Refused(vec![format!(
                    "the server says {description:?} (error {code}){hint}"
                )]))
            }
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: ApiError) -> ProvisionError {
        ProvisionError::Api {
            object: self.title.clone(),
            source,
        }
    }

    /// Why this difference may not be evened out; `None` where it may.
    fn refusal(&self, difference: &Difference, state: &State) -> Option<String> {
        let Difference {
            key,
            current,
            wanted,
        } = difference;
        let never = |why: &str| {
            Some(format!(
                "{difference}: {why}. Move its messages to a new one by hand"
            ))
        };
        if key == "num_replicas" && limit(wanted) < limit(current) {
            return Some(format!(
                "{difference}: fewer copies are never made by accident. Set nats.replicas to {current}, or take them away with \
                 NATS's own tools first"
            ));
        }
        if key == "num_replicas" && self.stream_stays {
            return Some(format!("{difference}: its stream was left as it is"));
        }
        if self.consumer_of.is_some() {
            return match key.as_str() {
                "ack_policy" | "deliver_policy" | "filter_subject" | "mem_storage" => {
                    never("a consumer that changes this would skip or repeat messages")
                }
                _ => None,
            };
        }
        match key.as_str() {
            "storage" | "retention" | "subjects" | "subject_transform" => {
                never("a stream that changes this would lose or strand its messages")
            }
            "max_bytes" if shrinks_below(wanted, state.bytes) => Some(format!(
                "{difference}: it holds {} bytes, and the rest would be lost",
                state.bytes
            )),
            "max_msgs" if shrinks_below(wanted, state.messages) => Some(format!(
                "{difference}: it holds {} messages, and the rest would be lost",
                state.messages
            )),
            "max_msgs_per_subject" if state.messages > 0 && limit(wanted) < limit(current) => {
                Some(format!(
                    "{difference}: it holds {} messages, and some would be lost",
                    state.messages
                ))
            }
            "max_age" if state.messages > 0 && expires(wanted, &state.first_ts) => Some(format!(
                "{difference}: its oldest message, of {}, would be lost",
                state.first_ts
            )),
            _ => None,
        }
    }
}

/// A field that is not as it should be.
struct Difference {
    key: String,
    current: Value,
    wanted: Value,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} is {}, wanted {}",
            self.key, self.current, self.wanted
        )
    }
}

/// The fields of `wanted` that the server has otherwise. What `wanted` does not name is the server's own.
fn differences(wanted: &Value, current: &Map<String, Value>) -> Vec<Difference> {
    let fields = wanted.as_object().into_iter().flatten();
    fields
        .filter_map(|(key, wanted)| {
            let current = current.get(key).cloned().unwrap_or(Value::Null);
            (!same(wanted, &current)).then(|| Difference {
                key: key.clone(),
                current,
                wanted: wanted.clone(),
            })
        })
        .collect()
}

/// The server leaves out what is zero, false or empty.
fn same(wanted: &Value, current: &Value) -> bool {
    let zero = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_i64() == Some(0),
        Value::String(value) => value.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    match (wanted, current) {
        (Value::Object(wanted), Value::Object(current)) => {
            differences(&json!(wanted), current).is_empty()
        }
        _ => wanted == current || (zero(wanted) && zero(current)),
    }
}

/// A limit as a number: none is the largest.
fn limit(value: &Value) -> i64 {
    value
        .as_i64()
        .filter(|limit| *limit > 0)
        .unwrap_or(i64::MAX)
}

fn shrinks_below(wanted: &Value, held: u64) -> bool {
    u64::try_from(limit(wanted)).is_ok_and(|limit| limit < held)
}

/// Whether a message that was stored at `first` is older than the wanted age, in nanoseconds. One whose time cannot be read is.
fn expires(wanted: &Value, first: &str) -> bool {
    let age = time::Duration::nanoseconds(limit(wanted));
    OffsetDateTime::parse(first, &Rfc3339)
        .map_or(true, |first| OffsetDateTime::now_utc() - first > age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn what_the_server_leaves_out_or_adds_is_no_difference() {
        let wanted = json!({"a": 0, "b": false, "c": "x", "republish": {"src": ">"}});
        let current = object(json!({"c": "x", "d": 7, "republish": {"src": ">", "dest": ""}}));
        assert!(differences(&wanted, &current).is_empty());
        let shown: Vec<_> = differences(&wanted, &object(json!({"a": 1, "c": "x"})))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "a is 1, wanted 0",
                "republish is null, wanted {\"src\":\">\"}"
            ]
        );
    }

    #[test]
    fn a_limit_may_shrink_only_to_what_is_held() {
        assert!(shrinks_below(&json!(9), 10));
        assert!(!shrinks_below(&json!(10), 10));
        assert!(!shrinks_below(&json!(-1), 10));
        let hour = json!(3_600_000_000_000_i64);
        assert!(expires(&hour, "2020-01-01T00:00:00Z"));
        assert!(!expires(&json!(0), "2020-01-01T00:00:00Z"));
    }
}
