//! The self-tests of a runtime, each in a sandbox of its own as a submission is run: what does not pass them is not registered.

use crate::{
    config::Config,
    runtimes::{definition::Definition, self_test::SelfTest},
    submission::{
        catalogue::{Catalogue, Runtime},
        check,
        compare::Compare,
        encoding::{Encoding, EncodingError},
        names::Digest,
        plan::Plan,
        result::{Run, Verdict},
    },
    worker::trial::{Trial, TrialError},
};

/// How much of what a program wrote is shown of a test that failed, in characters.
const SHOWN: usize = 2_000;

/// A self-test that could not be run, or did not pass.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// The definition asks for what the fleet does not allow.
    #[error("the self-test {test:?} is no valid submission: {problem}")]
    Invalid {
        /// Which.
        test: String,
        /// Why.
        problem: String,
    },
    /// It came to something else.
    #[error("the self-test {test:?} came to {came:?}, expected {expected:?}{wrote}")]
    Failed {
        /// Which.
        test: String,
        /// What came of it.
        came: Verdict,
        /// What should have.
        expected: Verdict,
        /// What it wrote, and what it should have.
        wrote: String,
    },
    /// It could not be run.
    #[error("the self-test {test:?} could not be run: {source}")]
    NotRun {
        /// Which.
        test: String,
        /// Why.
        source: TrialError,
    },
}

/// Runs every self-test of `definition` with its `image`.
pub(super) async fn run(
    trial: &Trial<'_>,
    config: &Config,
    definition: &Definition,
    image: &Digest,
) -> Result<(), TestError> {
    for test in &definition.tests {
        let plan = plan(config, definition, test)?;
        let executed = trial.run(&plan, image).await;
        let executed = executed.map_err(|source| TestError::NotRun {
            test: test.name.clone(),
            source,
        })?;
        let written = executed.runs.first().map(|run| run.stdout.data.as_slice());
        let holds = |expected: &String| {
            Compare::Trimmed.holds(expected.as_bytes(), written.unwrap_or_default())
        };
        // What is meant to fail is not compared by its run: its exit stands before its output.
        if executed.verdict != test.verdict || !test.expected.as_ref().is_none_or(holds) {
            let mut runs = executed.compile.iter().chain(&executed.runs);
            return Err(TestError::Failed {
                test: test.name.clone(),
                came: executed.verdict,
                expected: test.verdict,
                wrote: runs
                    .find(|run| run.verdict != Verdict::Ok)
                    .or(executed.runs.last())
                    .map_or_else(String::new, |run| wrote(run, test)),
            });
        }
    }
    Ok(())
}

/// What a run wrote, for people.
fn wrote(run: &Run, test: &SelfTest) -> String {
    let text = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes);
        text.chars().take(SHOWN).collect()
    };
    let expected = test.expected.as_deref().unwrap_or_default();
    format!(
        ".\nExpected on its standard output: {expected:?}\nStandard output: {:?}\nStandard error:\n{}",
        text(&run.stdout.data),
        text(&run.stderr.data)
    )
}

/// The test as a submission.
fn plan(config: &Config, definition: &Definition, test: &SelfTest) -> Result<Plan, TestError> {
    let runtime = Runtime {
        default: true,
        ..definition.runtime.clone()
    };
    let catalogue = Catalogue {
        runtimes: vec![runtime],
    };
    let submission = test.submission(definition.reference());
    let unencoded = |error: EncodingError| TestError::Invalid {
        test: test.name.clone(),
        problem: error.to_string(),
    };
    let body = Encoding::Json.encode(&submission).map_err(unencoded)?;
    let ceilings = &config.ceilings.0;
    check::check(&body, None, &catalogue, ceilings).map_err(|rejected| {
        let errors = rejected.errors.iter();
        let problems: Vec<String> = errors
            .map(|error| format!("{}: {}", error.path, error.message))
            .collect();
        TestError::Invalid {
            test: test.name.clone(),
            problem: problems.join("; "),
        }
    })
}
