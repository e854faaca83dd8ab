//! An attack: a submission, and what must come of it.

use serde_json::{Value, json};

use crate::{bed::slowly_us, isolation::Isolation, report::Expected};

/// What every program may include, by runtime.
const REPORT_H: (&str, &str) = ("report.h", include_str!("lib/report.h"));
const REPORT_PY: (&str, &str) = ("report.py", include_str!("lib/report.py"));

/// What is wrong with a result.
pub type Check = fn(&Value) -> Option<String>;

/// A hostile submission.
pub struct Attack {
    name: String,
    submission: Value,
    /// Of the submission.
    verdict: &'static str,
    hits: Vec<&'static str>,
    /// What its build reports, where it has one of its own.
    of_build: Expected,
    /// What each run reports.
    of_runs: Expected,
    check: Option<Check>,
    /// It is rejected for its archive, with a message that holds this.
    refusal: Option<&'static str>,
}

/// A C program, its file's `name` and what is in it.
pub fn c(name: &str, source: &str) -> Attack {
    Attack::new(name, "c", source).with(REPORT_H)
}

/// A C++ program.
pub fn cpp(name: &str, source: &str) -> Attack {
    Attack::new(name, "cpp", source)
}

/// A Python program.
pub fn python(name: &str, source: &str) -> Attack {
    Attack::new(name, "python", source).with(REPORT_PY)
}

/// A Bash program.
pub fn bash(name: &str, source: &str) -> Attack {
    Attack::new(name, "bash", source)
}

impl Attack {
    fn new(name: &str, runtime: &str, source: &str) -> Self {
        Self {
            name: name.to_owned(),
            submission: json!({
                "runtime": runtime,
                "files": [{"text": source}],
                "compile": {"limits": {"cpu_time_us": slowly_us(20_000_000), "wall_time_us": slowly_us(30_000_000)}},
                "run": {"limits": {"cpu_time_us": slowly_us(5_000_000), "wall_time_us": slowly_us(10_000_000)}},
            }),
            verdict: "ok",
            hits: Vec::new(),
            of_build: Expected::default(),
            of_runs: Expected::default(),
            check: None,
            refusal: None,
        }
        .without_idle_compile(runtime)
    }

    /// A runtime that compiles nothing has no such stage, unless it is given a command.
    fn without_idle_compile(mut self, runtime: &str) -> Self {
        if matches!(runtime, "python" | "bash") {
            self.submission["compile"] = Value::Null;
        }
        self
    }

    /// The name of its file, and what tells it from others of the same file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is to be made: `ENVICUTOR_TEST_ATTACKS` is unset or names it.
    pub fn is_wanted(&self) -> bool {
        let is_named = |names: String| names.split(',').any(|name| self.name.contains(name));
        std::env::var("ENVICUTOR_TEST_ATTACKS").map_or(true, is_named)
    }

    /// As it is published.
    pub fn submission(&self) -> Value {
        self.submission.clone()
    }

    /// With one more file.
    pub fn with(mut self, (path, text): (&str, &str)) -> Self {
        let files = self.submission["files"].as_array_mut().expect("files");
        files.push(json!({"path": path, "text": text}));
        self
    }

    /// With an argument of the run.
    pub fn arg(mut self, arg: &str) -> Self {
        self.name = format!("{} {arg}", self.name);
        self.submission["run"]["args"] = json!([arg]);
        self
    }

    /// With arguments for the compiler.
    pub fn compiled_with(mut self, args: &[&str]) -> Self {
        self.submission["compile"]["args"] = json!(args);
        self
    }

    /// With a compile stage of its own.
    pub fn built_by(mut self, command: &[&str]) -> Self {
        let limits =
            json!({"cpu_time_us": slowly_us(10_000_000), "wall_time_us": slowly_us(20_000_000)});
        self.submission["compile"] = json!({"command": command, "limits": limits});
        self
    }

    /// With another command for its run.
    pub fn run_by(mut self, command: &[&str]) -> Self {
        self.submission["run"]["command"] = json!(command);
        self
    }

    /// With so many runs, each of which must report the same.
    pub fn times(mut self, count: usize) -> Self {
        self.submission["tests"] = json!(vec![json!({}); count]);
        self
    }

    /// With standard input.
    pub fn stdin(mut self, stdin: &str) -> Self {
        self.submission["run"]["stdin"] = json!(stdin);
        self
    }

    /// With events of this kind.
    pub fn events(mut self, kind: &str) -> Self {
        self.submission["events"] = json!(kind);
        self
    }

    /// With a limit of its run; times are a usual machine's.
    pub fn limit(self, field: &str, value: u64) -> Self {
        self.limit_of("run", field, value)
    }

    /// With a limit of a stage.
    pub fn limit_of(mut self, stage: &str, field: &str, value: u64) -> Self {
        let value = if field.ends_with("_us") {
            slowly_us(value)
        } else {
            value
        };
        self.submission[stage]["limits"][field] = json!(value);
        self
    }

    /// It ends with this verdict under both isolations; else with `ok`.
    pub fn ends(mut self, verdict: &'static str) -> Self {
        self.verdict = verdict;
        self
    }

    /// It touches this limit.
    pub fn hits(mut self, field: &'static str) -> Self {
        self.hits.push(field);
        self
    }

    /// Its program reports `result` of each of `whats`.
    pub fn sees(mut self, result: &str, whats: &[impl AsRef<str>]) -> Self {
        for what in whats {
            self.of_runs.add(None, what.as_ref(), result);
        }
        self
    }

    /// The same under this isolation alone, where what was said for both does not hold.
    pub fn sees_under(
        mut self,
        isolation: Isolation,
        result: &str,
        whats: &[impl AsRef<str>],
    ) -> Self {
        for what in whats {
            self.of_runs.add(Some(isolation), what.as_ref(), result);
        }
        self
    }

    /// Its build reports `result` of each of `whats` under this isolation.
    pub fn build_sees_under(mut self, isolation: Isolation, result: &str, whats: &[&str]) -> Self {
        for what in whats {
            self.of_build.add(Some(isolation), what, result);
        }
        self
    }

    /// Its build reports `result` of each of `whats`.
    pub fn build_sees(mut self, result: &str, whats: &[&str]) -> Self {
        for what in whats {
            self.of_build.add(None, what, result);
        }
        self
    }

    /// With files of its work directory collected after it.
    pub fn collecting(mut self, patterns: &[&str]) -> Self {
        self.submission["collect"] = json!({"paths": patterns, "max_files": 4, "max_bytes": 4096});
        self
    }

    /// With an archive, for which it is rejected, with a message that holds `reason`.
    pub fn refused(mut self, format: &str, archive: &[u8], reason: &'static str) -> Self {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(archive);
        self.submission["archive"] = json!({"format": format, "base64": data});
        self.refusal = Some(reason);
        self
    }

    /// Something else must hold of its result.
    pub fn checked(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// What is wrong with its result.
    pub fn judge(&self, isolation: Isolation, result: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(reason) = self.refusal {
            let error = &result["errors"][0];
            let message = error["message"].as_str().unwrap_or_default();
            if result["outcome"] != "rejected"
                || error["path"] != "archive"
                || !message.contains(reason)
            {
                wrong.push(format!(
                    "expected a refusal for {reason:?}, came {result:#}"
                ));
            }
            return wrong;
        }
        let verdict = self.verdict;
        let ended = result["verdict"].as_str().unwrap_or_default();
        if result["outcome"] != "finished" || verdict != ended {
            wrong.push(format!("expected the verdict {verdict}, came {result:#}"));
        }
        if result["isolation"] != isolation.name() || result["attempt"] != 1 {
            wrong.push(format!(
                "not the first attempt under {isolation:?}: {result:#}"
            ));
        }
        for field in &self.hits {
            let hit = stages(result).any(|stage| {
                let hit = stage["limits_hit"].as_array();
                hit.is_some_and(|hit| hit.contains(&json!(field)))
            });
            if !hit {
                wrong.push(format!("did not hit {field}: {result:#}"));
            }
        }
        wrong.extend(self.check.and_then(|check| check(result)));
        for (expected, stage) in self.reported(result) {
            if !expected.is_empty() {
                wrong.extend(expected.differences(isolation, report_of(stage)));
            }
        }
        wrong
    }

    /// Each stage with what it should have reported.
    fn reported<'a>(
        &'a self,
        result: &'a Value,
    ) -> impl Iterator<Item = (&'a Expected, &'a Value)> {
        let of_runs = std::iter::repeat(&self.of_runs);
        std::iter::once(&self.of_build)
            .chain(of_runs)
            .zip(stages(result))
    }
}

/// What a submission's programs reported, for people.
pub fn told(result: &Value) -> String {
    let reports: Vec<_> = stages(result).map(report_of).collect();
    reports.join("--\n").chars().take(5_000).collect()
}

/// What a stage wrote.
fn report_of(stage: &Value) -> &str {
    let stdout = &stage["stdout"];
    stdout["text"].as_str().unwrap_or_default()
}

/// The compile stage and the runs of a result.
pub fn stages(result: &Value) -> impl Iterator<Item = &Value> {
    let runs = result["runs"].as_array().into_iter().flatten();
    std::iter::once(&result["compile"]).chain(runs)
}
