//! A submission as it is written: the shape of `docs/schema/submission.json`, with only what is set.
//!
//! It is not how one is read (that is [`super::check`]); a test holds the two against each other.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};
use serde_bytes::Bytes;
use serde_json::json;
use time::OffsetDateTime;

use super::{
    archive::{Archive, ArchiveFormat},
    collect::Collect,
    compare::Compare,
    content::{Blob, Content, Parts, Unsent},
    limits::LimitChanges,
    message::{EventsWanted, File, StageChanges, Submission, Test},
    names::RuntimeRef,
    units::{ByteSize, Micros},
};

/// Code to run, and how.
#[derive(Serialize, JsonSchema)]
#[schemars(
    rename = "Submission",
    extend("additionalProperties" = false),
    extend("anyOf" = files_or_archive())
)]
struct Written<'a> {
    /// The runtime, with a version or without (the default version).
    runtime: &'a RuntimeRef,
    /// A project that is extracted into the work directory, before `files`.
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<WrittenArchive<'a>>,
    /// The files of the work directory, one or more where there is no archive. None may be a path that the archive has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Option<Vec<WrittenFile>>")]
    files: Vec<WrittenFile<'a>>,
    /// The file that the runtime's commands name. Default: the first, and without any the runtime's source file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<&'a str>,
    /// Changes to the runtime's compile stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    compile: Option<WrittenStage<'a>>,
    /// Changes to the runtime's run stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<WrittenRun<'a>>,
    /// Each is one run of the same build, in order; then `run.stdin` must be absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Option<Vec<WrittenTest>>")]
    tests: Vec<WrittenTest<'a>>,
    /// What of the work directory is kept after the last run. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    collect: Option<WrittenCollect<'a>>,
    /// Whether an earlier build of the same sources may stand for the compile stage. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<bool>,
    /// How standard output is held against `expected`. Default: `trimmed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    compare: Option<Compare>,
    /// After the first run that is not `ok`, the rest are `skipped`. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_on_failure: Option<bool>,
    /// Wall time of all stages together, in microseconds. Default: the fleet's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1))]
    total_time_us: Option<Micros>,
    /// After this it is not started any more: its result is `expired`. Default: never.
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires_at: Option<OffsetDateTime>,
    /// Which events are published. Default: `stages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<EventsWanted>,
    /// Up to 16 pairs, echoed in every event, result and dead letter: keys of 1 to 64 characters, values of up to 256,
    /// no control characters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "Option<BTreeMap<String, String>>", extend("maxProperties" = 16))]
    labels: &'a BTreeMap<String, String>,
}

/// A project as one archive: its content is one of `base64`, `blob` (in MessagePack also `bytes`).
#[derive(Serialize, JsonSchema)]
#[schemars(
    rename = "Archive",
    extend("additionalProperties" = false),
    extend("oneOf" = one_of(&["base64", "blob"]))
)]
struct WrittenArchive<'a> {
    /// How it is packed.
    format: ArchiveFormat,
    /// The archive in standard base64 with padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    bytes: Option<&'a Bytes>,
    /// The archive in the object store.
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<&'a Blob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    local: Option<Unsent<'a>>,
    /// How many leading components of every entry's path are dropped; an entry with no more is left out. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    strip_components: Option<u32>,
}

/// A file: its content is one of `text`, `base64`, `blob` (in MessagePack also `bytes`).
#[derive(Serialize, JsonSchema)]
#[schemars(
    rename = "File",
    extend("additionalProperties" = false),
    extend("oneOf" = one_content())
)]
struct WrittenFile<'a> {
    /// Where in the work directory, relative. The first file's may be absent: the runtime's source file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    /// The content as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// The content in standard base64 with padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    bytes: Option<&'a Bytes>,
    /// The content in the object store.
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<&'a Blob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    local: Option<Unsent<'a>>,
    /// Whether it may be executed. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<bool>,
}

/// Changes to a stage.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Stage", extend("additionalProperties" = false))]
struct WrittenStage<'a> {
    /// Replaces the runtime's command: an argument vector, no shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    command: Option<&'a [String]>,
    /// Follow the command.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    #[schemars(with = "Option<Vec<String>>")]
    args: &'a [String],
    /// Added to the runtime's environment; `HOME` is always the work directory and cannot be named.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    env: &'a BTreeMap<String, String>,
    /// Replace single defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<&'a LimitChanges>,
}

/// Changes to the run stage, and its standard input.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Run", extend("additionalProperties" = false))]
struct WrittenRun<'a> {
    /// Replaces the runtime's command: an argument vector, no shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    command: Option<&'a [String]>,
    /// Follow the command.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    #[schemars(with = "Option<Vec<String>>")]
    args: &'a [String],
    /// Added to the runtime's environment; `HOME` is always the work directory and cannot be named.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    env: &'a BTreeMap<String, String>,
    /// Standard input. Default: empty. Nothing is added to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdin: Option<Stdin<'a>>,
    /// Replace single defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<&'a LimitChanges>,
}

/// One run of the build.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Test", extend("additionalProperties" = false))]
struct WrittenTest<'a> {
    /// Echoed in its run of the result: up to 256 characters, no control characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    name: Option<&'a str>,
    /// Standard input. Default: empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdin: Option<Stdin<'a>>,
    /// Follow the command and `run.args`.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    #[schemars(with = "Option<Vec<String>>")]
    args: &'a [String],
    /// What it should write to its standard output. Default: nothing is compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Stdin<'a>>,
    /// Replace single limits of `run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<&'a LimitChanges>,
}

/// What of the work directory is kept: a list of globs where nothing else is said, else an object.
#[derive(Serialize)]
#[serde(untagged)]
enum WrittenCollect<'a> {
    Paths(&'a [String]),
    Object {
        paths: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        max_files: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        max_bytes: Option<ByteSize>,
    },
}

/// [`Collect`] for the schema.
#[derive(JsonSchema)]
#[schemars(
    rename = "Collect",
    description = "A list of globs, or an object with them and bounds.",
    extend("type" = ["array", "object"]),
    extend("items" = {"type": "string"}),
    extend("minItems" = 1),
    extend("additionalProperties" = false)
)]
#[expect(dead_code, reason = "only its schema is used")]
struct CollectShape {
    /// Globs of paths relative to the work directory: `*`, `?` and `[…]` (none of it: `[!…]`) stay within a component, `**`
    /// is any number of them, `{a,b}` one of several; `\` takes the meaning of what follows it.
    #[schemars(length(min = 1))]
    paths: Vec<String>,
    /// The most files. Default: the fleet's ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    max_files: Option<u64>,
    /// The most bytes of all files together. Default: the fleet's ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u64>", range(min = 1))]
    max_bytes: Option<ByteSize>,
}

/// A standard input or an expected output: a string where it is text, else an object.
#[derive(Serialize)]
#[serde(untagged)]
enum Stdin<'a> {
    Text(&'a str),
    Object(Parts<'a>),
}

/// [`Content`] standing alone, for the schema.
#[derive(JsonSchema)]
#[schemars(
    rename = "Content",
    description = "A string, or an object with one of `text`, `base64`, `blob` (in MessagePack also `bytes`).",
    extend("type" = ["string", "object"]),
    extend("additionalProperties" = false),
    extend("if" = {"type": "object"}),
    extend("then" = {"oneOf": one_content()})
)]
#[expect(dead_code, reason = "only its schema is used")]
struct ContentShape {
    /// The content as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The content in standard base64 with padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// The content in the object store.
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<Blob>,
}

fn one_content() -> serde_json::Value {
    one_of(&["text", "base64", "blob"])
}

/// Exactly one of the fields that hold a content, null being as if it were absent.
fn one_of(names: &[&str]) -> serde_json::Value {
    let one =
        |name: &&str| json!({"required": [name], "properties": {*name: {"not": {"type": "null"}}}});
    names.iter().map(one).collect()
}

/// A submission has a file, an archive or both.
fn files_or_archive() -> serde_json::Value {
    json!([
        {"required": ["files"], "properties": {"files": {"type": "array", "minItems": 1}}},
        {"required": ["archive"], "properties": {"archive": {"type": "object"}}},
    ])
}

impl JsonSchema for WrittenCollect<'_> {
    fn schema_name() -> Cow<'static, str> {
        CollectShape::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        CollectShape::json_schema(generator)
    }
}

impl JsonSchema for Stdin<'_> {
    fn schema_name() -> Cow<'static, str> {
        ContentShape::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        ContentShape::json_schema(generator)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The value, where it is not the default.
fn set<T: Default + PartialEq>(value: T) -> Option<T> {
    (!is_default(&value)).then_some(value)
}

/// The limits, where any is set.
fn changed(limits: &LimitChanges) -> Option<&LimitChanges> {
    (!is_default(limits)).then_some(limits)
}

impl<'a> Written<'a> {
    fn of(submission: &'a Submission, readable: bool) -> Self {
        let Submission {
            runtime,
            archive,
            files,
            entry,
            compile,
            run,
            stdin,
            tests,
            collect,
            cache,
            compare,
            stop_on_failure,
            total_time_us,
            expires_at,
            events,
            labels,
        } = submission;
        Self {
            runtime,
            archive: archive
                .as_ref()
                .map(|archive| WrittenArchive::of(archive, readable)),
            files: files
                .iter()
                .map(|file| WrittenFile::of(file, readable))
                .collect(),
            entry: entry.as_deref(),
            compile: (!is_default(compile)).then(|| WrittenStage::of(compile)),
            run: (!is_default(run) || stdin.is_some())
                .then(|| WrittenRun::of(run, stdin.as_ref(), readable)),
            tests: tests
                .iter()
                .map(|test| WrittenTest::of(test, readable))
                .collect(),
            collect: collect.as_ref().map(WrittenCollect::of),
            cache: (!cache).then_some(false),
            compare: set(*compare),
            stop_on_failure: set(*stop_on_failure),
            total_time_us: *total_time_us,
            expires_at: *expires_at,
            events: set(*events),
            labels,
        }
    }
}

impl<'a> WrittenFile<'a> {
    fn of(file: &'a File, readable: bool) -> Self {
        let parts = Parts::of(&file.content, readable);
        Self {
            path: file.path.as_deref(),
            text: parts.text,
            base64: parts.base64,
            bytes: parts.bytes,
            blob: parts.blob,
            local: parts.local,
            executable: set(file.executable),
        }
    }
}

impl<'a> WrittenArchive<'a> {
    fn of(archive: &'a Archive, readable: bool) -> Self {
        let parts = match &archive.content {
            // Text by chance: an archive is never shown as such.
            Content::Inline(data) if readable => Parts::base64(data),
            content => Parts::of(content, readable),
        };
        Self {
            format: archive.format,
            base64: parts.base64,
            bytes: parts.bytes,
            blob: parts.blob,
            local: parts.local,
            strip_components: set(archive.strip_components),
        }
    }
}

impl<'a> WrittenCollect<'a> {
    fn of(collect: &'a Collect) -> Self {
        let Collect {
            paths,
            max_files,
            max_bytes,
        } = collect;
        if max_files.is_none() && max_bytes.is_none() {
            return Self::Paths(paths);
        }
        Self::Object {
            paths,
            max_files: *max_files,
            max_bytes: *max_bytes,
        }
    }
}

impl<'a> WrittenStage<'a> {
    fn of(stage: &'a StageChanges) -> Self {
        Self {
            command: stage.command.as_deref(),
            args: &stage.args,
            env: &stage.env,
            limits: changed(&stage.limits),
        }
    }
}

impl<'a> WrittenRun<'a> {
    fn of(stage: &'a StageChanges, stdin: Option<&'a Content>, readable: bool) -> Self {
        let WrittenStage {
            command,
            args,
            env,
            limits,
        } = WrittenStage::of(stage);
        Self {
            command,
            args,
            env,
            stdin: stdin.map(|stdin| Stdin::of(stdin, readable)),
            limits,
        }
    }
}

impl<'a> WrittenTest<'a> {
    fn of(test: &'a Test, readable: bool) -> Self {
        Self {
            name: test.name.as_deref(),
            stdin: (!is_default(&test.stdin)).then(|| Stdin::of(&test.stdin, readable)),
            args: &test.args,
            expected: test
                .expected
                .as_ref()
                .map(|expected| Stdin::of(expected, readable)),
            limits: changed(&test.limits),
        }
    }
}

impl<'a> Stdin<'a> {
    fn of(content: &'a Content, readable: bool) -> Self {
        let parts = Parts::of(content, readable);
        match parts.text {
            Some(text) => Self::Text(text),
            None => Self::Object(parts),
        }
    }
}

impl Serialize for Submission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written::of(self, serializer.is_human_readable()).serialize(serializer)
    }
}

impl JsonSchema for Submission {
    fn schema_name() -> Cow<'static, str> {
        Written::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Written::json_schema(generator)
    }
}

#[cfg(test)]
mod tests;
