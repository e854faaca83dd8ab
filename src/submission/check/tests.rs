//! Each rule of the contract by its name, and that no hostile body does harm.

use std::collections::BTreeMap;

mod contents;
mod fields;
mod hostile;
mod limits;
mod stages;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::*;
use crate::submission::{
    catalogue::{Runtime, StageDefaults},
    compare::Compare,
    limits::Limits,
    units::Micros,
};

fn limits(seconds: u64) -> Limits {
    Limits {
        cpu_time_us: Micros(seconds * 1_000_000),
        extra_time_us: Micros(seconds * 100_000),
        wall_time_us: Micros(seconds * 1_000_000),
        memory_bytes: ByteSize(256 << 20),
        stack_bytes: ByteSize(64 << 20),
        processes: 64,
        open_files: 64,
        file_size_bytes: ByteSize(16 << 20),
        disk_bytes: ByteSize(64 << 20),
        inodes: 1_024,
        output_bytes: ByteSize(1 << 20),
    }
}

fn ceilings() -> Ceilings {
    Ceilings {
        limits: limits(60),
        default_total_time_us: Micros(600_000_000),
        total_time_us: Micros(1_800_000_000),
        tests: 1_000,
        files: 1_000,
        blobs: 8,
        blob_bytes: ByteSize(32 << 20),
        blob_total_bytes: ByteSize(48 << 20),
        archive_bytes: ByteSize(16 << 20),
        collect_files: 100,
        collect_bytes: ByteSize(8 << 20),
        arguments: 256,
        argument_bytes: ByteSize(64 << 10),
    }
}

fn runtime(name: &str, version: &str, compile: Option<&[&str]>, run: &[&str]) -> Runtime {
    let stage = |command: &[&str], seconds| StageDefaults {
        command: command.iter().map(ToString::to_string).collect(),
        template: false,
        limits: limits(seconds),
    };
    Runtime {
        name: name.parse().expect("valid"),
        version: version.parse().expect("valid"),
        default: version != "3.9",
        description: String::new(),
        source_file: format!("main.{name}"),
        env: BTreeMap::from([
            ("PATH".into(), "/usr/bin".into()),
            ("LANG".into(), "C".into()),
        ]),
        compile: compile.map(|command| stage(command, 30)),
        run: stage(run, 10),
        start_cost: None,
    }
}

fn catalogue() -> Catalogue {
    Catalogue {
        runtimes: vec![
            runtime("python", "3.9", None, &["python3.9", "{entry}"]),
            runtime("python", "3.11", None, &["python3", "{entry}"]),
            runtime("c++", "12", Some(&["g++", "{entry}"]), &["./a.out"]),
        ],
    }
}

fn check_value(value: &impl Serialize) -> Result<Plan, Rejected> {
    let body = serde_json::to_vec(value).expect("encodes");
    check(&body, None, &catalogue(), &ceilings())
}

/// A valid submission with `changes` in place of its fields; null leaves a field out.
fn with(changes: &Json) -> Json {
    let mut submission =
        json!({"runtime": "python", "files": [{"path": "main.py", "text": "print(1)"}]});
    for (name, value) in changes.as_object().expect("an object") {
        submission[name] = value.clone();
    }
    submission
}

#[track_caller]
fn accepted(changes: &Json) -> Plan {
    check_value(&with(changes)).unwrap_or_else(|error| panic!("{changes}: {error}"))
}

/// Asserts that `changes` bring about exactly one error, at `path`, with `message` in it.
#[track_caller]
fn refused(changes: &Json, path: &str, message: &str) {
    let errors = errors(changes);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].path, path, "{errors:?}");
    assert!(errors[0].message.contains(message), "{errors:?}");
}

#[track_caller]
fn errors(changes: &Json) -> Vec<FieldError> {
    check_value(&with(changes)).expect_err("refused").errors
}

/// The example of the contract, without what a fleet without an object store refuses.
fn example() -> Json {
    json!({
        "runtime": "python@3.11",
        "files": [
            {"path": "main.py", "text": "print(input())"},
            {"path": "data/logo.png", "base64": "iVBORw==", "executable": false}
        ],
        "entry": "main.py",
        "compile": {"command": ["make"], "args": ["-O2"], "env": {"CC": "gcc"}, "limits": {"wall_time_us": 20_000_000}},
        "run": {"command": null, "args": ["-v"], "env": {"LANG": "C.UTF-8"},
                "limits": {"cpu_time_us": 1_000_000, "wall_time_us": 3_000_000, "memory_bytes": 268_435_456}},
        "tests": [{"name": "small", "stdin": "1 2\n", "args": [], "expected": "3\n"}, {"name": "big", "stdin": {"text": "9"}}],
        "compare": "trimmed", "stop_on_failure": false, "total_time_us": 600_000_000,
        "expires_at": "2030-12-31T23:59:59.5+01:00",
        "events": "stages",
        "labels": {"course": "cs101"}
    })
}

#[test]
fn the_contracts_example_is_a_plan() {
    let plan = check_value(&example()).expect("valid");
    assert_eq!(plan.runtime.1.as_str(), "3.11");
    assert_eq!(plan.files[1].data.inline(), Some(&b"\x89PNG"[..]));
    let compile = plan.compile.as_ref().expect("a compile stage");
    assert_eq!(compile.argv, ["make", "-O2"]);
    assert_eq!(compile.env["CC"], "gcc");
    assert_eq!(compile.limits.wall_time_us, Micros(20_000_000));
    assert_eq!(compile.limits.cpu_time_us, Micros(10_000_000));
    let run = &plan.runs[0];
    assert_eq!(run.name.as_deref(), Some("small"));
    assert_eq!(run.stage.argv, ["python3", "main.py", "-v"]);
    let env = ["/work", "C.UTF-8", "/usr/bin"].map(String::from);
    assert!(run.stage.env.values().eq(&env));
    assert_eq!(run.stage.stdin.inline(), Some(&b"1 2\n"[..]));
    assert_eq!(run.expected, Some(b"3\n".to_vec().into()));
    assert!(!plan.needs_store() && plan.cache);
    assert_eq!(plan.runs[1].expected, None);
    let expires_at = time::macros::datetime!(2030-12-31 22:59:59.5 UTC);
    assert_eq!(plan.expires_at, Some(expires_at));
    assert_eq!(plan.labels["course"], "cs101");
}

#[test]
fn both_encodings_mean_the_same() {
    let example = example();
    let packed = rmp_serde::to_vec_named(&example).expect("encodes");
    let content_type = Some("application/msgpack");
    let plan = check(&packed, content_type, &catalogue(), &ceilings());
    assert_eq!(plan, check_value(&example));
    assert!(plan.is_ok());
}

#[test]
fn the_smallest_submission_takes_every_default() {
    let plan = accepted(&json!({"files": [{"text": "print(1)"}]}));
    assert_eq!(plan.files[0].path, "main.python");
    assert_eq!(plan.compile, None);
    assert_eq!(plan.runs.len(), 1);
    assert_eq!(plan.runs[0].name, None);
    assert_eq!(plan.runs[0].stage.limits, limits(10));
    assert_eq!(plan.runs[0].stage.env["HOME"], envicutor_protocol::WORK_DIR);
    assert_eq!(plan.total_time_us, Micros(600_000_000));
    assert_eq!(plan.compare, Compare::Trimmed);
    assert_eq!(plan.events, EventsWanted::Stages);
}

#[test]
fn the_schema_has_the_fields_that_are_accepted_and_no_others() {
    let (_, schema) = crate::submission::schema::documents().swap_remove(0);
    let schema = serde_json::to_value(schema).expect("encodes");
    let nulls = |definition: &Json| {
        let fields = definition["properties"].as_object().expect("an object");
        fields
            .keys()
            .map(|name| (name.clone(), Json::Null))
            .collect::<Json>()
    };
    let definition = |name: &str| nulls(&schema["$defs"][name]);
    let with_text = |name: &str| {
        let mut content = definition(name);
        content["text"] = "".into();
        content
    };
    let mut all = nulls(&schema);
    all["runtime"] = "python".into();
    all["files"] = json!([with_text("File")]);
    all["compile"] = definition("Stage");
    all["run"] = definition("Run");
    all["run"]["stdin"] = with_text("Content");
    all["run"]["limits"] = definition("LimitChanges");
    let plan = check_value(&all).unwrap_or_else(|error| panic!("{all}: {error}"));
    assert_eq!(plan.runs.len(), 1);
    all["run"]["stdin"] = Json::Null;
    all["tests"] = json!([definition("Test")]);
    assert!(check_value(&all).is_ok());
    // And the other way: what the errors list as known is in the schema.
    for (object, definition) in [
        (json!({"x": 1}), &schema),
        (
            json!({"files": [{"text": "", "x": 1}]}),
            &schema["$defs"]["File"],
        ),
        (json!({"compile": {"x": 1}}), &schema["$defs"]["Stage"]),
        (json!({"run": {"x": 1}}), &schema["$defs"]["Run"]),
        (
            json!({"run": {"limits": {"x": 1}}}),
            &schema["$defs"]["LimitChanges"],
        ),
        (
            json!({"run": {"stdin": {"text": "", "x": 1}}}),
            &schema["$defs"]["Content"],
        ),
        (json!({"tests": [{"x": 1}]}), &schema["$defs"]["Test"]),
        (json!({"archive": {"x": 1}}), &schema["$defs"]["Archive"]),
        (json!({"collect": {"x": 1}}), &schema["$defs"]["Collect"]),
    ] {
        let body = serde_json::to_vec(&with(&object)).expect("encodes");
        let rejected = check(&body, None, &catalogue(), &ceilings()).expect_err("refused");
        let message = &rejected.errors[0].message;
        let known = message
            .strip_prefix("unknown field, expected one of ")
            .expect("a list");
        for name in known.split(", ").filter(|name| *name != "bytes") {
            assert!(
                definition["properties"].get(name).is_some(),
                "{name}: {definition}"
            );
        }
        assert_eq!(definition["additionalProperties"], json!(false));
    }
}
