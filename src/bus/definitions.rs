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
            let name = name_of(stream, "name")?;
            if name.starts_with("OBJ_") && !config.blobs.is_nats() {
                continue;
            }
            let per_tenant = name.contains("{tenant}");
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
    // Empty is the server's default, which it leaves out.
    let (event_storage, event_persistence) = match nats.replicas {
        1 => ("file", "async"),
        _ => ("memory", ""),
    };
    let mut values = BTreeMap::from([
        ("prefix", json!(nats.prefix)),
        ("names", json!(Names::new(&nats.prefix).stream_prefix())),
        ("replicas", json!(nats.replicas)),
        ("ack_wait_ns", nanoseconds(nats.ack_wait_us)),
        ("queue_messages", json!(nats.queue_messages)),
        ("queue_bytes", json!(nats.queue_bytes.0)),
        ("blob_bytes", json!(config.blobs.tenant_bytes.0)),
        ("image_bytes", json!(config.installer.image_bytes.0)),
        ("result_age_ns", nanoseconds(nats.result_age_us)),
        ("result_bytes", json!(nats.result_bytes.0)),
        ("dead_letter_age_ns", nanoseconds(nats.dead_letter_age_us)),
        ("dead_letter_bytes", json!(nats.dead_letter_bytes.0)),
        ("dead_letter_window_ns", nanoseconds(window)),
        ("history_age_ns", nanoseconds(nats.history_age_us)),
        ("history_bytes", json!(nats.history_bytes.0)),
        (
            "history_persistence",
            json!(history_persistence(nats.replicas)),
        ),
        ("event_age_ns", nanoseconds(nats.event_age_us)),
        ("event_bytes", json!(nats.event_bytes.0)),
        ("event_storage", json!(event_storage)),
        ("event_persistence", json!(event_persistence)),
        (
            "installation_wait_ns",
            nanoseconds(config.installer.ack_wait_us),
        ),
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

/// Only a stream with one replica may leave it to the system when it is written out; with several a majority has it in memory.
/// Empty is the server's default, which it leaves out.
const fn history_persistence(replicas: usize) -> &'static str {
    if replicas == 1 { "async" } else { "" }
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
            other if before.is_empty() && after.is_empty() && filled.is_empty() => {
                return Ok(other.clone());
            }
            _ => {
                return Err(DefinitionError::Content(format!(
                    "{text:?} has a value within a text that is none"
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
                "OBJ_blobs-default",
                "OBJ_blobs-second",
                "OBJ_images",
                "EVENTS",
                "RESULTS",
                "DEAD_LETTERS",
                "HISTORY",
                "KV_replays",
                "KV_attempts",
                "KV_leases",
                "KV_workers",
                "KV_runtimes",
                "KV_tenants",
                "INSTALLATIONS",
                "KV_installations"
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
    fn only_a_fleet_whose_blobs_are_in_nats_has_buckets() {
        let mut config = Config::default();
        let buckets = |config: &Config| {
            let definitions = Definitions::of(config).expect("valid");
            let names = definitions.streams.into_iter().map(|stream| stream.name);
            names.filter(|name| name.starts_with("OBJ_")).count()
        };
        assert_eq!(buckets(&config), 2);
        config.blobs.url = "s3://bucket".into();
        assert_eq!(buckets(&config), 0);
    }

    #[test]
    fn only_a_lone_server_writes_the_history_out_when_it_likes() {
        let mut config = Config::default();
        let history = |config: &Config| {
            let definitions = Definitions::of(config).expect("valid");
            let name = Names::new(&config.nats.prefix).history_stream();
            let mut streams = definitions.streams.into_iter();
            streams.find(|stream| stream.name == name).expect("there")
        };
        assert_eq!(history(&config).config["persist_mode"], "async");
        config.nats.replicas = 3;
        assert_eq!(history(&config).config["persist_mode"], "");
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
            (1, format!("OBJ_{}", names.blobs_bucket(&tenant))),
            (2, format!("OBJ_{}", names.images_bucket())),
            (3, names.events_stream()),
            (4, names.results_stream()),
            (5, names.dead_letters_stream()),
            (6, names.history_stream()),
            (7, format!("KV_{}", names.bucket("replays"))),
            (8, format!("KV_{}", names.bucket("attempts"))),
            (9, format!("KV_{}", names.bucket("leases"))),
        ] {
            assert_eq!(definitions.streams[place].name, name);
        }
        assert!(!format!("{definitions:?}").contains("envicutor"));
        assert_eq!(
            definitions.streams[4].config["subject_transform"]["dest"],
            "lab.results.>"
        );
    }
}
