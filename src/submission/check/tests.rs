//! Each rule of the contract by its name, and that no hostile body does harm.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
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
        arguments: 256,
        argument_bytes: ByteSize(64 << 10),
    }
}

fn runtime(name: &str, version: &str, compile: Option<&[&str]>, run: &[&str]) -> Runtime {
    let stage = |command: &[&str], seconds| StageDefaults {
        command: command.iter().map(ToString::to_string).collect(),
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
        "events": "stages",
        "labels": {"course": "cs101"}
    })
}

#[test]
fn the_contracts_example_is_a_plan() {
    let plan = check_value(&example()).expect("valid");
    assert_eq!(plan.runtime.1.as_str(), "3.11");
    assert_eq!(plan.files[1].data, b"\x89PNG");
    let compile = plan.compile.as_ref().expect("a compile stage");
    assert_eq!(compile.argv, ["make", "-O2"]);
    assert_eq!(compile.env["CC"], "gcc");
    assert_eq!(compile.limits.wall_time_us, Micros(20_000_000));
    assert_eq!(compile.limits.cpu_time_us, Micros(10_000_000));
    let run = &plan.runs[0];
    assert_eq!(run.name.as_deref(), Some("small"));
    assert_eq!(run.stage.argv, ["python3", "main.py", "-v"]);
    let env = ["/work", "C.UTF-8", "/usr/bin"].map(String::from);
    assert_eq!(Vec::from_iter(run.stage.env.values().cloned()), env);
    assert_eq!(run.stage.stdin, b"1 2\n");
    assert_eq!(run.expected.as_deref(), Some(&b"3\n"[..]));
    assert_eq!(plan.runs[1].expected, None);
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
fn all_errors_come_at_once() {
    let errors = errors(&json!({
        "runtime": "cobol",
        "files": [{"path": "/a", "text": "x"}, {"path": "b", "text": "x"}, {"path": "b/c", "text": "x"}],
        "run": {"limits": {"wall_time_us": 90_000_000, "processes": 0}},
        "tests": [{"stdin": {"base64": "*"}}],
        "surprise": 1,
    }));
    let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    for path in [
        "runtime",
        "files[0].path",
        "files[2].path",
        "run.limits.wall_time_us",
        "run.limits.processes",
        "tests[0].stdin.base64",
        "surprise",
    ] {
        assert!(paths.contains(&path), "{path}: {errors:?}");
    }
    assert_eq!(paths.len(), 7, "{errors:?}");
}

#[test]
fn a_missing_field_is_named_by_its_path() {
    refused(&json!({"runtime": null}), "runtime", "missing");
    refused(&json!({"files": null}), "files", "missing");
    refused(&json!({"files": []}), "files", "one file or more");
    refused(
        &json!({"files": [{"text": ""}, {"text": ""}]}),
        "files[1].path",
        "missing",
    );
}

#[test]
fn an_unknown_field_is_refused_with_its_path() {
    refused(&json!({"rum": 1}), "rum", "unknown field");
    refused(
        &json!({"files": [{"text": "", "mode": 1}]}),
        "files[0].mode",
        "unknown field",
    );
    refused(
        &json!({"run": {"limits": {"cpu": 1}}}),
        "run.limits.cpu",
        "unknown field",
    );
    refused(
        &json!({"compile": {"command": ["x"], "stdin": ""}}),
        "compile.stdin",
        "unknown field",
    );
    refused(
        &json!({"tests": [{"env": {}}]}),
        "tests[0].env",
        "unknown field",
    );
    refused(
        &json!({"run": {"stdin": {"text": "", "x": 1}}}),
        "run.stdin.x",
        "unknown field",
    );
}

#[test]
fn a_wrong_type_says_what_came_and_what_is_expected() {
    refused(
        &json!({"runtime": 3}),
        "runtime",
        "expected a string, got 3",
    );
    refused(
        &json!({"files": {}}),
        "files",
        "expected an array, got an object",
    );
    refused(
        &json!({"run": []}),
        "run",
        "expected an object, got an array",
    );
    refused(
        &json!({"stop_on_failure": "yes"}),
        "stop_on_failure",
        "expected true or false, got the string \"yes\"",
    );
    refused(
        &json!({"compare": "fuzzy"}),
        "compare",
        "expected \"exact\" or \"trimmed\" or \"tokens\", got the string \"fuzzy\"",
    );
    refused(
        &json!({"total_time_us": 1.5}),
        "total_time_us",
        "expected an integer from 0 to 18446744073709551615, got 1.5",
    );
    refused(&json!({"total_time_us": -5}), "total_time_us", "got -5");
    refused(
        &json!({"total_time_us": "5s"}),
        "total_time_us",
        "got the string",
    );
    refused(
        &json!({"run": {"stdin": 5}}),
        "run.stdin",
        "expected a string or an object, got 5",
    );
    refused(
        &json!({"run": {"args": ["a", 1]}}),
        "run.args[1]",
        "expected a string",
    );
    refused(
        &json!({"run": {"env": ["A=b"]}}),
        "run.env",
        "expected an object of strings",
    );
    refused(
        &json!({"labels": {"n": 1}}),
        "labels.n",
        "expected a string",
    );
    let body = b"[1]";
    let error = check(body, None, &catalogue(), &ceilings()).expect_err("refused");
    assert_eq!(error.errors[0].message, "expected an object, got an array");
}

#[test]
fn a_whole_float_is_an_integer() {
    assert_eq!(
        accepted(&json!({"total_time_us": 5e6})).total_time_us,
        Micros(5_000_000)
    );
}

#[test]
fn a_body_that_cannot_be_read_has_one_error_without_a_path() {
    for (body, content_type, message) in [
        (&b""[..], None, "not JSON"),
        (b"{", Some("application/json"), "not JSON"),
        (b"\xc1", Some("application/msgpack"), "not MessagePack"),
        (b"{}", Some("text/plain"), "text/plain"),
        (&vec![b' '; MAX_BODY_BYTES + 1], None, "512 KiB"),
    ] {
        let error = check(body, content_type, &catalogue(), &ceilings()).expect_err("refused");
        assert_eq!(error.errors.len(), 1);
        assert_eq!(error.errors[0].path, "");
        assert!(error.errors[0].message.contains(message), "{error}");
    }
}

#[test]
fn a_runtime_is_one_of_the_fleets() {
    assert_eq!(
        accepted(&json!({"runtime": "python"})).runtime.1.as_str(),
        "3.11"
    );
    assert_eq!(
        accepted(&json!({"runtime": "python@3.9"}))
            .runtime
            .1
            .as_str(),
        "3.9"
    );
    refused(
        &json!({"runtime": "cobol"}),
        "runtime",
        "no \"cobol\", it has python@3.9, python@3.11, c++@12",
    );
    refused(
        &json!({"runtime": "python@2"}),
        "runtime",
        "no \"python@2\"",
    );
    refused(
        &json!({"runtime": "Py thon"}),
        "runtime",
        "not a valid runtime",
    );
}

#[test]
fn paths_follow_the_rules() {
    for bad in ["", "/a", "../a", "a//b", "a/.", "a\u{0}b"] {
        refused(
            &json!({"files": [{"path": bad, "text": ""}]}),
            "files[0].path",
            "",
        );
    }
}

#[test]
fn no_path_stands_twice_or_under_another_file() {
    let files = |paths: &[&str]| json!({"files": paths.iter().map(|path| json!({"path": path, "text": ""})).collect::<Vec<_>>()});
    accepted(&files(&["a", "a-b", "ab", "b/a", "b/c/d"]));
    refused(
        &files(&["a", "b", "a"]),
        "files[2].path",
        "already the path of files[0]",
    );
    refused(
        &files(&["a/b", "a"]),
        "files[0].path",
        "lies under files[1]",
    );
    refused(
        &files(&["a", "a-b", "a/b/c"]),
        "files[2].path",
        "lies under files[0]",
    );
    assert_eq!(errors(&files(&["a", "a/b", "a/c", "a/b/d"])).len(), 3);
    let named_by_the_runtime =
        json!({"files": [{"text": ""}, {"path": "main.python", "text": ""}]});
    refused(&named_by_the_runtime, "files[1].path", "already the path");
}

#[test]
fn the_entry_is_one_of_the_files() {
    let files = json!([{"path": "a.py", "text": ""}, {"path": "b.py", "text": ""}]);
    let plan = accepted(&json!({"files": files, "entry": "b.py"}));
    assert_eq!(plan.runs[0].stage.argv, ["python3", "b.py"]);
    refused(
        &json!({"files": files, "entry": "c.py"}),
        "entry",
        "none of the files",
    );
    let plan = accepted(&json!({"files": [{"text": ""}], "entry": "main.python"}));
    assert_eq!(plan.runs[0].stage.argv, ["python3", "main.python"]);
}

#[test]
fn content_is_exactly_one_of_its_forms() {
    let file = |file: Json| json!({"files": [file]});
    refused(
        &file(json!({"path": "a"})),
        "files[0]",
        "expected one of text, base64, blob, got none",
    );
    refused(
        &file(json!({"text": "", "base64": ""})),
        "files[0]",
        "got several",
    );
    refused(
        &file(json!({"base64": "a"})),
        "files[0].base64",
        "not standard base64",
    );
    refused(
        &file(json!({"bytes": [1]})),
        "files[0].bytes",
        "only MessagePack has bytes",
    );
    refused(&json!({"run": {"stdin": {}}}), "run.stdin", "got none");
}

#[test]
fn message_pack_has_bytes() {
    let pack = |stdin: &serde_bytes::Bytes| {
        let run = BTreeMap::from([("stdin", BTreeMap::from([("bytes", stdin)]))]);
        let mut body = vec![0x83];
        for (key, value) in [
            ("runtime", rmp_serde::to_vec("python")),
            (
                "files",
                rmp_serde::to_vec(&[BTreeMap::from([("text", "")])]),
            ),
            ("run", rmp_serde::to_vec(&run)),
        ] {
            body.extend(rmp_serde::to_vec(key).expect("encodes"));
            body.extend(value.expect("encodes"));
        }
        body
    };
    let body = pack(serde_bytes::Bytes::new(b"\xff\0"));
    let plan = check(
        &body,
        Some("application/msgpack"),
        &catalogue(),
        &ceilings(),
    )
    .expect("valid");
    assert_eq!(plan.runs[0].stage.stdin, b"\xff\0");
}

#[test]
fn a_blob_is_refused_by_a_fleet_without_an_object_store() {
    let blob = json!({"blob": {"digest": format!("sha256:{}", "0".repeat(64)), "size_bytes": 5}});
    refused(
        &json!({"files": [blob]}),
        "files[0].blob",
        "no object store yet",
    );
    refused(
        &json!({"run": {"stdin": blob}}),
        "run.stdin.blob",
        "no object store yet",
    );
    let body = serde_json::to_vec(&with(&json!({"files": [blob]}))).expect("encodes");
    let submission = check_shape(&body, Encoding::Json).expect("a good shape");
    assert!(matches!(
        submission.files[0].content,
        crate::submission::content::Content::Blob(_)
    ));
}

#[test]
fn a_limit_over_the_ceiling_is_refused_and_never_clamped() {
    let run = |limits: Json| json!({"run": {"limits": limits}});
    refused(
        &run(json!({"wall_time_us": 90_000_000})),
        "run.limits.wall_time_us",
        "90 s is over this fleet's ceiling of 1 min",
    );
    refused(
        &run(json!({"memory_bytes": 1 << 30})),
        "run.limits.memory_bytes",
        "1 GiB is over this fleet's ceiling of 256 MiB",
    );
    refused(
        &run(json!({"processes": 65})),
        "run.limits.processes",
        "65 is over this fleet's ceiling of 64",
    );
    refused(
        &json!({"tests": [{"limits": {"inodes": 5_000}}]}),
        "tests[0].limits.inodes",
        "5000 is over",
    );
    refused(
        &json!({"total_time_us": 1_800_000_001_u64}),
        "total_time_us",
        "over this fleet's ceiling of 30 min",
    );
    let plan = accepted(&run(json!({"wall_time_us": 60_000_000})));
    assert_eq!(plan.runs[0].stage.limits.wall_time_us, Micros(60_000_000));
}

#[test]
fn every_limit_is_held_against_its_own_ceiling() {
    let fields = serde_json::to_value(limits(60)).expect("encodes");
    for (name, most) in fields.as_object().expect("an object") {
        let most = most.as_u64().expect("a number");
        accepted(&json!({"run": {"limits": {name: most}}}));
        refused(
            &json!({"run": {"limits": {name: most + 1}}}),
            &format!("run.limits.{name}"),
            "over",
        );
        if name != "extra_time_us" {
            refused(
                &json!({"run": {"limits": {name: 0}}}),
                &format!("run.limits.{name}"),
                "zero",
            );
        }
    }
}

#[test]
fn zero_is_no_limit_but_of_the_extra_time() {
    let plan = accepted(&json!({"run": {"limits": {"extra_time_us": 0}}}));
    assert_eq!(plan.runs[0].stage.limits.extra_time_us, Micros(0));
    refused(&json!({"total_time_us": 0}), "total_time_us", "zero");
}

#[test]
fn a_default_over_the_ceiling_gives_way() {
    let mut ceilings = ceilings();
    ceilings.limits.wall_time_us = Micros(5_000_000);
    let body = serde_json::to_vec(&with(&json!({}))).expect("encodes");
    let plan = check(&body, None, &catalogue(), &ceilings).expect("valid");
    assert_eq!(plan.runs[0].stage.limits.wall_time_us, Micros(5_000_000));
}

#[test]
fn a_tests_limits_go_over_the_runs() {
    let plan = accepted(&json!({
        "run": {"limits": {"wall_time_us": 3, "processes": 2}},
        "tests": [{"limits": {"wall_time_us": 4}}, {}],
    }));
    let limits = |index: usize| &plan.runs[index].stage.limits;
    assert_eq!(
        (limits(0).wall_time_us, limits(0).processes),
        (Micros(4), 2)
    );
    assert_eq!(
        (limits(1).wall_time_us, limits(1).processes),
        (Micros(3), 2)
    );
}

#[test]
fn with_tests_the_run_has_no_stdin() {
    refused(
        &json!({"run": {"stdin": "x"}, "tests": [{}]}),
        "run.stdin",
        "where there are tests",
    );
    let plan = accepted(&json!({"run": {"stdin": "x"}, "tests": []}));
    assert_eq!(plan.runs[0].stage.stdin, b"x");
}

#[test]
fn a_tests_arguments_follow_the_runs() {
    let plan = accepted(&json!({"run": {"args": ["-v"]}, "tests": [{"args": ["1"]}, {}]}));
    assert_eq!(plan.runs[0].stage.argv, ["python3", "main.py", "-v", "1"]);
    assert_eq!(plan.runs[1].stage.argv, ["python3", "main.py", "-v"]);
}

#[test]
fn a_command_replaces_the_runtimes_and_is_taken_as_it_is() {
    let plan = accepted(&json!({"run": {"command": ["echo", "{entry}"], "args": ["{entry}"]}}));
    assert_eq!(plan.runs[0].stage.argv, ["echo", "{entry}", "{entry}"]);
    refused(
        &json!({"run": {"command": []}}),
        "run.command",
        "one argument or more",
    );
}

#[test]
fn a_runtime_without_a_compile_stage_needs_a_command_for_one() {
    refused(
        &json!({"compile": {"args": ["-O2"]}}),
        "compile",
        "python@3.11 has no compile stage",
    );
    refused(
        &json!({"compile": {"limits": {"processes": 1}}}),
        "compile",
        "give compile.command",
    );
    let plan = accepted(&json!({"compile": {"command": ["make"]}}));
    assert_eq!(plan.compile.expect("a stage").limits, limits(10));
    assert_eq!(accepted(&json!({"compile": {}})).compile, None);
    let plan = accepted(&json!({"runtime": "c++", "compile": {"args": ["-O2"]}}));
    let compile = plan.compile.expect("a stage");
    assert_eq!(compile.argv, ["g++", "main.py", "-O2"]);
    assert_eq!(compile.limits, limits(30));
}

#[test]
fn a_nul_is_refused() {
    refused(
        &json!({"run": {"args": ["a", "b\u{0}"]}}),
        "run.args[1]",
        "NUL",
    );
    refused(
        &json!({"run": {"command": ["\u{0}"]}}),
        "run.command[0]",
        "NUL",
    );
    refused(&json!({"run": {"env": {"A": "\u{0}"}}}), "run.env.A", "NUL");
    refused(
        &json!({"run": {"env": {"A\u{0}": ""}}}),
        "run.env[\"A\\0\"]",
        "NUL",
    );
    refused(
        &json!({"tests": [{"args": ["\u{0}"]}]}),
        "tests[0].args[0]",
        "NUL",
    );
    accepted(&json!({"run": {"stdin": "\u{0}"}}));
}

#[test]
fn an_environment_names_variables() {
    refused(
        &json!({"run": {"env": {"": "x"}}}),
        "run.env[\"\"]",
        "no variable's name",
    );
    refused(
        &json!({"run": {"env": {"A=B": "x"}}}),
        "run.env[\"A=B\"]",
        "no variable's name",
    );
    refused(
        &json!({"run": {"env": {"HOME": "/"}}}),
        "run.env.HOME",
        "always \"/work\"",
    );
    let plan = accepted(&json!({"run": {"env": {"PATH": "/bin"}}}));
    assert_eq!(plan.runs[0].stage.env["PATH"], "/bin");
}

#[test]
fn arguments_and_environment_are_bounded() {
    let many = vec!["x"; 255];
    refused(
        &json!({"run": {"args": many}}),
        "run",
        "257 arguments are over this fleet's ceiling of 256",
    );
    let fits = vec!["x"; 254];
    accepted(&json!({"run": {"args": fits}}));
    refused(
        &json!({"run": {"args": fits}, "tests": [{}, {"args": ["y"]}]}),
        "tests[1].args",
        "257 arguments",
    );
    let long = "x".repeat(64 << 10);
    refused(
        &json!({"run": {"args": [long]}}),
        "run",
        "bytes of arguments and environment",
    );
    refused(
        &json!({"run": {"env": {"A": long}}}),
        "run",
        "bytes of arguments and environment",
    );
    refused(
        &json!({"compile": {"command": [long]}}),
        "compile",
        "bytes of arguments and environment",
    );
}

#[test]
fn files_and_tests_are_counted() {
    let files: Vec<_> = (0..1_001)
        .map(|index| json!({"path": index.to_string(), "text": ""}))
        .collect();
    refused(
        &json!({"files": files}),
        "files",
        "1001 files are over this fleet's ceiling of 1000",
    );
    accepted(&json!({"files": files[..1_000]}));
    let tests = vec![json!({}); 1_001];
    refused(
        &json!({"tests": tests}),
        "tests",
        "1001 tests are over this fleet's ceiling of 1000",
    );
    assert_eq!(
        accepted(&json!({"tests": tests[..1_000]})).runs.len(),
        1_000
    );
}

#[test]
fn the_files_fit_the_work_directory() {
    let file = json!([{"path": "a/b", "text": "12345"}]);
    refused(
        &json!({"files": file, "run": {"limits": {"disk_bytes": 4}}}),
        "files",
        "5 bytes, more than disk_bytes of 4",
    );
    accepted(&json!({"files": file, "run": {"limits": {"disk_bytes": 5, "inodes": 2}}}));
    refused(
        &json!({"files": file, "run": {"limits": {"inodes": 1}}}),
        "files",
        "2 files and directories are more than inodes of 1",
    );
}

#[test]
fn labels_are_bounded() {
    let many: BTreeMap<_, _> = (0..17).map(|index| (index.to_string(), "x")).collect();
    refused(
        &json!({"labels": many}),
        "labels",
        "17 labels are more than 16",
    );
    refused(&json!({"labels": {"": "x"}}), "labels[\"\"]", "one or more");
    refused(
        &json!({"labels": {"k".repeat(65): "x"}}),
        &format!("labels.{}", "k".repeat(65)),
        "longer than 64",
    );
    refused(
        &json!({"labels": {"k": "x".repeat(257)}}),
        "labels.k",
        "longer than 256",
    );
    refused(
        &json!({"labels": {"k": "a\nb"}}),
        "labels.k",
        "control character",
    );
    let longest = json!({"labels": {"\u{e4}".repeat(64): "\u{e4}".repeat(256)}});
    assert_eq!(accepted(&longest).labels.len(), 1);
}

#[test]
fn a_tests_name_is_bounded() {
    refused(
        &json!({"tests": [{"name": "x".repeat(257)}]}),
        "tests[0].name",
        "longer than 256",
    );
    refused(
        &json!({"tests": [{"name": "\u{7f}"}]}),
        "tests[0].name",
        "control character",
    );
}

#[test]
fn a_rejected_submission_keeps_its_labels_and_events() {
    let changes = json!({"runtime": "cobol", "labels": {"course": "cs101", "bad": "\u{0}"}, "events": "output"});
    let rejected = check_value(&with(&changes)).expect_err("refused");
    assert_eq!(
        rejected.labels,
        BTreeMap::from([("course".into(), "cs101".into())])
    );
    assert_eq!(rejected.events, EventsWanted::Output);
    assert!(
        rejected.to_string().contains("runtime: this fleet has no"),
        "{rejected}"
    );
}

#[test]
fn an_error_never_repeats_a_long_text() {
    let long = "\u{1}".repeat(5_000);
    let file = json!({"path": format!("/{long}"), "text": "", long.clone(): 1});
    let changes = json!({
        "runtime": long, "entry": long, "compare": long, "labels": {long.clone(): long}, "files": [file, long],
        "run": {"env": {format!("={long}"): ""}, "limits": long}, "tests": [{"name": long}], long.clone(): long,
    });
    let rejected = check_value(&with(&changes)).expect_err("refused");
    assert!(rejected.errors.len() > 9, "{rejected:?}");
    for error in &rejected.errors {
        assert!(error.path.len() + error.message.len() < 2_000, "{error:?}");
    }
}

#[test]
fn the_number_of_errors_is_bounded() {
    let files = vec![json!(1); 900];
    let errors = errors(&json!({"files": files}));
    assert_eq!(errors.len(), 101);
    assert!(errors[100].message.starts_with("and "), "{:?}", errors[100]);
}

/// Valid bodies of both encodings, to be damaged.
fn bodies() -> [(Vec<u8>, &'static str); 2] {
    let example = example();
    [
        (
            serde_json::to_vec(&example).expect("encodes"),
            "application/json",
        ),
        (
            rmp_serde::to_vec_named(&example).expect("encodes"),
            "application/msgpack",
        ),
    ]
}

#[test]
fn a_truncated_body_is_refused_at_every_length() {
    let (catalogue, ceilings) = (catalogue(), ceilings());
    for (body, content_type) in bodies() {
        for length in 0..body.len() {
            let checked = check(&body[..length], Some(content_type), &catalogue, &ceilings);
            assert_eq!(checked.expect_err("refused").errors[0].path, "");
        }
    }
}

#[test]
fn a_damaged_body_never_panics() {
    let (catalogue, ceilings) = (catalogue(), ceilings());
    let mut random = StdRng::seed_from_u64(7);
    for (body, content_type) in bodies() {
        for _ in 0..5_000 {
            let mut body = body.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..body.len());
                body[at] = random.random();
            }
            if let Err(rejected) = check(&body, Some(content_type), &catalogue, &ceilings) {
                assert!((1..=101).contains(&rejected.errors.len()));
            }
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let (catalogue, ceilings) = (catalogue(), ceilings());
    let mut random = StdRng::seed_from_u64(8);
    for _ in 0..5_000 {
        let mut body = vec![0; random.random_range(0..200)];
        random.fill(&mut body[..]);
        for content_type in ["application/json", "application/msgpack"] {
            assert!(check(&body, Some(content_type), &catalogue, &ceilings).is_err());
        }
    }
}

/// Runs what `ancestors` of each path would make slow, within the size of a body.
#[test]
fn deep_paths_take_no_time() {
    let files: Vec<_> = (0..400)
        .map(|index| json!({"path": format!("{}{index}", "x/".repeat(500)), "text": ""}))
        .collect();
    let start = std::time::Instant::now();
    accepted(&json!({"files": files}));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn the_schema_names_the_fields_that_are_accepted() {
    let (_, schema) = crate::submission::schema::documents().swap_remove(0);
    let schema = serde_json::to_value(schema).expect("encodes");
    let example = example();
    let names =
        |value: &Json| Vec::from_iter(value.as_object().expect("an object").keys().cloned());
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(
        sorted(names(&schema["properties"])),
        sorted(names(&example))
    );
    for (definition, object) in [
        ("File", &example["files"][1]),
        ("Stage", &example["compile"]),
        ("Run", &example["run"]),
        ("Test", &example["tests"][0]),
    ] {
        let known = names(&schema["$defs"][definition]["properties"]);
        for name in names(object) {
            assert!(known.contains(&name), "{definition}.{name}");
        }
        assert_eq!(
            schema["$defs"][definition]["additionalProperties"],
            json!(false)
        );
    }
}
