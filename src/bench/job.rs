//! The programs that are measured: each copies a line, or does nothing.

use std::fmt;

use serde::Serialize;

use crate::submission::{
    message::{Submission, Test},
    names::NameError,
};

/// What is written to a program's standard input, and so what it prints.
const LINE: &str = "hello\n";

/// A program that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// Python copies a line: the start of an interpreter.
    Python,
    /// The same, and never from a template.
    PythonCold,
    /// Bash copies a line.
    Bash,
    /// C++ is compiled, each time, and copies a line.
    Cpp,
    /// The same by a compiler and a linker that find nothing prepared: no precompiled headers, not mold.
    CppPlain,
    /// C++ as in `cpp`, built once: an earlier build stands for every later one.
    CppCached,
    /// `/bin/true`: what is left is the fleet's own.
    NoOp,
}

impl Job {
    /// What is measured where nothing else is asked for.
    pub const DEFAULT: [Self; 4] = [Self::Python, Self::PythonCold, Self::Cpp, Self::NoOp];

    /// The submission.
    pub fn submission(self) -> Result<Submission, NameError> {
        let (runtime, source) = match self {
            Self::Python | Self::PythonCold => ("python", "print(input())\n"),
            Self::Bash => ("bash", "read -r line; echo \"$line\"\n"),
            Self::Cpp | Self::CppPlain | Self::CppCached => (
                "cpp",
                "#include <iostream>\nint main() { std::cout << std::cin.rdbuf(); }\n",
            ),
            Self::NoOp => ("bash", ""),
        };
        let mut submission = Submission::new(runtime.parse()?).source(source);
        if self == Self::PythonCold {
            // The runtime's own command, but the submission's: what the agent takes no template of.
            let command = ["/usr/bin/python3", "main.py"];
            submission.run.command = Some(command.map(str::to_owned).to_vec());
        }
        if self == Self::CppPlain {
            // The precompiled headers are of another dialect.
            let command = [
                "/usr/bin/g++",
                "-O2",
                "-pipe",
                "-std=c++17",
                "-o",
                "main",
                "main.cpp",
            ];
            submission.compile.command = Some(command.map(str::to_owned).to_vec());
        }
        submission.cache = self == Self::CppCached;
        if self == Self::NoOp {
            submission.run.command = Some(vec!["/bin/true".to_owned()]);
        } else {
            submission = submission.test(Test::new(LINE).expecting(LINE));
        }
        Ok(submission)
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Python => "python",
            Self::PythonCold => "python-cold",
            Self::Bash => "bash",
            Self::Cpp => "cpp",
            Self::CppPlain => "cpp-plain",
            Self::CppCached => "cpp-cached",
            Self::NoOp => "no-op",
        })
    }
}
