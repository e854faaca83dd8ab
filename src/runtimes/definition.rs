//! A runtime as `runtimes/<file>.toml` defines it: parsed and checked at the edge, with errors that name file and field.
//! What it makes of an image is [`super::install`]'s; this is the words only.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{error::RuntimeError, self_test::SelfTest};
use crate::{
    egress::source::Source,
    submission::{
        catalogue::{Runtime, StageDefaults},
        limits::{LimitChanges, Limits},
        names::{Digest, RuntimeName, RuntimeRef, RuntimeVersion},
        units::{ByteSize, Micros},
    },
};

/// What a run may use where its definition does not say otherwise.
pub const RUN_LIMITS: Limits = Limits {
    cpu_time_us: Micros(5_000_000),
    extra_time_us: Micros(0),
    wall_time_us: Micros(10_000_000),
    memory_bytes: ByteSize(256 << 20),
    stack_bytes: ByteSize(64 << 20),
    processes: 64,
    open_files: 256,
    file_size_bytes: ByteSize(64 << 20),
    disk_bytes: ByteSize(64 << 20),
    inodes: 4_096,
    output_bytes: ByteSize(1 << 20),
};

/// What a compilation may use where its definition does not say otherwise: more time and memory, the same directory.
pub const COMPILE_LIMITS: Limits = Limits {
    cpu_time_us: Micros(20_000_000),
    wall_time_us: Micros(30_000_000),
    memory_bytes: ByteSize(512 << 20),
    ..RUN_LIMITS
};

/// What is in force when a definition's environment has no `PATH`.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A version of a runtime: what the catalogue says of it, and how its image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// What a submission depends on.
    pub runtime: Runtime,
    /// The file itself, as it was written: what the fleet is told.
    pub text: String,
    /// The image that it stands on; absent: the configured base.
    pub image: Option<String>,
    /// The packages of the base image's own archive that it needs.
    pub packages: Vec<String>,
    /// What root runs after that, in bash.
    pub script: Option<String>,
    /// Where its installation may fetch from.
    pub egress: Vec<Source>,
    /// What it must be able to do.
    pub tests: Vec<SelfTest>,
    /// The source of a program that does nothing: what starting it costs is measured by that, and not without.
    pub empty: Option<String>,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: RuntimeName,
    version: RuntimeVersion,
    #[serde(default)]
    default: bool,
    description: String,
    source_file: String,
    image: Option<String>,
    #[serde(default)]
    packages: Vec<String>,
    script: Option<String>,
    egress: Option<Vec<Source>>,
    empty: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    compile: Option<WrittenStage>,
    run: WrittenStage,
    #[serde(default)]
    tests: Vec<SelfTest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStage {
    command: Vec<String>,
    #[serde(default)]
    template: bool,
    #[serde(default)]
    limits: LimitChanges,
}

impl Definition {
    /// Reads a definition; `file` is named in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, RuntimeError> {
        let written: Written = toml::from_str(text).map_err(|source| RuntimeError::Syntax {
            file: file.to_owned(),
            source: Box::new(source),
        })?;
        written
            .check()
            .map_err(|(field, problem)| RuntimeError::Field {
                file: file.to_owned(),
                field,
                problem,
            })?;
        Ok(written.into_definition(text))
    }

    /// Name and version.
    pub fn reference(&self) -> RuntimeRef {
        self.runtime.reference()
    }

    /// Whether the image that it stands on serves as it is.
    pub fn is_bare(&self) -> bool {
        self.packages.is_empty() && self.script.is_none()
    }

    /// The digest of all that shapes the image; `base` names the image that it stands on. Limits, commands and where it is fetched
    /// from may change without a new image.
    pub fn image_digest(&self, base: &str) -> Digest {
        let reference = self.reference().to_string();
        let script = self.script.as_deref().unwrap_or_default();
        let packages = self.packages.iter().map(String::as_str);
        let parts = [super::install::SCRIPT, base, &reference, script];
        // Lengths keep the parts apart.
        let text: String = parts
            .into_iter()
            .chain(packages)
            .flat_map(|part| [part.len().to_string(), format!(":{part}\n")])
            .collect();
        Digest::of(text.as_bytes())
    }
}

/// A field, and what is wrong with it.
pub(super) type Problem = (String, String);

/// That something holds, or what is wrong with `field`.
pub(super) fn require(holds: bool, field: &str, problem: &str) -> Result<(), Problem> {
    if holds {
        Ok(())
    } else {
        Err((field.to_owned(), problem.to_owned()))
    }
}

impl Written {
    fn check(&self) -> Result<(), Problem> {
        require(
            !self.description.trim().is_empty() && !self.description.contains('\n'),
            "description",
            "expected one line for people",
        )?;
        require(
            is_file_name(&self.source_file),
            "source_file",
            "expected a file name such as \"main.py\"",
        )?;
        for package in &self.packages {
            require(
                is_package(package),
                "packages",
                &format!(
                    "{package:?} is no package name such as \"python3\" or \"gcc=4:12.2.0-3\""
                ),
            )?;
        }
        require(
            self.image.as_deref().is_none_or(is_image),
            "image",
            "expected the name of an image, such as \"debian:bookworm-slim\"",
        )?;
        require(
            self.packages.is_empty() || self.egress().contains(&Source::Apt),
            "egress",
            "packages come through \"apt\": expected it among the sources",
        )?;
        require(
            self.script
                .as_ref()
                .is_none_or(|script| !script.contains('\0') && !script.trim().is_empty()),
            "script",
            "expected commands for bash; leave it out where there are none",
        )?;
        for (name, value) in &self.env {
            require(
                !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'),
                &format!("env.{name}"),
                "expected a name without \"=\" and a value without NUL",
            )?;
        }
        if let Some(compile) = &self.compile {
            compile.check("compile")?;
        }
        self.run.check("run")?;
        for (index, test) in self.tests.iter().enumerate() {
            test.check(index, self.compile.is_some())?;
        }
        Ok(())
    }

    /// What `egress` says, and where it is left out what `packages` need.
    fn egress(&self) -> Vec<Source> {
        let needed = || (!self.packages.is_empty()).then_some(Source::Apt);
        let named = self.egress.clone();
        named.unwrap_or_else(|| needed().into_iter().collect())
    }

    fn into_definition(self, text: &str) -> Definition {
        let egress = self.egress();
        let mut env = self.env;
        env.entry("PATH".to_owned())
            .or_insert_with(|| PATH.to_owned());
        Definition {
            runtime: Runtime {
                name: self.name,
                version: self.version,
                default: self.default,
                description: self.description,
                source_file: self.source_file,
                env,
                compile: self
                    .compile
                    .map(|stage| stage.with_defaults(&COMPILE_LIMITS)),
                run: self.run.with_defaults(&RUN_LIMITS),
                start_cost: None,
            },
            text: text.to_owned(),
            image: self.image,
            packages: self.packages,
            script: self.script,
            egress,
            tests: self.tests,
            empty: self.empty,
        }
    }
}

impl WrittenStage {
    fn check(&self, stage: &str) -> Result<(), Problem> {
        let program = self.command.first().is_some_and(|name| !name.is_empty());
        require(
            program && self.command.iter().all(|part| !part.contains('\0')),
            &format!("{stage}.command"),
            "expected a program and its arguments, such as [\"/usr/bin/python3\", \"{entry}\"]",
        )?;
        let limits = RUN_LIMITS.changed(&self.limits);
        let positive = [
            ("cpu_time_us", limits.cpu_time_us.0),
            ("wall_time_us", limits.wall_time_us.0),
            ("memory_bytes", limits.memory_bytes.0),
            ("stack_bytes", limits.stack_bytes.0),
            ("processes", limits.processes),
            ("open_files", limits.open_files),
            ("file_size_bytes", limits.file_size_bytes.0),
            ("disk_bytes", limits.disk_bytes.0),
            ("inodes", limits.inodes),
            ("output_bytes", limits.output_bytes.0),
        ];
        for (limit, value) in positive {
            require(
                value > 0,
                &format!("{stage}.limits.{limit}"),
                "expected more than 0",
            )?;
        }
        Ok(())
    }

    fn with_defaults(self, defaults: &Limits) -> StageDefaults {
        StageDefaults {
            command: self.command,
            template: self.template,
            limits: defaults.changed(&self.limits),
        }
    }
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !text.contains(['/', '\0'])
        && text != "."
        && text != ".."
}

/// The name of an image, by tag or digest. Nothing in it may look like an option.
fn is_image(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/:@+".contains(c))
}

/// A Debian package's name, with a version after `=` where one is wanted. Nothing in it may look like an option of apt.
fn is_package(text: &str) -> bool {
    let (name, version) = text.split_once('=').unwrap_or((text, "0"));
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '+')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
        && !version.is_empty()
        && version
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".+:~-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'x'\nversion = '1'\ndescription = 'X'\nsource_file = 'main.x'\n";

    fn parse(more: &str) -> Result<Definition, RuntimeError> {
        Definition::parse("runtimes/x.toml", &format!("{SMALL}{more}"))
    }

    fn refusal(more: &str) -> String {
        parse(more).expect_err("refused").to_string()
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let definition =
            parse("[run]\ncommand = ['x']\nlimits.memory_bytes = '1GiB'\n").expect("valid");
        assert_eq!(definition.runtime.env["PATH"], PATH);
        assert!(definition.runtime.compile.is_none() && definition.is_bare());
        let expected = Limits {
            memory_bytes: ByteSize(1 << 30),
            ..RUN_LIMITS
        };
        assert_eq!(definition.runtime.run.limits, expected);
    }

    #[test]
    fn packages_come_through_apt() {
        let run = "run.command = ['x']\n";
        let egress = |more: &str| parse(&format!("{more}{run}")).expect("valid").egress;
        assert_eq!(egress(""), []);
        assert_eq!(egress("packages = ['gcc']\n"), [Source::Apt]);
        let named = egress("packages = ['gcc']\negress = ['apt', 'a.example.org']\n");
        assert_eq!(named, [Source::Apt, Source::Host("a.example.org".into())]);
    }

    #[test]
    fn compile_and_run_share_one_work_directory() {
        assert_eq!(RUN_LIMITS.disk_bytes, COMPILE_LIMITS.disk_bytes);
        assert_eq!(RUN_LIMITS.inodes, COMPILE_LIMITS.inodes);
    }

    #[test]
    fn errors_name_file_and_field() {
        let run = "[run]\ncommand = ['x']\n";
        for (more, field) in [
            (run.to_owned() + "colour = 1\n", "colour"),
            ("colour = 1\n".to_owned() + run, "colour"),
            (String::new(), "run"),
            ("[run]\n".to_owned(), "command"),
            ("[run]\ncommand = []\n".to_owned(), "run.command"),
            ("packages = ['--option']\n".to_owned() + run, "packages"),
            ("script = ' '\n".to_owned() + run, "script"),
            (
                run.to_owned() + "limits.cpu_time_us = 0\n",
                "run.limits.cpu_time_us",
            ),
            (
                run.to_owned() + "limits.memory_bytes = '3 lots'\n",
                "memory_bytes",
            ),
            ("env.\"A=B\" = 'c'\n".to_owned() + run, "env.A=B"),
            (
                run.to_owned() + "[[tests]]\nname = 'a'\nsource = ''\n",
                "tests[0].expected",
            ),
            (
                run.to_owned() + "[[tests]]\nname = 'a'\nsource = ''\nverdict = 'compile_error'\n",
                "tests[0].verdict",
            ),
            (
                run.to_owned() + "[[tests]]\nname = 'a'\nsource = ''\nverdict = 'fine'\n",
                "verdict",
            ),
            ("egress = ['10.0.0.1']\n".to_owned() + run, "egress"),
            (
                "packages = ['gcc']\negress = []\n".to_owned() + run,
                "egress",
            ),
            ("image = '--privileged'\n".to_owned() + run, "image"),
        ] {
            let message = refusal(&more);
            assert!(message.contains("runtimes/x.toml"), "{message}");
            assert!(message.contains(field), "{field}: {message}");
        }
    }

    #[test]
    fn package_names_are_no_options() {
        for good in ["python3", "g++", "libstdc++-12-dev", "gcc=4:12.2.0-3"] {
            assert!(is_package(good), "{good}");
        }
        for bad in ["", "-y", "a b", "a=", "a;b", "a/b", "python3-"] {
            assert!(!is_package(bad), "{bad}");
        }
    }

    #[test]
    fn the_digest_depends_on_what_shapes_the_image_alone() {
        let run = "[run]\ncommand = ['x']\n";
        let of = |more: &str, base| parse(more).expect("valid").image_digest(base);
        let digest = of(run, "b");
        assert_eq!(digest, of("[run]\ncommand = ['y']\n", "b"));
        assert_ne!(digest, of(run, "c"));
        assert_ne!(digest, of(&format!("packages = ['p']\n{run}"), "b"));
        assert_ne!(digest, of(&format!("script = 'p'\n{run}"), "b"));
    }
}
