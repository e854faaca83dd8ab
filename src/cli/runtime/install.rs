//! `envicutor runtime install`: publishes definitions for an installer, and shows what it says until it is over.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

use crate::{
    bus::{
        Bus, Role,
        installations::{self, Records},
    },
    cli::{
        exit::{CliError, Exit},
        options::Options,
        printer::say_json,
        terminal::{escape_line, say, tell},
    },
    installer::LogLine,
    runtimes::definition::Definition,
    submission::{
        installation::{Installation, InstallationState},
        units::Micros,
    },
};

/// How often it is looked whether it is over, besides being told.
const LOOK: Duration = Duration::from_secs(1);

/// How long nobody may take it before that is told.
const NOBODY: Duration = Duration::from_secs(10);

/// Install runtimes on the running fleet, from a file or every `*.toml` of a directory.
///
/// An installer makes each image, runs the definition's self-tests and registers it; until then the fleet has what it had. The
/// workers have it without a restart.
#[derive(Debug, Clone, clap::Args)]
pub struct Install {
    /// The definition, or a directory of definitions.
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
    /// Publish them and do not wait.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for each; without it an hour.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    timeout: Micros,
    /// Print what became of each as a message of the contract.
    #[arg(long)]
    json: bool,
}

impl Install {
    pub(super) async fn run(&self, options: &Options) -> Result<Exit, CliError> {
        let definitions = read(&self.path)?;
        let config = options.load_for(Role::Operator)?;
        let bus = Bus::connect(&config.nats, Role::Operator, "envicutor-runtime").await;
        let bus = bus.map_err(crate::client::ClientError::from)?;
        let mut exit = Exit::Ok;
        for definition in &definitions {
            if self.install(&bus, definition).await? != Exit::Ok {
                exit = Exit::Failed;
            }
        }
        bus.close().await;
        Ok(exit)
    }

    async fn install(&self, bus: &Bus, definition: &Definition) -> Result<Exit, CliError> {
        let name = &definition.runtime.name;
        let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
        let events = bus.names.installation_event(name.as_str(), "*");
        let mut events = bus
            .client
            .subscribe(events)
            .await
            .map_err(|error| failed(&error))?;
        let sequence = installations::publish(bus, name, &definition.text).await;
        let sequence = sequence.map_err(|error| failed(&error))?;
        if self.no_wait {
            say(definition.reference().to_string())?;
            return Ok(Exit::Ok);
        }
        let records = Records::new(bus);
        let began = Instant::now();
        let mut is_taken = false;
        let mut is_told = false;
        loop {
            while let Ok(Some(event)) = timeout(LOOK, events.next()).await {
                if let Ok(line) = serde_json::from_slice::<LogLine>(&event.payload) {
                    is_taken |= line.sequence == sequence;
                    show(&line, sequence);
                } else {
                    break;
                }
            }
            let record = records.of(name, sequence).await;
            let record = record.map_err(|error| failed(&error))?;
            match record {
                Some(record) if record.has_ended() => return self.ended(&record),
                Some(_) => is_taken = true,
                None => {}
            }
            if !is_taken && !is_told && began.elapsed() > NOBODY {
                is_told = true;
                tell(format!(
                    "no installer has taken {name} yet: is an `envicutor up` or an envicutor-installer running, and is it busy?"
                ));
            }
            if began.elapsed() > self.timeout.duration() {
                tell(format!("it goes on: envicutor runtime show {name}"));
                return Ok(Exit::TimedOut);
            }
        }
    }

    fn ended(&self, record: &Installation) -> Result<Exit, CliError> {
        if self.json {
            say_json(record)?;
        } else if record.state == InstallationState::Installed {
            say(format!("installed {}", record.reference()))?;
        }
        let Some(error) = &record.error else {
            return Ok(Exit::Ok);
        };
        for line in error.lines() {
            tell(escape_line(line));
        }
        Ok(Exit::Failed)
    }
}

fn show(line: &LogLine, sequence: u64) {
    if line.sequence != sequence {
        return;
    }
    let text = escape_line(&line.line);
    if line.step {
        tell(text);
    } else {
        tracing::debug!("{text}");
    }
}

/// The definitions of a file or directory, all of them valid.
fn read(path: &Path) -> Result<Vec<Definition>, CliError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::File { path, source }
    };
    let mut files = VecDeque::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed(path))? {
            let file = entry.map_err(failed(path))?.path();
            if file.extension().is_some_and(|it| it == "toml") {
                files.push_back(file);
            }
        }
        files.make_contiguous().sort();
    } else {
        files.push_back(path.to_owned());
    }
    if files.is_empty() {
        let problem = format!("{} has no *.toml", path.display());
        return Err(CliError::Usage(problem));
    }
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).map_err(failed(&file))?;
        let parsed = Definition::parse(&file.display().to_string(), &text);
        parsed.map_err(|error| CliError::Usage(error.to_string()))
    };
    files.into_iter().map(read).collect()
}
