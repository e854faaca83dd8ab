//! Every runtime, every way that a program can end: published straight to the subject as any service would, and each
//! result held against what the contract promises.

mod fleet;

use fleet::Fleet;
use serde_json::{Value, json};

/// A program, what is changed of its limits, and what must come of it.
struct Case {
    name: &'static str,
    runtime: &'static str,
    source: &'static str,
    run: Value,
    verdict: &'static str,
    limit_hit: Option<&'static str>,
}

const fn case(
    name: &'static str,
    runtime: &'static str,
    source: &'static str,
    verdict: &'static str,
) -> Case {
    Case {
        name,
        runtime,
        source,
        run: Value::Null,
        verdict,
        limit_hit: None,
    }
}

impl Case {
    fn limit(mut self, field: &str, value: u64) -> Self {
        self.run = json!({"limits": {field: value}});
        self
    }

    fn hits(mut self, field: &'static str) -> Self {
        self.limit_hit = Some(field);
        self
    }

    fn submission(&self) -> Value {
        let mut submission = json!({"runtime": self.runtime, "files": [{"text": self.source}]});
        if !self.run.is_null() {
            submission["run"] = self.run.clone();
        }
        submission
    }
}

const MIB: u64 = 1 << 20;

fn limits(runtime: &'static str, programs: &Programs) -> Vec<Case> {
    vec![
        case("cpu", runtime, programs.spin, "cpu_time_exceeded")
            .limit("cpu_time_us", 300_000)
            .hits("cpu_time_us"),
        case("wall", runtime, programs.sleep, "wall_time_exceeded")
            .limit("wall_time_us", 700_000)
            .hits("wall_time_us"),
        case("memory", runtime, programs.hog, "memory_exceeded")
            .limit("memory_bytes", 48 * MIB)
            .hits("memory_bytes"),
        case("output", runtime, programs.flood, "output_exceeded")
            .limit("output_bytes", 10_000)
            .hits("output_bytes"),
    ]
}

/// One program for each way to end, in one language.
struct Programs {
    spin: &'static str,
    sleep: &'static str,
    hog: &'static str,
    flood: &'static str,
}

const PYTHON: Programs = Programs {
    spin: "while True: pass",
    sleep: "import time; time.sleep(60)",
    hog: "x = b'x' * (1 << 30)",
    flood: "while True: print('x' * 1000)",
};

const C: Programs = Programs {
    spin: "int main() { volatile int x = 0; for (;;) x++; }",
    sleep: "#include <unistd.h>\nint main() { sleep(60); }",
    hog: "#include <stdlib.h>\n#include <string.h>\nint main() { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }",
    flood: "#include <stdio.h>\nint main() { for (;;) puts(\"a line of output\"); }",
};

const BASH: Programs = Programs {
    spin: "while :; do :; done",
    sleep: "sleep 60",
    hog: "x=$(head -c 300000000 /dev/zero | tr '\\0' x)",
    flood: "while :; do echo a line of output; done",
};

fn python() -> Vec<Case> {
    let forks = "import os, time\nfor i in range(100):\n    if os.fork() == 0:\n        time.sleep(5)\n        os._exit(0)";
    vec![
        case(
            "exit code",
            "python",
            "import sys; sys.exit(3)",
            "runtime_error",
        ),
        case(
            "signal",
            "python",
            "import os; os.kill(os.getpid(), 11)",
            "signaled",
        ),
        case("no output", "python", "pass", "ok"),
        case("processes", "python", forks, "processes_exceeded")
            .limit("processes", 8)
            .hits("processes"),
    ]
}

/// C, because Python ignores SIGXFSZ and Bash starts another process for it.
const WRITE_TWO_MIB: &str = "#include <stdio.h>\nint main() { FILE *f = fopen(\"f\", \"w\"); \
     for (int i = 0; i < 2000000; i++) putc('x', f); return 0; }";

fn c_like(runtime: &'static str) -> Vec<Case> {
    let forks = "#include <unistd.h>\nint main() { for (int i = 0; i < 100; i++) { int p = fork(); if (p < 0) return 1; \
                 if (!p) { sleep(5); return 0; } } }";
    vec![
        case(
            "exit code",
            runtime,
            "int main() { return 3; }",
            "runtime_error",
        ),
        case(
            "signal",
            runtime,
            "#include <signal.h>\nint main() { raise(SIGSEGV); }",
            "signaled",
        ),
        case("file size", runtime, WRITE_TWO_MIB, "file_size_exceeded")
            .limit("file_size_bytes", MIB)
            .hits("file_size_bytes"),
        case("no output", runtime, "int main() { return 0; }", "ok"),
        case(
            "compile error",
            runtime,
            "int main() { return x; }",
            "compile_error",
        ),
        case("processes", runtime, forks, "processes_exceeded")
            .limit("processes", 8)
            .hits("processes"),
    ]
}

fn bash() -> Vec<Case> {
    vec![
        case("exit code", "bash", "exit 3", "runtime_error"),
        case("signal", "bash", "kill -SEGV $$", "signaled"),
        case("no output", "bash", ":", "ok"),
        // Bash waits and tries again when it cannot fork, until the wall limit.
        Case {
            run: json!({"limits": {"processes": 4, "wall_time_us": 1_500_000}}),
            ..case(
                "processes",
                "bash",
                "for i in 1 2 3 4 5 6 7 8; do sleep 30 & done",
                "wall_time_exceeded",
            )
        }
        .hits("processes"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_end_gets_its_verdict_in_every_runtime() {
    let fleet = Fleet::start().await;
    let cases: Vec<Case> = [
        limits("python", &PYTHON),
        limits("c", &C),
        limits("cpp", &C_PLUS_PLUS),
        limits("bash", &BASH),
        python(),
        c_like("c"),
        c_like("cpp"),
        bash(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let submissions = cases.iter().map(Case::submission).collect();
    let results = fleet.run_all(submissions).await;
    let mut wrong = Vec::new();
    for (case, result) in cases.iter().zip(&results) {
        let hit = |field: &str| {
            result["runs"][0]["limits_hit"]
                .as_array()
                .is_some_and(|hit| hit.contains(&json!(field)))
        };
        if result["verdict"] != case.verdict || case.limit_hit.is_some_and(|field| !hit(field)) {
            wrong.push(format!(
                "{} {}: expected {}, came {result:#}",
                case.runtime, case.name, case.verdict
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    fleet.stop().await;
}

const C_PLUS_PLUS: Programs = Programs {
    spin: C.spin,
    sleep: C.sleep,
    hog: "#include <vector>\nint main() { std::vector<std::vector<char>> v; for (;;) v.emplace_back(1 << 20, 'x'); }",
    flood: "#include <iostream>\nint main() { for (;;) std::cout << \"a line of output\\n\"; }",
};

#[tokio::test(flavor = "multi_thread")]
async fn input_and_output_pass_through_unchanged() {
    let fleet = Fleet::start().await;
    let long = "0123456789abcde\n".repeat(200 * 1024 / 16);
    let copy = |runtime: &str, source: &str| json!({"runtime": runtime, "files": [{"text": source}], "run": {"stdin": long}});
    let sum = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())";
    let results = fleet
        .run_all(vec![
            copy("python", "import sys; sys.stdout.write(sys.stdin.read())"),
            copy("python", sum),
            copy("c", "#include <stdio.h>\nint main() { int c; while ((c = getchar()) != EOF) putchar(c); }"),
            copy("cpp", "#include <iostream>\nint main() { std::cout << std::cin.rdbuf(); }"),
            copy("bash", "cat"),
            json!({"runtime": "python", "files": [{"text": "import sys; sys.stdout.buffer.write(bytes(range(256)))"}]}),
            json!({"runtime": "bash", "files": [{"text": "echo out; echo err >&2"}]}),
        ])
        .await;
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["verdict"], "ok", "{index}: {result:#}");
    }
    for index in [0, 2, 3, 4] {
        assert_eq!(results[index]["runs"][0]["stdout"]["text"], long, "{index}");
        assert_eq!(
            results[index]["runs"][0]["stdout"]["size_bytes"],
            long.len()
        );
    }
    let digest = envicutor::submission::names::Digest::of(long.as_bytes()).to_string();
    assert_eq!(
        format!(
            "sha256:{}",
            results[1]["runs"][0]["stdout"]["text"]
                .as_str()
                .unwrap_or_default()
                .trim()
        ),
        digest
    );
    let all_bytes: Vec<u8> = (0..=255).collect();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, all_bytes);
    assert_eq!(results[5]["runs"][0]["stdout"]["base64"], encoded);
    assert_eq!(results[6]["runs"][0]["stdout"]["text"], "out\n");
    assert_eq!(results[6]["runs"][0]["stderr"]["text"], "err\n");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_tests_run_one_build_and_are_compared() {
    let fleet = Fleet::start().await;
    let tests: Vec<Value> = (0..50)
        .map(|n| {
            let expected = if n == 17 {
                "wrong\n".to_owned()
            } else {
                format!("{}\n\n", n * n)
            };
            json!({"name": format!("t{n}"), "stdin": format!("{n}\n"), "expected": expected})
        })
        .collect();
    let square =
        "#include <stdio.h>\nint main() { int n; scanf(\"%d\", &n); printf(\"%d  \\n\", n * n); }";
    let submission = |stop| json!({"runtime": "c", "files": [{"text": square}], "tests": tests, "stop_on_failure": stop});
    let results = fleet
        .run_all(vec![submission(false), submission(true)])
        .await;

    let verdicts = |result: &Value| -> Vec<String> {
        let runs = result["runs"].as_array().cloned().unwrap_or_default();
        runs.iter()
            .map(|run| run["verdict"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(results[0]["verdict"], "wrong_answer", "{:#}", results[0]);
    let all = verdicts(&results[0]);
    assert_eq!(all.len(), 50);
    assert!(
        all.iter()
            .enumerate()
            .all(|(n, verdict)| verdict == if n == 17 { "wrong_answer" } else { "ok" }),
        "{all:?}"
    );
    let stopped = verdicts(&results[1]);
    assert!(
        stopped[18..].iter().all(|verdict| verdict == "skipped"),
        "{stopped:?}"
    );
    assert_eq!(results[0]["runs"][49]["name"], "t49");
    fleet.stop().await;
}
