//! A submission from files and flags, for `run` and `submit`.
//!
//! A file keeps its path relative to the current directory where it lies below it, so that `#include "lib/sum.h"` finds its
//! file; a file from elsewhere goes by its name alone. The first file is what runs, unless it is a project: a directory or an
//! archive, whose files keep the paths that they have in it. No file is read here: the client streams it when it is submitted.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use tempfile::TempPath;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    exit::CliError,
    guess::{runtime_of, runtime_of_project},
};
use crate::submission::{
    archive::{Archive, ArchiveFormat},
    catalogue::Catalogue,
    collect::Collect,
    compare::Compare,
    content::Content,
    limits::LimitChanges,
    message::{EventsWanted, File, Submission, Test},
    names::RuntimeRef,
    units::Micros,
};

/// What to run, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct ProgramArgs {
    /// The files of the work directory. The first is what runs; its name says the runtime unless --runtime does. Or it is a
    /// project: a directory (without what `.gitignore` and `.envicutorignore` in it name, and `.git`), a `.zip`, `.tar`, `.tar.gz`
    /// or `.tar.zst`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The file that runs, as it is in the work directory. Without it the first FILE, of a project the file that has the
    /// runtime's source file name (`main.py`).
    #[arg(long, value_name = "PATH")]
    entry: Option<String>,
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
    /// Files to keep when the program is over, by their paths in the work directory: `out/*.png`, `**/log.txt`. Takes all that
    /// follows up to the next flag; --output says where they go.
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    collect: Vec<String>,
    /// Compile it, even where the fleet has an earlier build of the same sources.
    #[arg(long)]
    no_cache: bool,
    /// A label, which comes back with everything that is told of the submission.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The instant after which it is not started any more: `2030-12-31T23:59:59Z`, or from now `30s`, `10min`. Its result is
    /// `expired` then.
    #[arg(long, value_name = "INSTANT")]
    expires: Option<Expiry>,
    /// The events to publish. Without it: those that the command shows.
    #[arg(long, value_enum)]
    events: Option<EventsWanted>,
}

/// A submission, ready to be sent.
#[derive(Debug)]
pub struct Program {
    /// What to publish. It names files of this machine.
    pub submission: Submission,
    /// Standard input that came to us and is none of these, gone with this.
    _spooled: Option<TempPath>,
}

/// When a submission expires, as people write it.
#[derive(Debug, Clone, Copy)]
struct Expiry(OffsetDateTime);

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let from_now = || {
            let time: Micros = text.parse().ok()?;
            let time = time::Duration::try_from(time.duration()).ok()?;
            OffsetDateTime::now_utc().checked_add(time)
        };
        let instant = OffsetDateTime::parse(text, &Rfc3339).ok();
        instant
            .or_else(from_now)
            .map(Self)
            .ok_or_else(|| "expected 2030-12-31T23:59:59Z, or a time from now: 30s, 10min".into())
    }
}

impl ProgramArgs {
    /// The runtime that is named, if one is.
    pub fn runtime(&self) -> Option<&RuntimeRef> {
        self.runtime.as_ref()
    }

    /// The runtime that the names of the files say.
    pub fn guess(&self, catalogue: &Catalogue) -> Result<RuntimeRef, CliError> {
        let first = self.first_file();
        match &self.entry {
            Some(entry) => runtime_of(Path::new(entry), catalogue),
            None if first.is_dir() => runtime_of_project(first, catalogue),
            None if is_project(first) => Err(CliError::Usage(format!(
                "{}: an archive says no runtime: name one with --runtime, or the file that runs with --entry",
                first.display()
            ))),
            None => runtime_of(first, catalogue),
        }
    }

    fn first_file(&self) -> &Path {
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

    /// The submission. `events` counts unless a flag says otherwise.
    pub fn program(&self, runtime: RuntimeRef, events: EventsWanted) -> Result<Program, CliError> {
        let mut submission = Submission::new(runtime);
        let cwd = env::current_dir().map_err(|source| unreadable(Path::new("."), source))?;
        let mut files = self.files.as_slice();
        if let [first, rest @ ..] = files
            && is_project(first)
        {
            check_readable(first)?;
            submission.archive = Some(Archive::from_path(first));
            files = rest;
        }
        for file in files {
            submission.files.push(file_of(file, &cwd)?);
        }
        submission.entry.clone_from(&self.entry);
        let (stdin, spooled) = self.stdin()?;
        submission.stdin = stdin;
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
        if !self.collect.is_empty() {
            submission.collect = Some(Collect {
                paths: self.collect.clone(),
                ..Collect::default()
            });
        }
        submission.cache = !self.no_cache;
        submission.compare = self.compare;
        submission.stop_on_failure = self.stop_on_failure;
        submission.run.args.clone_from(&self.args);
        submission.expires_at = self.expires.map(|expiry| expiry.0);
        submission.events = self.events.unwrap_or(events);
        Ok(Program {
            submission,
            _spooled: spooled,
        })
    }

    /// Standard input. What is no file, such as our own, goes to a temporary one, for as long as that lives.
    fn stdin(&self) -> Result<(Option<Content>, Option<TempPath>), CliError> {
        let Some(path) = &self.stdin_file else {
            return Ok((None, None));
        };
        let spooled = if path.as_os_str() == "-" {
            spool(path, io::stdin().lock())?
        } else if fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            return Ok((Some(content_of(path)?), None));
        } else {
            let source = fs::File::open(path).map_err(|source| unreadable(path, source))?;
            spool(path, source)?
        };
        Ok((Some(Content::from_path(&*spooled)), Some(spooled)))
    }
}

/// Whether `path` is a directory or by its name an archive.
fn is_project(path: &Path) -> bool {
    path.is_dir() || ArchiveFormat::of_name(path).is_some()
}

fn file_of(path: &Path, cwd: &Path) -> Result<File, CliError> {
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    Ok(File {
        content: content_of(path)?,
        path: Some(path_in_work_directory(path, cwd)?),
        executable: mode & 0o111 != 0,
    })
}

/// A test from its input and what lies beside it.
fn read_test(input: &Path) -> Result<Test, CliError> {
    let mut test = Test::new(content_of(input)?);
    test.name = input
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    for extension in ["out", "ans"] {
        let expected = input.with_extension(extension);
        if expected != input && expected.is_file() {
            return Ok(test.expecting(content_of(&expected)?));
        }
    }
    Ok(test)
}

/// What a file holds, once it is submitted.
fn content_of(path: &Path) -> Result<Content, CliError> {
    check_readable(path)?;
    if path.is_dir() {
        let path = path.display();
        return Err(CliError::Usage(format!(
            "{path}: it is a directory, which can only be the first of the files, as the project"
        )));
    }
    Ok(Content::from_path(path))
}

/// What cannot be read is told before a connection is needed.
fn check_readable(path: &Path) -> Result<(), CliError> {
    let opened = fs::File::open(path).map(drop);
    opened.map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> CliError {
    CliError::File {
        path: path.to_owned(),
        source,
    }
}

/// A temporary file with what `from`, which `path` names, gives.
fn spool(path: &Path, mut from: impl io::Read) -> Result<TempPath, CliError> {
    let mut spooled = || {
        let mut file = tempfile::Builder::new().prefix("envicutor-").tempfile()?;
        io::copy(&mut from, &mut file)?;
        file.flush()?;
        Ok(file.into_temp_path())
    };
    spooled().map_err(|source| unreadable(path, source))
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
    use crate::submission::units::ByteSize;

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
        let file = |name| Some(Content::from_path(dir.path().join(name)));
        assert_eq!(test("1.in").expected, file("1.out"));
        assert_eq!(test("1.in").name.as_deref(), Some("1"));
        assert_eq!(test("2.in").expected, None);
        assert_eq!(test("3.in").expected, file("3.ans"));
    }

    #[derive(clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        program: ProgramArgs,
    }

    fn program(arguments: &[&std::ffi::OsStr]) -> Result<Submission, CliError> {
        let name = [std::ffi::OsStr::new("submit")];
        let parsed: Parsed = clap::Parser::parse_from(name.iter().chain(arguments));
        let runtime = "python".parse().expect("valid");
        let program = parsed.program.program(runtime, EventsWanted::None)?;
        Ok(program.submission)
    }

    #[test]
    fn a_directory_or_an_archive_comes_first_and_is_the_project() {
        let dir = tempfile::tempdir().expect("a directory");
        let (zip, file) = (dir.path().join("a.zip"), dir.path().join("main.py"));
        fs::write(&zip, "PK").expect("written");
        fs::write(&file, "").expect("written");
        for project in [dir.path(), &zip] {
            let flags = ["--entry", "src/app.py", "--no-cache", "--collect", "a", "b"];
            let mut arguments = vec![project.as_os_str(), file.as_os_str()];
            arguments.extend(flags.iter().map(std::ffi::OsStr::new));
            let submission = program(&arguments).expect("a submission");
            assert_eq!(submission.archive, Some(Archive::from_path(project)));
            assert_eq!(submission.files[0].path.as_deref(), Some("main.py"));
            assert_eq!(submission.entry.as_deref(), Some("src/app.py"));
            assert_eq!(submission.collect.expect("there").paths, ["a", "b"]);
            assert!(!submission.cache);
        }
        let after = program(&[file.as_os_str(), zip.as_os_str()]).expect("a submission");
        assert_eq!((after.archive, after.files.len()), (None, 2));
        let error = program(&[file.as_os_str(), dir.path().as_os_str()]).expect_err("refused");
        assert!(error.to_string().contains("first of the files"), "{error}");
    }
}
