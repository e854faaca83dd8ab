//! The submission as a service publishes it; `wire` has how it is written. Reading one that anybody may have written is the work of [`super::check`];
//! these types are what it makes of a good one, and what the client library writes:
//!
//! ```
//! use envicutor::submission::message::{Submission, Test};
//!
//! let submission = Submission::new("python@3.11".parse()?)
//!     .file("main.py", "print(sum(map(int, input().split())))")
//!     .test(Test::new("1 2\n").named("small").expecting("3\n"))
//!     .label("course", "cs101");
//! assert_eq!(submission.tests.len(), 1);
//! # Ok::<(), envicutor::submission::names::NameError>(())
//! ```

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    archive::Archive, collect::Collect, compare::Compare, content::Content, limits::LimitChanges,
    names::RuntimeRef, units::Micros,
};

/// Code to run, and how. `docs/contract.md` has the meaning of every field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The runtime, with or without a version.
    pub runtime: RuntimeRef,
    /// A project, extracted into the work directory before `files`.
    pub archive: Option<Archive>,
    /// Files of the work directory, one or more where there is no archive.
    pub files: Vec<File>,
    /// The file that the runtime's commands name; absent is the first, and without any the runtime's source file name.
    pub entry: Option<String>,
    /// Changes to the runtime's compile stage.
    pub compile: StageChanges,
    /// Changes to the runtime's run stage.
    pub run: StageChanges,
    /// The standard input of the one run; absent where there are `tests`.
    pub stdin: Option<Content>,
    /// Each one run of the same build, in order.
    pub tests: Vec<Test>,
    /// What of the work directory is kept after the last run.
    pub collect: Option<Collect>,
    /// Whether a build that was made before may stand for the compile stage.
    pub cache: bool,
    /// How a run's output is held against what was expected.
    pub compare: Compare,
    /// Skip what follows the first run that is not ok.
    pub stop_on_failure: bool,
    /// Wall time of all stages together; absent is the fleet's default.
    pub total_time_us: Option<Micros>,
    /// After this it is not started any more; absent is never.
    pub expires_at: Option<OffsetDateTime>,
    /// Which events are published.
    pub events: EventsWanted,
    /// Echoed in every event, result and dead letter.
    pub labels: BTreeMap<String, String>,
}

/// A file of a submission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// Where in the work directory; the first file's may be absent: the runtime's source file name.
    pub path: Option<String>,
    /// What is in it.
    pub content: Content,
    /// Whether it may be executed.
    pub executable: bool,
}

/// What a submission changes of a runtime's stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageChanges {
    /// Replaces the runtime's command: an argument vector, no shell.
    pub command: Option<Vec<String>>,
    /// Follow the command.
    pub args: Vec<String>,
    /// Added to the runtime's environment.
    pub env: BTreeMap<String, String>,
    /// Replace single defaults.
    pub limits: LimitChanges,
}

/// One run of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Test {
    /// Echoed in its run of the result.
    pub name: Option<String>,
    /// Its standard input.
    pub stdin: Content,
    /// Follow the command and `run.args`.
    pub args: Vec<String>,
    /// What it should write to its standard output; absent is not compared.
    pub expected: Option<Content>,
    /// Replace single limits of `run`.
    pub limits: LimitChanges,
}

/// Which events a submission wants.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum EventsWanted {
    /// Only `started`, which the delivery protocol needs.
    None,
    /// Also when a stage starts and ends.
    #[default]
    Stages,
    /// Also output while it appears.
    Output,
}

impl Submission {
    /// A submission to `runtime`, without files yet; everything else is the runtime's and the fleet's default. The fields
    /// are open: set what has no method here.
    pub fn new(runtime: RuntimeRef) -> Self {
        Self {
            runtime,
            archive: None,
            files: Vec::new(),
            entry: None,
            compile: StageChanges::default(),
            run: StageChanges::default(),
            stdin: None,
            tests: Vec::new(),
            collect: None,
            cache: true,
            compare: Compare::default(),
            stop_on_failure: false,
            total_time_us: None,
            expires_at: None,
            events: EventsWanted::default(),
            labels: BTreeMap::new(),
        }
    }

    /// With a file that has the runtime's source file name. It must be the first file.
    #[must_use]
    pub fn source(mut self, content: impl Into<Content>) -> Self {
        self.files.push(File {
            path: None,
            content: content.into(),
            executable: false,
        });
        self
    }

    /// With a file at `path` in the work directory. The first file is what runs, unless `entry` names another.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        self.files.push(File {
            path: Some(path.into()),
            content: content.into(),
            executable: false,
        });
        self
    }

    /// With a project: a directory of this machine, which is packed when it is submitted, or an archive by its name (`.zip`,
    /// `.tar`, `.tar.gz`, `.tar.zst`). Name the file that runs with [`entry`](Self::entry), unless it has the runtime's source
    /// file name.
    #[must_use]
    pub fn project(mut self, path: impl Into<PathBuf>) -> Self {
        self.archive = Some(Archive::from_path(path));
        self
    }

    /// With what the file at `from` of this machine holds at `path` in the work directory. It is read when it is submitted, in
    /// pieces: it may be large.
    #[must_use]
    pub fn file_from(self, path: impl Into<String>, from: impl Into<PathBuf>) -> Self {
        self.file(path, Content::from_path(from))
    }

    /// With the file that the runtime's commands name.
    #[must_use]
    pub fn entry(mut self, path: impl Into<String>) -> Self {
        self.entry = Some(path.into());
        self
    }

    /// With files that a glob finds in the work directory after the last run: they come back with the result.
    #[must_use]
    pub fn collect(mut self, glob: impl Into<String>) -> Self {
        let collect = self.collect.get_or_insert_default();
        collect.paths.push(glob.into());
        self
    }

    /// Every content that it holds, wherever: the archive's, the files', the standard inputs and the expected outputs.
    pub fn contents(&self) -> impl Iterator<Item = &Content> {
        let archive = self.archive.iter().map(|archive| &archive.content);
        let files = self.files.iter().map(|file| &file.content);
        let tests = self.tests.iter();
        let tests = tests.flat_map(|test| test.expected.iter().chain([&test.stdin]));
        archive.chain(files).chain(&self.stdin).chain(tests)
    }

    /// The same, to be changed.
    pub fn contents_mut(&mut self) -> impl Iterator<Item = &mut Content> {
        let archive = self.archive.iter_mut().map(|archive| &mut archive.content);
        let files = self.files.iter_mut().map(|file| &mut file.content);
        let tests = self.tests.iter_mut();
        let tests = tests.flat_map(|test| test.expected.iter_mut().chain([&mut test.stdin]));
        archive.chain(files).chain(&mut self.stdin).chain(tests)
    }

    /// With `stdin` as the standard input of its one run.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Content>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// With one more run of the same build.
    #[must_use]
    pub fn test(mut self, test: Test) -> Self {
        self.tests.push(test);
        self
    }

    /// With the instant after which it is not started any more: its result is `expired` then.
    #[must_use]
    pub fn expires_at(mut self, instant: OffsetDateTime) -> Self {
        self.expires_at = Some(instant);
        self
    }

    /// With a pair that every event, the result and a dead letter echo.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }
}

impl Test {
    /// A run with `stdin` as its standard input.
    pub fn new(stdin: impl Into<Content>) -> Self {
        Self {
            stdin: stdin.into(),
            ..Self::default()
        }
    }

    /// With the name that its run of the result has.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// With what it should write to its standard output.
    #[must_use]
    pub fn expecting(mut self, expected: impl Into<Content>) -> Self {
        self.expected = Some(expected.into());
        self
    }
}
