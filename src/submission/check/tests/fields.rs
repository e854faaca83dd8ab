//! Fields, types, paths and contents.

use super::*;

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
fn an_instant_is_rfc_3339_with_its_offset() {
    for good in [
        "2030-01-01T00:00:00Z",
        "1999-12-31T23:59:59.123456789-08:00",
    ] {
        assert!(
            accepted(&json!({"expires_at": good})).expires_at.is_some(),
            "{good}"
        );
    }
    for bad in [
        json!("2030-01-01"),
        json!("2030-01-01T00:00:00"),
        json!("2030-13-01T00:00:00Z"),
        json!("tomorrow"),
        json!(1_900_000_000),
    ] {
        refused(&json!({"expires_at": bad}), "expires_at", "RFC 3339");
    }
}

#[test]
fn what_is_past_its_instant_has_expired_and_is_still_valid() {
    let expired = |instant| accepted(&json!({"expires_at": instant})).has_expired();
    assert!(expired("2001-01-01T00:00:00Z"));
    assert!(!expired("9999-01-01T00:00:00Z"));
    assert!(!accepted(&json!({})).has_expired());
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
    assert_eq!(plan.runs[0].stage.stdin.inline(), Some(&b"\xff\0"[..]));
}

#[test]
fn null_is_as_if_the_field_were_absent() {
    let file = json!({"path": null, "text": "", "base64": null, "blob": null, "executable": null});
    let plan = accepted(
        &json!({"files": [file], "entry": null, "tests": null, "run": {"limits": null, "stdin": null}}),
    );
    assert_eq!(plan.files[0].path, "main.python");
    refused(
        &json!({"run": {"args": [null]}}),
        "run.args[0]",
        "expected a string, got null",
    );
}

#[test]
fn an_item_that_is_no_object_is_one_error() {
    refused(
        &json!({"files": [1]}),
        "files[0]",
        "expected an object, got 1",
    );
    refused(
        &json!({"tests": ["x"]}),
        "tests[0]",
        "expected an object, got the string",
    );
}
