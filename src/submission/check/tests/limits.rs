//! Limits and the other bounds.

use super::*;

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
