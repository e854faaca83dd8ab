//! A result for people: verdict, exit code or signal, CPU time, wall time, peak memory; for each test a line. What the
//! program wrote is not part of it.

use std::fmt::Write as _;

use serde::Serialize;

use super::terminal::escape_line;
use crate::submission::{
    result::{Outcome, Run, SubmissionResult, Verdict},
    units::{ByteSize, Micros},
};

/// Collected files that are listed.
const MOST_FILES: usize = 20;

/// What is ok.
const GREEN: &str = "\x1b[32m";
/// What is not.
const RED: &str = "\x1b[31m";
/// Back to plain.
const PLAIN: &str = "\x1b[0m";

/// A value's word in the messages: `wrong_answer`.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

/// The lines that tell what came of a submission.
pub fn report(result: &SubmissionResult, has_colors: bool) -> String {
    let mut report = Report {
        text: String::new(),
        has_colors,
    };
    match result.outcome {
        Outcome::Finished => report.finished(result),
        Outcome::Rejected => report.rejected(result),
        Outcome::Failed => report.failed(result),
        outcome @ (Outcome::Cancelled | Outcome::Expired) => {
            report.line("outcome", &report.colored(&word(&outcome), false));
        }
    }
    if result.generation > 0 {
        report.line("generation", &result.generation.to_string());
    }
    report.text
}

/// The report as far as it is written.
struct Report {
    text: String,
    has_colors: bool,
}

impl Report {
    fn line(&mut self, label: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{label:<10} {value}");
    }

    fn colored(&self, text: &str, is_ok: bool) -> String {
        match (self.has_colors, is_ok) {
            (false, _) => text.to_owned(),
            (true, true) => format!("{GREEN}{text}{PLAIN}"),
            (true, false) => format!("{RED}{text}{PLAIN}"),
        }
    }

    fn verdict(&self, verdict: Verdict, width: usize) -> String {
        let padded = format!("{:<width$}", word(&verdict));
        self.colored(&padded, verdict == Verdict::Ok)
    }

    fn finished(&mut self, result: &SubmissionResult) {
        if let Some(verdict) = result.verdict {
            self.line("verdict", &self.verdict(verdict, 0));
        }
        if let Some(runtime) = &result.runtime {
            self.line("runtime", &runtime.to_string());
        }
        if let Some(compile) = &result.compile {
            let cached = if compile.cached == Some(true) {
                "  cached"
            } else {
                ""
            };
            let line = in_one_line(compile, &word(&compile.verdict));
            self.line("compile", &format!("{line}{cached}"));
        }
        match result.runs.as_slice() {
            [run] if run.name.is_none() => self.single(run),
            runs => self.tests(runs),
        }
        self.collected(result);
    }

    fn collected(&mut self, result: &SubmissionResult) {
        let files = &result.collected;
        if !files.is_empty() {
            let bytes = files.iter().map(|file| file.size_bytes.0).sum();
            self.line(
                "collected",
                &format!("{} files, {}", files.len(), ByteSize(bytes)),
            );
        }
        for file in files.iter().take(MOST_FILES) {
            let _ = writeln!(
                self.text,
                "  {}  {}",
                escape_line(&file.path),
                file.size_bytes
            );
        }
        if files.len() > MOST_FILES {
            let _ = writeln!(self.text, "  and {} more", files.len() - MOST_FILES);
        }
        for error in &result.collect_errors {
            let message = escape_line(&error.message);
            let _ = match error.path.as_str() {
                "" => writeln!(self.text, "  not kept: {message}"),
                path => writeln!(self.text, "  not kept: {}: {message}", escape_line(path)),
            };
        }
    }

    fn single(&mut self, run: &Run) {
        if run.verdict == Verdict::Skipped {
            return;
        }
        let (label, value) = ending(run);
        self.line(label, &value);
        self.line("cpu time", &cpu_time(run).to_string());
        self.line("wall time", &run.wall_us.to_string());
        self.line("memory", &run.memory_peak_bytes.to_string());
        if !run.limits_hit.is_empty() {
            self.line("limits hit", &escape_line(&run.limits_hit.join(", ")));
        }
    }

    fn tests(&mut self, runs: &[Run]) {
        let ok = runs.iter().filter(|run| run.verdict == Verdict::Ok).count();
        self.line("tests", &format!("{ok} of {} ok", runs.len()));
        let names: Vec<String> = runs
            .iter()
            .map(|run| escape_line(run.name.as_deref().unwrap_or_default()))
            .collect();
        let name_width = names.iter().map(|name| name.chars().count()).max();
        let name_width = name_width.unwrap_or_default();
        let verdicts = runs.iter().map(|run| word(&run.verdict).len());
        let width = verdicts.max().unwrap_or_default();
        for (number, (run, name)) in runs.iter().zip(&names).enumerate() {
            let verdict = self.verdict(run.verdict, width);
            let numbers = if run.verdict == Verdict::Skipped {
                verdict
            } else {
                in_one_line(run, &verdict)
            };
            let _ = writeln!(
                self.text,
                "{:>5}  {name:<name_width$}  {numbers}",
                number + 1
            );
        }
    }

    fn rejected(&mut self, result: &SubmissionResult) {
        self.line("outcome", &self.colored("rejected", false));
        for error in &result.errors {
            let message = escape_line(&error.message);
            let _ = match error.path.as_str() {
                "" => writeln!(self.text, "  {message}"),
                path => writeln!(self.text, "  {}: {message}", escape_line(path)),
            };
        }
    }

    fn failed(&mut self, result: &SubmissionResult) {
        self.line("outcome", &self.colored("failed", false));
        if let Some(failure) = &result.failure {
            self.line("code", &word(&failure.code));
            self.line("message", &escape_line(&failure.message));
            self.line("stage", &escape_line(&failure.stage));
            self.line("attempts", &failure.attempts.to_string());
        }
    }
}

/// Exit code or signal.
fn ending(run: &Run) -> (&'static str, String) {
    match (&run.signal, run.exit_code) {
        (Some(signal), _) => ("signal", escape_line(signal)),
        (None, Some(code)) => ("exit code", code.to_string()),
        (None, None) => ("exit code", "none".to_owned()),
    }
}

fn in_one_line(run: &Run, verdict: &str) -> String {
    let (label, value) = ending(run);
    format!(
        "{verdict}  {label} {value}  cpu {}  wall {}  memory {}",
        cpu_time(run),
        run.wall_us,
        run.memory_peak_bytes
    )
}

fn cpu_time(run: &Run) -> Micros {
    Micros(run.cpu_user_us.0.saturating_add(run.cpu_system_us.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::encoding::Encoding;

    fn result(changes: &serde_json::Value) -> SubmissionResult {
        let mut result = serde_json::json!({
            "tenant": "default", "id": "a1", "generation": 0, "attempt": 1, "outcome": "finished", "verdict": "ok",
            "runtime": "python@3.11", "image": null, "isolation": "container", "start": "cold", "worker": "w", "compile": null,
            "submission_digest": format!("sha256:{}", "0".repeat(64)), "runs": [], "errors": [], "failure": null,
            "published_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:00Z",
            "finished_at": "2026-01-01T00:00:00Z", "queued_us": 0, "labels": {},
        });
        for (key, value) in changes.as_object().expect("an object") {
            result[key] = value.clone();
        }
        Encoding::Json
            .decode(result.to_string().as_bytes())
            .expect("a result")
    }

    fn run(name: Option<&str>, verdict: &str) -> serde_json::Value {
        let output =
            serde_json::json!({"text": "", "size_bytes": 0, "truncated": false, "blob": null});
        serde_json::json!({
            "name": name, "verdict": verdict, "exit_code": 0, "signal": null, "limits_hit": [], "cpu_user_us": 8000,
            "cpu_system_us": 2000, "wall_us": 11000, "memory_peak_bytes": 9_437_184, "memory_from": "cgroup",
            "processes_peak": 1, "stdout": output, "stderr": output,
        })
    }

    #[test]
    fn one_run_shows_its_numbers() {
        let shown = report(
            &result(&serde_json::json!({"runs": [run(None, "ok")]})),
            false,
        );
        for line in [
            "verdict    ok",
            "exit code  0",
            "cpu time   10 ms",
            "wall time  11 ms",
            "memory     9 MiB",
        ] {
            assert!(
                shown.lines().any(|shown| shown == line),
                "{line} in\n{shown}"
            );
        }
    }

    #[test]
    fn each_test_has_a_line() {
        let runs = [
            run(Some("small"), "ok"),
            run(Some("b\x1big\n"), "wrong_answer"),
        ];
        let result = result(&serde_json::json!({"verdict": "wrong_answer", "runs": runs}));
        let shown = report(&result, false);
        assert!(shown.contains("1 of 2 ok"), "{shown}");
        assert!(
            shown.contains("small      ok            exit code 0"),
            "{shown}"
        );
        assert!(shown.contains("b\\x1big\\n  wrong_answer"), "{shown}");
        assert!(!shown.contains('\x1b'), "{shown}");
        assert!(report(&result, true).contains("\x1b[32m"));
    }

    #[test]
    fn a_rejected_one_shows_every_error() {
        let errors = [
            serde_json::json!({"path": "runtime", "message": "required"}),
            serde_json::json!({"path": "", "message": "no JSON"}),
        ];
        let result =
            result(&serde_json::json!({"outcome": "rejected", "verdict": null, "errors": errors}));
        let shown = report(&result, false);
        assert!(shown.contains("runtime: required\n  no JSON"), "{shown}");
    }
}
