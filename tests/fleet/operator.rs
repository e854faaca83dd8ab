//! An operator at the command line: `envicutor` as a process of its own, with the operator's rights.

use std::{path::PathBuf, process::Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

/// An operator of the fleet whose NATS server is at a URL.
pub struct Operator {
    url: String,
    data_dir: PathBuf,
    variables: Vec<(String, String)>,
}

/// What a command came to.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Operator {
    /// With the operator's URL.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            data_dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("operator"),
            variables: Vec::new(),
        }
    }

    /// The same with a variable of the environment.
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.variables.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Begins a command whose standard output is read while it runs.
    pub fn start(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_envicutor"))
            .args(arguments)
            .args(["--nats", &self.url])
            .env("ENVICUTOR__DATA_DIR", &self.data_dir)
            .env("USER", "ann")
            .envs(
                self.variables
                    .iter()
                    .map(|(variable, value)| (variable, value)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("envicutor starts")
    }

    /// Runs a command to its end, whatever that is.
    pub async fn run(&self, arguments: &[&str]) -> Said {
        let output = self.start(arguments).wait_with_output().await;
        let output = output.expect("it can be waited for");
        Said {
            code: output.status.code().expect("it ends by itself"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Runs a command that succeeds, and returns its lines of JSON.
    pub async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let said = self.run(arguments).await;
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
        said.json()
    }
}

impl Said {
    /// Its lines of JSON.
    pub fn json(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
            .collect()
    }
}
