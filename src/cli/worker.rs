//! `envicutor worker ls`: the workers there are, and what each runs.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    report::word,
    terminal::{escape_line, say},
};
use crate::bus::{Role, registry::Heartbeat};

/// Show the workers of the fleet. Needs the operator's rights.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Worker {
    /// List them.
    Ls {
        /// Print what each says of itself, one a line.
        #[arg(long)]
        json: bool,
    },
}

impl Worker {
    /// Reads the registry and prints.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        let Self::Ls { json } = self;
        let client = options.connect(Role::Operator).await?;
        let workers = client.workers().await?;
        client.close().await;
        for worker in &workers {
            if json {
                say_json(worker)?;
            } else {
                say(line(worker))?;
            }
        }
        Ok(Exit::Ok)
    }
}

fn line(worker: &Heartbeat) -> String {
    let since = worker.started_at.format(&Rfc3339).unwrap_or_default();
    let ago = (OffsetDateTime::now_utc() - worker.seen_at).whole_seconds();
    let running = worker.running.iter();
    let running = running.map(|running| escape_line(&format!("{}/{}", running.tenant, running.id)));
    let running: Vec<_> = running.collect();
    format!(
        "{}  {} of {} slots  {}  version {}  since {since}  seen {} s ago  {}",
        escape_line(&worker.worker),
        running.len(),
        worker.slots,
        word(&worker.isolation),
        escape_line(&worker.version),
        ago.max(0),
        running.join(" ")
    )
    .trim_end()
    .to_owned()
}
