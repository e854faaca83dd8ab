//! The streams and consumers of `nats/definitions.json`, with its placeholders filled in from the configuration. The file is in
//! JetStream's own form: each entry is the body of a `STREAM.CREATE` or `CONSUMER.CREATE` request.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::subjects::Names;
use crate::{config::Config, submission::units::Micros};

/// The file, as it came with the program.
const DEFINITIONS: &str = include_str!("../../nats/definitions.json");

/// A repeated dead letter is dropped by its `Nats-Msg-Id` for this long, or for the letters' age where that is shorter.
const DEAD_LETTER_WINDOW: Micros = Micros(3_600_000_000);

/// What the server should have.
#[derive(Debug, Clone, PartialEq)]
pub struct Definitions {
    /// The streams, KV buckets among them.
    pub streams: Vec<StreamDefinition>,
}

/// A stream and its consumers.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamDefinition {
    /// Its name.
    pub name: String,
    /// Its configuration, in JetStream's form.
    pub config: Value,
    /// Its durable consumers: name and configuration.
    pub consumers: Vec<(String, Value)>,
}

/// The definitions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The file is not JSON.
    #[error("nats/definitions.json cannot be read: {0}")]
    Read(#[from] serde_json::Error),
    /// It misses something, or has a placeholder that nothing fills.
    #[error("nats/definitions.json: {0}")]
    Content(String),
}

impl Definitions {
    /// What a fleet of this configuration needs: the tenants of `nats.tenants` and the streams that all share.
    pub fn of(config: &Config) -> Result<Self, DefinitionError> {
        let file: Value = serde_json::from_str(DEFINITIONS)?;
        let mut streams = Vec::new();
        for stream in list(&file, "streams")? {
            let per_tenant = name_of(stream, "name")?.contains("{tenant}");
            let fills = if per_tenant {
                config
                    .nats
                    .tenants
                    .iter()
                    .map(|tenant| Some(tenant.as_str()))
                    .collect()
            } else {
                vec![None]
            };
            for tenant in fills {
                let values = values(config, tenant);
                let filled = fill(stream, &values)?;
                let name = name_of(&filled, "name")?.to_owned();
                let consumers = consumers(&file, &name, &values)?;
                streams.push(StreamDefinition {
                    name,
                    config: filled,
                    consumers,
                });
            }
        }
        Ok(Self { streams })
    }
}

/// The consumers of the file that, filled in, belong to the stream `name`.
fn consumers(
    file: &Value,
    name: &str,
    values: &BTreeMap<&'static str, Value>,
) -> Result<Vec<(String, Value)>, DefinitionError> {
    let mut found = Vec::new();
    for consumer in list(file, "consumers")? {
        // One that belongs to a tenant cannot be filled in without one.
        let Ok(filled) = fill(consumer, values) else {
            continue;
        };
        if name_of(&filled, "stream_name")? == name {
            let config = filled["config"].clone();
            found.push((name_of(&config, "durable_name")?.to_owned(), config));
        }
    }
    Ok(found)
}

fn list<'a>(file: &'a Value, key: &str) -> Result<&'a Vec<Value>, DefinitionError> {
    file[key]
        .as_array()
        .ok_or_else(|| DefinitionError::Content(format!("expected a list {key:?}")))
}

fn name_of<'a>(entry: &'a Value, key: &str) -> Result<&'a str, DefinitionError> {
    entry[key]
        .as_str()
        .ok_or_else(|| DefinitionError::Content(format!("an entry has no {key:?}")))
}

/// What stands for each placeholder.
fn values(config: &Config, tenant: Option<&str>) -> BTreeMap<&'static str, Value> {
    let nats = &config.nats;
    let nanoseconds = |time: Micros| json!(time.0.saturating_mul(1_000));
    let window = DEAD_LETTER_WINDOW.min(nats.dead_letter_age_us);
    let mut values = BTreeMap::from([
        ("prefix", json!(nats.prefix)),
        ("names", json!(Names::new(&nats.prefix).stream_prefix())),
        ("replicas", json!(nats.replicas)),
        ("ack_wait_ns", nanoseconds(nats.ack_wait_us)),
        ("queue_messages", json!(nats.queue_messages)),
        ("queue_bytes", json!(nats.queue_bytes.0)),
        ("result_age_ns", nanoseconds(nats.result_age_us)),
        ("result_bytes", json!(nats.result_bytes.0)),
        ("dead_letter_age_ns", nanoseconds(nats.dead_letter_age_us)),
        ("dead_letter_bytes", json!(nats.dead_letter_bytes.0)),
        ("dead_letter_window_ns", nanoseconds(window)),
        ("event_age_ns", nanoseconds(nats.event_age_us)),
        ("event_bytes", json!(nats.event_bytes.0)),
        (
            "worker_age_ns",
            nanoseconds(Micros(config.worker.heartbeat_us.0.saturating_mul(3))),
        ),
    ]);
    if let Some(tenant) = tenant {
        values.insert("tenant", json!(tenant));
    }
    values
}

/// `template` with every placeholder filled in: one that is a whole text becomes its value, whatever its type; one within a
/// text becomes that part of it.
fn fill(
    template: &Value,
    values: &BTreeMap<&'static str, Value>,
) -> Result<Value, DefinitionError> {
    Ok(match template {
        Value::String(text) => fill_text(text, values)?,
        Value::Array(entries) => entries
            .iter()
            .map(|entry| fill(entry, values))
            .collect::<Result<_, _>>()?,
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| Ok((key.clone(), fill(value, values)?)))
            .collect::<Result<_, DefinitionError>>()?,
        other => other.clone(),
    })
}

fn fill_text(text: &str, values: &BTreeMap<&'static str, Value>) -> Result<Value, DefinitionError> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| DefinitionError::Content(format!("{text:?} has an open placeholder")))?;
        let value = values.get(name).ok_or_else(|| {
            DefinitionError::Content(format!("{text:?} has an unknown placeholder"))
        })?;
        match value {
            Value::String(value) => {
                filled.push_str(before);
                filled.push_str(value);
            }
            number if before.is_empty() && after.is_empty() && filled.is_empty() => {
                return Ok(number.clone());
            }
            _ => {
                return Err(DefinitionError::Content(format!(
                    "{text:?} has a number within a text"
                )));
            }
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(Value::String(filled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::names::{Lane, Tenant};

    #[test]
    fn every_tenant_has_a_queue_with_both_lanes() {
        let mut config = Config::default();
        config.nats.tenants.push("second".parse().expect("valid"));
        let definitions = Definitions::of(&config).expect("valid");
        let names: Vec<_> = definitions
            .streams
            .iter()
            .map(|stream| stream.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "SUBMISSIONS_default",
                "SUBMISSIONS_second",
                "EVENTS",
                "RESULTS",
                "DEAD_LETTERS",
                "KV_attempts",
                "KV_workers",
                "KV_runtimes",
                "KV_tenants"
            ]
        );
        let second = &definitions.streams[1];
        let lanes: Vec<_> = second
            .consumers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(lanes, Lane::ALL.map(Lane::as_str));
        assert_eq!(second.config["max_bytes"], json!(config.nats.queue_bytes.0));
        assert_eq!(
            second.consumers[1].1["filter_subject"],
            "envicutor.submissions.second.batch.*"
        );
        assert_eq!(second.consumers[1].1["ack_wait"], json!(10_000_000_000_u64));
    }

    #[test]
    fn the_names_of_the_file_are_the_ones_of_the_program() {
        let mut config = Config::default();
        config.nats.prefix = "lab".into();
        let definitions = Definitions::of(&config).expect("valid");
        let names = Names::new("lab");
        let tenant = Tenant::default_tenant();
        for (place, name) in [
            (0, names.submissions_stream(&tenant)),
            (1, names.events_stream()),
            (2, names.results_stream()),
            (3, names.dead_letters_stream()),
            (4, format!("KV_{}", names.bucket("attempts"))),
        ] {
            assert_eq!(definitions.streams[place].name, name);
        }
        assert!(!format!("{definitions:?}").contains("envicutor"));
        assert_eq!(
            definitions.streams[2].config["subject_transform"]["dest"],
            "lab.results.>"
        );
    }
}
