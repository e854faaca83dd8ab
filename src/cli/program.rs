//! A submission from files and flags, for `run` and `submit`.
//!
//! A file keeps its path relative to the current directory where it lies below it, so that `#include "lib/sum.h"` finds its
//! file; a file from elsewhere goes by its name alone. The first file is what runs.

use std::{
    env, fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use super::exit::CliError;
use crate::{
    bus::publish::MAX_SUBMISSION_BYTES,
    submission::{
        compare::Compare,
        limits::LimitChanges,
        message::{EventsWanted, File, Submission, Test},
        names::RuntimeRef,
    },
};

/// What to run, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct ProgramArgs {
    /// The files of the work directory. The first is what runs; its name says the runtime unless --runtime does.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The runtime: `python`, or with a version `python@3.11`.
    #[arg(long, short)]
    runtime: Option<RuntimeRef>,
    /// The program's standard input; `-` is our own. Without it the input is empty.
    #[arg(long, value_name = "FILE")]
    stdin_file: Option<PathBuf>,
    /// Tests: each FILE is a standard input, and a file of the same name with `.out` or `.ans` beside it (`1.in`, `1.out`) is
    /// what should come out. Takes all that follows up to the next flag.
    #[arg(long = "test", value_name = "FILE", num_args = 1.., conflicts_with = "stdin_file")]
    tests: Vec<PathBuf>,
    /// A limit of the run, `cpu_time_us=1s` or `memory_bytes=64MiB`; of the compilation, `compile.cpu_time_us=20s`.
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<String>,
    /// How the output is held against what is expected.
    #[arg(long, value_enum, default_value = "trimmed")]
    compare: Compare,
    /// Skip what follows the first test that is not ok.
    #[arg(long)]
    stop_on_failure: bool,
    /// An argument of the program; repeat for more.
    #[arg(long = "args", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    /// A label, which comes back with everything that is told of the submission.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The events to publish. Without it: those that the command shows.
    #[arg(long, value_enum)]
    events: Option<EventsWanted>,
}

impl ProgramArgs {
    /// The runtime that is named, if one is.
    pub fn runtime(&self) -> Option<&RuntimeRef> {
        self.runtime.as_ref()
    }

    /// The file that runs.
    pub fn first_file(&self) -> &Path {
        // At least one is required.
        self.files.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// The events that whoever watches it needs: of many tests only the stages.
    pub fn events_to_watch(&self) -> EventsWanted {
        if self.tests.is_empty() {
            EventsWanted::Output
        } else {
            EventsWanted::Stages
        }
    }

    /// The submission, with its files read. `events` counts unless a flag says otherwise.
    pub fn submission(
        &self,
        runtime: RuntimeRef,
        events: EventsWanted,
    ) -> Result<Submission, CliError> {
        let mut submission = Submission::new(runtime);
        let cwd = env::current_dir().map_err(|source| CliError::File {
            path: ".".into(),
            source,
        })?;
        for file in &self.files {
            submission.files.push(read_file(file, &cwd)?);
        }
        submission.stdin = self.stdin()?.map(Into::into);
        for test in &self.tests {
            submission.tests.push(read_test(test)?);
        }
        for limit in &self.limits {
            change_limit(&mut submission, limit)?;
        }
        for label in &self.labels {
            let (key, value) = pair(label, "--label")?;
            submission.labels.insert(key.to_owned(), value.to_owned());
        }
        submission.compare = self.compare;
        submission.stop_on_failure = self.stop_on_failure;
        submission.run.args.clone_from(&self.args);
        submission.events = self.events.unwrap_or(events);
        Ok(submission)
    }

    fn stdin(&self) -> Result<Option<Vec<u8>>, CliError> {
        match &self.stdin_file {
            Some(path) if path.as_os_str() == "-" => {
                bounded(path, std::io::stdin().lock()).map(Some)
            }
            Some(path) => read(path).map(Some),
            None => Ok(None),
        }
    }
}

fn read_file(path: &Path, cwd: &Path) -> Result<File, CliError> {
    let content = read(path)?;
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    Ok(File {
        path: Some(path_in_work_directory(path, cwd)?),
        content: content.into(),
        executable: mode & 0o111 != 0,
    })
}

/// A test from its input and what lies beside it.
fn read_test(input: &Path) -> Result<Test, CliError> {
    let mut test = Test::new(read(input)?);
    test.name = input
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    for extension in ["out", "ans"] {
        let expected = input.with_extension(extension);
        if expected != input && expected.is_file() {
            return Ok(test.expecting(read(&expected)?));
        }
    }
    Ok(test)
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let file = fs::File::open(path).map_err(|source| CliError::File {
        path: path.to_owned(),
        source,
    })?;
    bounded(path, file)
}

/// What can be sent at all: a file of any size is never read whole.
fn bounded(path: &Path, from: impl std::io::Read) -> Result<Vec<u8>, CliError> {
    let mut content = Vec::new();
    from.take(MAX_SUBMISSION_BYTES as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|source| CliError::File {
            path: path.to_owned(),
            source,
        })?;
    if content.len() > MAX_SUBMISSION_BYTES {
        return Err(CliError::Usage(format!(
            "{}: it has more than {MAX_SUBMISSION_BYTES} bytes, the most that a submission may have in all",
            path.display()
        )));
    }
    Ok(content)
}

/// Where a file goes in the work directory.
fn path_in_work_directory(path: &Path, cwd: &Path) -> Result<String, CliError> {
    let absolute = without_dots(&cwd.join(path));
    let inside = absolute.strip_prefix(without_dots(cwd)).ok();
    let wanted = inside.or_else(|| absolute.file_name().map(Path::new));
    let wanted = wanted
        .and_then(Path::to_str)
        .filter(|path| !path.is_empty());
    wanted
        .map(str::to_owned)
        .ok_or_else(|| CliError::Usage(format!("{}: the file name is not UTF-8", path.display())))
}

/// `path` without `.` and `..`, by its words alone.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

fn change_limit(submission: &mut Submission, limit: &str) -> Result<(), CliError> {
    let (name, value) = pair(limit, "--limit")?;
    let (stage, name) = match name.split_once('.') {
        Some(("compile", name)) => (&mut submission.compile, name),
        Some(("run", name)) => (&mut submission.run, name),
        _ => (&mut submission.run, name),
    };
    let number = value.parse().map(serde_json::Value::Number);
    let value = number.unwrap_or_else(|_| value.into());
    let usage = |error: serde_json::Error| CliError::Usage(format!("--limit {limit}: {error}"));
    // By the field's own reader, which also knows the names.
    let mut limits = serde_json::to_value(&stage.limits).map_err(usage)?;
    limits[name] = value;
    stage.limits = serde_json::from_value::<LimitChanges>(limits).map_err(usage)?;
    Ok(())
}

fn pair<'a>(text: &'a str, flag: &str) -> Result<(&'a str, &'a str), CliError> {
    text.split_once('=')
        .ok_or_else(|| CliError::Usage(format!("{flag} {text}: expected NAME=VALUE")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::units::{ByteSize, Micros};

    #[test]
    fn files_below_keep_their_path_and_others_their_name() {
        let cwd = Path::new("/home/me/work");
        for (given, expected) in [
            ("main.py", "main.py"),
            ("./src/../src/main.c", "src/main.c"),
            ("/home/me/work/lib/sum.h", "lib/sum.h"),
            ("../other/main.py", "main.py"),
            ("../work/a.py", "a.py"),
            ("/etc/hostname", "hostname"),
        ] {
            let path = path_in_work_directory(Path::new(given), cwd).expect("a path");
            assert_eq!(path, expected, "{given}");
        }
        assert!(path_in_work_directory(Path::new("/"), cwd).is_err());
    }

    #[test]
    fn limits_are_read_as_people_write_them() {
        let mut submission = Submission::new("python".parse().expect("valid"));
        for limit in ["cpu_time_us=1s", "processes=5", "compile.memory_bytes=1GiB"] {
            change_limit(&mut submission, limit).expect("valid");
        }
        assert_eq!(submission.run.limits.cpu_time_us, Some(Micros(1_000_000)));
        assert_eq!(submission.run.limits.processes, Some(5));
        assert_eq!(
            submission.compile.limits.memory_bytes,
            Some(ByteSize(1 << 30))
        );
        for bad in [
            "cpu=1s",
            "cpu_time_us",
            "cpu_time_us=soon",
            "link.processes=1",
        ] {
            assert!(change_limit(&mut submission, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_test_finds_what_is_expected_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, content) in [
            ("1.in", "1 2"),
            ("1.out", "3"),
            ("2.in", "5"),
            ("3.in", ""),
            ("3.ans", "0"),
        ] {
            fs::write(dir.path().join(name), content).expect("written");
        }
        let test = |name| read_test(&dir.path().join(name)).expect("read");
        assert_eq!(test("1.in").expected, Some("3".into()));
        assert_eq!(test("1.in").name.as_deref(), Some("1"));
        assert_eq!(test("2.in").expected, None);
        assert_eq!(test("3.in").expected, Some("0".into()));
    }
}
