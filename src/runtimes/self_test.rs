//! What a runtime must be able to do: small programs, and what has to come of them. A self-test as a submission, and what is
//! wrong with its result; whoever installs a runtime, and `envicutor runtime test`, run them.
//!
//! The invariant: a result that is judged to be right shows what the self-test is for, whoever ran it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::definition::{Problem, require};
use crate::submission::{
    compare::Compare,
    message::{EventsWanted, Submission, Test},
    names::RuntimeRef,
    output::Output,
    result::{Outcome, Run, SubmissionResult, Verdict},
};

/// How much of a program's own words a reason shows, in characters.
const SHOWN: usize = 400;

/// A program that must run in the runtime, or fail in it as it should.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    /// What it shows: `hello`.
    pub name: String,
    /// The program.
    pub source: String,
    /// More files beside it, by their paths.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Its standard input.
    #[serde(default)]
    pub stdin: String,
    /// Its standard output, compared `trimmed`; absent: whatever it writes.
    pub expected: Option<String>,
    /// What has to come of it.
    #[serde(default = "ok")]
    pub verdict: Verdict,
    /// Another compile command: `envicutor runtime test` shows what the runtime's own one gains over it. That one has to come to
    /// the same.
    pub beside: Option<Vec<String>>,
}

fn ok() -> Verdict {
    Verdict::Ok
}

impl SelfTest {
    /// Checks the `index`th of a definition, whose runtime compiles or not.
    pub(super) fn check(&self, index: usize, compiles: bool) -> Result<(), Problem> {
        let field = |name: &str| format!("tests[{index}].{name}");
        require(!self.name.is_empty(), &field("name"), "expected a name")?;
        require(
            self.expected.is_some() || self.verdict != Verdict::Ok,
            &field("expected"),
            "expected what it writes: without that only another verdict than \"ok\" shows anything",
        )?;
        require(
            !matches!(self.verdict, Verdict::Skipped | Verdict::WrongAnswer),
            &field("verdict"),
            "expected what a program can come to by itself, such as \"ok\" or \"compile_error\"",
        )?;
        require(
            compiles || self.verdict != Verdict::CompileError,
            &field("verdict"),
            "the runtime compiles nothing: expected another one, such as \"runtime_error\"",
        )?;
        require(
            compiles || self.beside.is_none(),
            &field("beside"),
            "the runtime compiles nothing: leave it out",
        )?;
        let is_command = |command: &Vec<String>| {
            command.first().is_some_and(|it| !it.is_empty())
                && command.iter().all(|part| !part.contains('\0'))
        };
        require(
            self.beside.as_ref().is_none_or(is_command),
            &field("beside"),
            "expected a program and its arguments",
        )
    }

    /// The submission that runs it in `runtime`.
    pub fn submission(&self, runtime: RuntimeRef) -> Submission {
        let mut test = Test::new(self.stdin.as_str()).named(self.name.as_str());
        // The exit of a program that is meant to fail stands before its output: [`Self::judge`] compares that.
        if let (Some(expected), Verdict::Ok) = (&self.expected, self.verdict) {
            test = test.expecting(expected.as_str());
        }
        let mut submission = Submission::new(runtime)
            .source(self.source.as_str())
            .test(test);
        for (path, content) in &self.files {
            submission = submission.file(path.as_str(), content.as_str());
        }
        submission.compare = Compare::Trimmed;
        submission.events = EventsWanted::None;
        submission
    }

    /// The same with the compile command that it has to come to the same with.
    pub fn submission_beside(&self, runtime: RuntimeRef) -> Option<Submission> {
        let mut submission = self.submission(runtime);
        submission.compile.command = Some(self.beside.clone()?);
        Some(submission)
    }

    /// What is wrong with what came of [`Self::submission`]: a line for people, in which the program's own words may stand.
    pub fn judge(&self, result: &SubmissionResult) -> Result<(), String> {
        if result.outcome != Outcome::Finished {
            return Err(not_run(result));
        }
        if result.verdict != Some(self.verdict) {
            let came = result.verdict.map_or("nothing".to_owned(), word);
            let stage = told_by(result).map_or(String::new(), story);
            return Err(format!("{came} instead of {}{stage}", word(self.verdict)));
        }
        let Some(expected) = &self.expected else {
            return Ok(());
        };
        let written = result.runs.first().map_or(&[][..], |run| &run.stdout.data);
        if Compare::Trimmed.holds(expected.as_bytes(), written) {
            Ok(())
        } else {
            Err(format!(
                "it wrote {:?} instead of {expected:?}",
                text(written)
            ))
        }
    }
}

/// Why a submission did not run.
fn not_run(result: &SubmissionResult) -> String {
    let outcome = word(result.outcome);
    let errors = result.errors.iter();
    let errors = errors.map(|error| format!("{}: {}", error.path, error.message));
    let failure = result.failure.iter().map(|failure| failure.message.clone());
    let reasons: Vec<String> = errors.chain(failure).collect();
    format!("{outcome}: {}", reasons.join("; "))
}

/// The stage whose end the verdict is.
fn told_by(result: &SubmissionResult) -> Option<&Run> {
    let compile = result.compile.as_ref();
    compile
        .filter(|compile| compile.verdict != Verdict::Ok)
        .or(result.runs.first())
}

/// How a stage ended and what it said.
fn story(run: &Run) -> String {
    let code = run.exit_code.map(|code| format!("exit code {code}"));
    let signal = run.signal.clone();
    let limits =
        (!run.limits_hit.is_empty()).then(|| format!("limits {}", run.limits_hit.join(", ")));
    let said = |name: &str, output: &Output| {
        let text = text(&output.data);
        (!text.is_empty()).then(|| format!("{name}: {text}"))
    };
    let parts = [
        code,
        signal,
        limits,
        said("stdout", &run.stdout),
        said("stderr", &run.stderr),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!(" ({})", parts.join("; "))
}

/// The beginning of an output on one line.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines.join(" / ").chars().take(SHOWN).collect()
}

/// A value as messages write it.
fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
