//! The submission's shape: every field read, every rule that one field can break checked. What depends on several fields
//! or on the runtime is the work of `resolve`.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::{
    contents::CONTENTS,
    errors::{Path, cut},
    fields::{Walk, take},
    layout::path_problem,
    value::{Map, Value},
};
use crate::submission::{
    archive::Archive,
    collect::Collect,
    compare::Compare,
    content::Content,
    limits::{LimitChanges, Limits},
    message::{EventsWanted, File, StageChanges, Submission, Test},
    names::{NameError, RuntimeRef},
    units::{ByteSize, Micros},
};

/// Pairs that a submission may carry.
const MOST_LABELS: usize = 16;
/// Characters of a label's key.
const MOST_LABEL_KEY: usize = 64;
/// Characters of a label's value.
const MOST_LABEL_VALUE: usize = 256;
/// Characters of a test's name.
const MOST_TEST_NAME: usize = 256;

/// What a submission holds, as far as it could be read. Where the walk found no error, all of it.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) runtime: Option<RuntimeRef>,
    pub(super) archive: Option<Archive>,
    /// One whose path is wrong has none.
    pub(super) files: Vec<File>,
    /// The first file's path was left out.
    pub(super) first_unnamed: bool,
    pub(super) entry: Option<String>,
    pub(super) compile: StageChanges,
    pub(super) run: StageChanges,
    pub(super) stdin: Option<Content>,
    pub(super) tests: Vec<Test>,
    pub(super) collect: Option<Collect>,
    pub(super) no_cache: bool,
    pub(super) compare: Compare,
    pub(super) stop_on_failure: bool,
    pub(super) total_time_us: Option<Micros>,
    pub(super) expires_at: Option<OffsetDateTime>,
    pub(super) events: EventsWanted,
    pub(super) labels: BTreeMap<String, String>,
}

impl Draft {
    /// The submission, where its runtime could be read.
    pub(super) fn submission(self) -> Option<Submission> {
        Some(Submission {
            runtime: self.runtime?,
            archive: self.archive,
            files: self.files,
            entry: self.entry,
            compile: self.compile,
            run: self.run,
            stdin: self.stdin,
            tests: self.tests,
            collect: self.collect,
            cache: !self.no_cache,
            compare: self.compare,
            stop_on_failure: self.stop_on_failure,
            total_time_us: self.total_time_us,
            expires_at: self.expires_at,
            events: self.events,
            labels: self.labels,
        })
    }
}

impl Walk<'_> {
    /// The body's tree as a submission.
    pub(super) fn submission(&mut self, body: Value) -> Draft {
        const FIELDS: [&str; 15] = [
            "runtime",
            "archive",
            "files",
            "entry",
            "compile",
            "run",
            "tests",
            "collect",
            "cache",
            "compare",
            "stop_on_failure",
            "total_time_us",
            "expires_at",
            "events",
            "labels",
        ];
        let root = Path::Root;
        let Some(mut fields) = self.object(body, &root, &FIELDS) else {
            return Draft::default();
        };
        let mut field = |name| take(&mut fields, name);
        let compare = self.word(field("compare"), &root.field("compare"));
        let stop_on_failure = self.flag(field("stop_on_failure"), &root.field("stop_on_failure"));
        let cache = self.flag(field("cache"), &root.field("cache"));
        let events = self.word(field("events"), &root.field("events"));
        let entry = self.text(field("entry"), &root.field("entry"));
        let labels = self.labels(field("labels"), &root.field("labels"));
        let expires_at = self.instant(field("expires_at"), &root.field("expires_at"));
        let runtime = self.runtime(field("runtime"), &root.field("runtime"));
        let archive = field("archive");
        let may_be_alone = archive.is_some();
        let archive = self.archive(archive, &root.field("archive"));
        let files = root.field("files");
        let (files, first_unnamed) = self.files(field("files"), &files, may_be_alone);
        let (compile, _) = self.stage(field("compile"), &root.field("compile"), false);
        let (run, stdin) = self.stage(field("run"), &root.field("run"), true);
        let tests = self.tests(field("tests"), &root.field("tests"));
        let collect = self.collect(field("collect"), &root.field("collect"));
        if stdin.is_some() && !tests.is_empty() {
            let message = "expected nothing where there are tests: each has its own stdin";
            self.errors.add(&root.field("run").field("stdin"), message);
        }
        let most = self.ceilings.map(|ceilings| ceilings.total_time_us);
        let total_time_us = self.limit(&mut fields, &root, "total_time_us", Micros, most);
        Draft {
            runtime,
            archive,
            files,
            first_unnamed,
            entry,
            compile,
            run,
            stdin,
            tests,
            collect,
            no_cache: cache == Some(false),
            compare: compare.unwrap_or_default(),
            stop_on_failure: stop_on_failure.unwrap_or_default(),
            total_time_us,
            expires_at,
            events: events.unwrap_or_default(),
            labels,
        }
    }

    fn runtime(&mut self, value: Option<Value>, path: &Path<'_>) -> Option<RuntimeRef> {
        if value.is_none() {
            let message = "it is missing: expected a runtime such as \"python\" or \"python@3.11\"";
            self.errors.add(path, message);
        }
        let text = self.text(value, path)?;
        self.named(text.parse(), path)
    }

    /// A name that was parsed, or its error noted.
    pub(super) fn named<T>(&mut self, parsed: Result<T, NameError>, path: &Path<'_>) -> Option<T> {
        parsed
            .map_err(|error| self.errors.add(path, error.to_string()))
            .ok()
    }

    /// The files, and whether the first one's path was left out. `may_be_none`: there is an archive.
    fn files(
        &mut self,
        value: Option<Value>,
        path: &Path<'_>,
        may_be_none: bool,
    ) -> (Vec<File>, bool) {
        let missing = value.is_none();
        let Some(items) = self.list(value, path) else {
            if missing && !may_be_none {
                let message = "it is missing: expected one file or more, or an archive";
                self.errors.add(path, message);
            }
            return (Vec::new(), false);
        };
        if items.is_empty() && !may_be_none {
            let message = "expected one file or more, or an archive, got none";
            self.errors.add(path, message);
        }
        self.count(items.len(), self.ceilings.map(|c| c.files), "files", path);
        let first_unnamed = match items.first() {
            Some(Value::Map(fields)) => matches!(fields.get("path"), None | Some(Value::Null)),
            _ => false,
        };
        let items = items.into_iter().enumerate();
        let files = items.map(|(index, item)| self.file(item, index, &path.item(index)));
        (files.collect(), first_unnamed)
    }

    /// A file; one that is wrong leaves its place, without a path.
    fn file(&mut self, value: Value, index: usize, path: &Path<'_>) -> File {
        const FIELDS: [&str; 6] = ["path", "text", "base64", "bytes", "blob", "executable"];
        let Some(mut fields) = self.object(value, path, &FIELDS) else {
            return File::default();
        };
        let at = path.field("path");
        let given = take(&mut fields, "path");
        if given.is_none() && index > 0 {
            let message = "it is missing: only the first file's path may be left out";
            self.errors.add(&at, message);
        }
        let name = self.text(given, &at);
        let problem = name.as_deref().and_then(path_problem);
        if let Some(problem) = &problem {
            self.errors.add(&at, problem.as_str());
        }
        let executable = self.flag(take(&mut fields, "executable"), &path.field("executable"));
        File {
            path: name.filter(|_| problem.is_none()),
            content: self.content_of(fields, &CONTENTS, path).unwrap_or_default(),
            executable: executable.unwrap_or_default(),
        }
    }

    fn stage(
        &mut self,
        value: Option<Value>,
        path: &Path<'_>,
        has_stdin: bool,
    ) -> (StageChanges, Option<Content>) {
        const FIELDS: [&str; 5] = ["command", "args", "env", "limits", "stdin"];
        let known = if has_stdin { &FIELDS[..] } else { &FIELDS[..4] };
        let Some(mut fields) = value.and_then(|value| self.object(value, path, known)) else {
            return Default::default();
        };
        let at = path.field("command");
        let command = self.arguments(take(&mut fields, "command"), &at);
        if command.as_ref().is_some_and(Vec::is_empty) {
            self.errors
                .add(&at, "expected one argument or more, got none");
        }
        let args = self.arguments(take(&mut fields, "args"), &path.field("args"));
        let changes = StageChanges {
            command,
            args: args.unwrap_or_default(),
            env: self.environment(take(&mut fields, "env"), &path.field("env")),
            limits: self.limits(take(&mut fields, "limits"), &path.field("limits")),
        };
        let stdin = self.content(take(&mut fields, "stdin"), &path.field("stdin"));
        (changes, stdin)
    }

    fn environment(&mut self, value: Option<Value>, path: &Path<'_>) -> BTreeMap<String, String> {
        let pairs = self.pairs(value, path);
        for (name, value) in &pairs {
            let path = path.field(name);
            self.refuse_nul(name, &path);
            self.refuse_nul(value, &path);
            if name.is_empty() || name.contains('=') {
                let message = format!(
                    "{:?} is no variable's name: expected one or more characters, no \"=\"",
                    cut(name)
                );
                self.errors.add(&path, message);
            }
            if name == "HOME" {
                let message = format!(
                    "it is always {:?}, the work directory",
                    envicutor_protocol::WORK_DIR
                );
                self.errors.add(&path, message);
            }
        }
        pairs
    }

    fn tests(&mut self, value: Option<Value>, path: &Path<'_>) -> Vec<Test> {
        let Some(items) = self.list(value, path) else {
            return Vec::new();
        };
        self.count(items.len(), self.ceilings.map(|c| c.tests), "tests", path);
        let items = items.into_iter().enumerate();
        items
            .map(|(index, item)| self.test(item, &path.item(index)))
            .collect()
    }

    fn test(&mut self, value: Value, path: &Path<'_>) -> Test {
        const FIELDS: [&str; 5] = ["name", "stdin", "args", "expected", "limits"];
        let Some(mut fields) = self.object(value, path, &FIELDS) else {
            return Test::default();
        };
        let name = self.text(take(&mut fields, "name"), &path.field("name"));
        if let Some(name) = &name {
            self.echoed(name, MOST_TEST_NAME, &path.field("name"));
        }
        let stdin = self.content(take(&mut fields, "stdin"), &path.field("stdin"));
        let args = self.arguments(take(&mut fields, "args"), &path.field("args"));
        Test {
            name,
            stdin: stdin.unwrap_or_default(),
            args: args.unwrap_or_default(),
            expected: self.content(take(&mut fields, "expected"), &path.field("expected")),
            limits: self.limits(take(&mut fields, "limits"), &path.field("limits")),
        }
    }

    /// The labels that follow the rules: a rejected submission's are echoed too.
    fn labels(&mut self, value: Option<Value>, path: &Path<'_>) -> BTreeMap<String, String> {
        let mut pairs = self.pairs(value, path);
        if pairs.len() > MOST_LABELS {
            let message = format!("{} labels are more than {MOST_LABELS}", pairs.len());
            self.errors.add(path, message);
        }
        pairs.retain(|key, value| {
            let path = path.field(key);
            if key.is_empty() {
                self.errors
                    .add(&path, "expected a key of one or more characters");
            }
            let key_holds = self.echoed(key, MOST_LABEL_KEY, &path);
            self.echoed(value, MOST_LABEL_VALUE, &path) && key_holds && !key.is_empty()
        });
        pairs.into_iter().take(MOST_LABELS).collect()
    }

    fn limits(&mut self, value: Option<Value>, path: &Path<'_>) -> LimitChanges {
        let known = &LimitChanges::FIELDS;
        let Some(mut fields) = value.and_then(|value| self.object(value, path, known)) else {
            return LimitChanges::default();
        };
        let most: Option<&Limits> = self.ceilings.map(|ceilings| &ceilings.limits);
        let mut micros = |name, most| self.limit(&mut fields, path, name, Micros, most);
        let cpu_time_us = micros("cpu_time_us", most.map(|most| most.cpu_time_us));
        let wall_time_us = micros("wall_time_us", most.map(|most| most.wall_time_us));
        let extra = most.map(|most| most.extra_time_us);
        let extra_time_us = self.quantity(&mut fields, path, "extra_time_us", Micros, extra);
        let mut size = |name, most| self.limit(&mut fields, path, name, ByteSize, most);
        let memory_bytes = size("memory_bytes", most.map(|most| most.memory_bytes));
        let stack_bytes = size("stack_bytes", most.map(|most| most.stack_bytes));
        let file_size_bytes = size("file_size_bytes", most.map(|most| most.file_size_bytes));
        let disk_bytes = size("disk_bytes", most.map(|most| most.disk_bytes));
        let output_bytes = size("output_bytes", most.map(|most| most.output_bytes));
        let mut number = |name, most| self.limit(&mut fields, path, name, |number| number, most);
        LimitChanges {
            cpu_time_us,
            extra_time_us,
            wall_time_us,
            memory_bytes,
            stack_bytes,
            processes: number("processes", most.map(|most| most.processes)),
            open_files: number("open_files", most.map(|most| most.open_files)),
            file_size_bytes,
            disk_bytes,
            inodes: number("inodes", most.map(|most| most.inodes)),
            output_bytes,
        }
    }

    /// A limit that may not be zero.
    pub(super) fn limit<T: Copy + Ord + std::fmt::Display>(
        &mut self,
        fields: &mut Map,
        path: &Path<'_>,
        name: &str,
        unit: fn(u64) -> T,
        most: Option<T>,
    ) -> Option<T> {
        let value = self.quantity(fields, path, name, unit, most)?;
        if value == unit(0) {
            self.errors
                .add(&path.field(name), "zero is no limit: expected 1 or more");
        }
        Some(value)
    }

    /// A number of a unit, held against the fleet's ceiling.
    pub(super) fn quantity<T: Copy + Ord + std::fmt::Display>(
        &mut self,
        fields: &mut Map,
        path: &Path<'_>,
        name: &str,
        unit: fn(u64) -> T,
        most: Option<T>,
    ) -> Option<T> {
        let path = path.field(name);
        let value = unit(self.integer(take(fields, name), &path)?);
        if let Some(most) = most.filter(|most| value > *most) {
            let message = format!("{value} is over this fleet's ceiling of {most}");
            self.errors.add(&path, message);
        }
        Some(value)
    }

    pub(super) fn count(&mut self, count: usize, most: Option<usize>, what: &str, path: &Path<'_>) {
        if let Some(most) = most.filter(|most| count > *most) {
            let message = format!("{count} {what} are over this fleet's ceiling of {most}");
            self.errors.add(path, message);
        }
    }
}
