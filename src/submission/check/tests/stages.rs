//! Commands, arguments and tests.

use super::*;

#[test]
fn what_a_build_leaves_in_memory_is_known() {
    let built = |tests: usize, compile: Option<&str>| {
        let mut changes = json!({"tests": vec![json!({}); tests]});
        if let Some(command) = compile {
            changes["compile"] = json!({"command": [command]});
        }
        accepted(&changes).build_bytes()
    };
    assert_eq!(built(3, None), ByteSize(0));
    assert_eq!(built(0, Some("make")), ByteSize(64 << 20));
    assert_eq!(built(1, Some("make")), ByteSize(64 << 20));
    assert_eq!(built(2, Some("make")), ByteSize(128 << 20));
}

#[test]
fn with_tests_the_run_has_no_stdin() {
    refused(
        &json!({"run": {"stdin": "x"}, "tests": [{}]}),
        "run.stdin",
        "where there are tests",
    );
    let plan = accepted(&json!({"run": {"stdin": "x"}, "tests": []}));
    assert_eq!(plan.runs[0].stage.stdin.inline(), Some(&b"x"[..]));
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
