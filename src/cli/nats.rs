//! `envicutor nats apply`, `nats check` and `nats init DIR`: the fleet's streams and buckets, and the files of its servers.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{
    exit::{CliError, Exit},
    options::{Options, user_of},
    printer::say_json,
    terminal::{say, tell},
};
use crate::{
    bus::{
        Bus, Role,
        provision::{self, Outcome, ProvisionError, Report},
    },
    client::ClientError,
    nats_server::{
        cluster::{self, NodeAddress},
        files,
    },
};

/// Provision NATS. `apply` and `check` need the operator's rights.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Nats {
    /// Create and update the streams and buckets. Refuses what would lose data, and may be repeated at any time.
    Apply {
        /// Print an object for each, one a line.
        #[arg(long)]
        json: bool,
    },
    /// Say what `apply` would do, and do nothing. Exits 1 where that is anything.
    Check {
        /// Print an object for each, one a line.
        #[arg(long)]
        json: bool,
    },
    /// Write a server's configuration and generated passwords into a directory, or those of a cluster. Overwrites nothing.
    Init {
        /// The directory; made where it is missing.
        dir: PathBuf,
        /// Where the servers of a cluster are to listen, three of them: HOST,HOST,HOST, each perhaps with :PORT.
        #[arg(long, value_name = "NODES", value_delimiter = ',')]
        cluster: Vec<NodeAddress>,
    },
}

impl Nats {
    /// Does it and prints what was done.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        match self {
            Self::Apply { json } => {
                let reports = reports(options, true).await?;
                print(&reports, json)?;
                let is_refused = |report: &Report| matches!(report.outcome, Outcome::Refused(_));
                Ok(if reports.iter().any(is_refused) {
                    Exit::Failed
                } else {
                    Exit::Ok
                })
            }
            Self::Check { json } => {
                let reports = reports(options, false).await?;
                print(&reports, json)?;
                let is_as_wanted = |report: &Report| report.outcome == Outcome::Unchanged;
                Ok(if reports.iter().all(is_as_wanted) {
                    Exit::Ok
                } else {
                    Exit::NotOk
                })
            }
            Self::Init { dir, cluster } => init(options, &dir, &cluster),
        }
    }
}

async fn reports(options: &Options, apply: bool) -> Result<Vec<Report>, CliError> {
    let config = options.load_for(Role::Operator)?;
    let role = user_of(&config.nats.url).unwrap_or(Role::Operator);
    let bus = Bus::connect(&config.nats, role, "envicutor-nats").await;
    let bus = bus.map_err(ClientError::from)?;
    let reports = if apply {
        provision::apply(&bus, &config).await
    } else {
        provision::check(&bus, &config).await
    };
    bus.close().await;
    reports.map_err(|error: ProvisionError| CliError::Failed(error.to_string()))
}

fn print(reports: &[Report], json: bool) -> Result<(), CliError> {
    for report in reports {
        let (outcome, differences) = match &report.outcome {
            Outcome::Created => ("created", &[][..]),
            Outcome::Updated(differences) => ("updated", &differences[..]),
            Outcome::Unchanged => ("unchanged", &[][..]),
            Outcome::Refused(reasons) => ("refused", &reasons[..]),
            Outcome::Degraded(missing) => ("degraded", &missing[..]),
        };
        if json {
            let object = &report.object;
            say_json(&json!({"object": object, "outcome": outcome, "differences": differences}))?;
            continue;
        }
        say(format!("{outcome:<9}  {}", report.object))?;
        for difference in differences {
            say(format!("           {difference}"))?;
        }
    }
    Ok(())
}

fn init(options: &Options, dir: &Path, nodes: &[NodeAddress]) -> Result<Exit, CliError> {
    let nats = options.load()?.nats;
    let dir = std::path::absolute(dir)?;
    let done = if nodes.is_empty() {
        files::init(&dir, &nats)?
    } else {
        cluster::init(&dir, &nats, nodes)?
    };
    for path in &done.written {
        say(path.display().to_string())?;
    }
    for path in &done.kept {
        tell(format!("{} is kept as it is", path.display()));
    }
    for role in &done.lacks {
        tell(format!(
            "{} knows no user {role}: it was written before there was one. Remove it and run this again, or add the user by hand; \
             then restart the server",
            dir.join("server.conf").display()
        ));
    }
    if !nodes.is_empty() {
        next_steps(&dir, nodes);
    }
    Ok(Exit::Ok)
}

/// What remains to be done for a cluster.
fn next_steps(dir: &Path, nodes: &[NodeAddress]) {
    tell("Copy the directory to each machine, and in it start there:");
    for (place, node) in nodes.iter().enumerate() {
        let file = cluster::node_file(Path::new(""), place);
        tell(format!("  {node}: nats-server --config {}", file.display()));
    }
    let programs = dir.join("envicutor.toml");
    tell(format!(
        "Then, once: envicutor --config {} nats apply",
        programs.display()
    ));
}
