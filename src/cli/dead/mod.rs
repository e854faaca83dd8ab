//! `envicutor dead`: the dead letters, for operators.

mod list;
mod replay;
mod rm;
mod show;
mod which;

pub(super) use replay::{TermArgs, told};

use tokio_util::sync::CancellationToken;

use super::{
    exit::{CliError, Exit},
    options::{Options, user_of},
};
use crate::{
    bus::{Bus, Role},
    client::ClientError,
    config::Config,
    operations::Operations,
    submission::replay::Change,
};

/// Look at what the fleet could not run, have it run again, or remove it. Needs the operator's rights.
///
/// A dead letter is addressed by its sequence, the first column of `dead ls`.
#[derive(Debug, Clone, clap::Subcommand)]
#[allow(missing_docs, reason = "each command's help is that of its own type")]
pub enum Dead {
    Ls(list::Ls),
    Show(show::Show),
    Replay(replay::Replay),
    Rm(rm::Rm),
    Export(list::Export),
}

impl Dead {
    /// Does it.
    pub async fn run(self, options: &Options, stop: CancellationToken) -> Result<Exit, CliError> {
        let (bus, operations) = connect(options).await?;
        let done = match self {
            Self::Ls(ls) => ls.run(&operations, &stop).await,
            Self::Show(show) => show.run(&operations).await,
            Self::Replay(replay) => replay.run(&operations, &stop).await,
            Self::Rm(rm) => rm.run(&operations, &stop).await,
            Self::Export(export) => export.run(&operations, &stop).await,
        };
        bus.close().await;
        done
    }
}

/// The operator's connection, in the name of who runs this.
pub(super) async fn connect(options: &Options) -> Result<(Bus, Operations), CliError> {
    let config: Config = options.load_for(Role::Operator)?;
    if let Some(role @ (Role::Service | Role::Worker)) = user_of(&config.nats.url) {
        return Err(CliError::Usage(format!(
            "the NATS user {} may not do this: give --nats with the user operator, or a credentials file",
            role.user()
        )));
    }
    let bus = Bus::connect(&config.nats, Role::Operator, "envicutor-operations").await;
    let bus = bus.map_err(ClientError::from)?;
    let operations = Operations::new(&bus, &config, &who());
    Ok((bus, operations))
}

/// `user@host`, for the trail of a replay.
fn who() -> String {
    let user = ["USER", "LOGNAME"].into_iter();
    let user = user.filter_map(|name| std::env::var(name).ok());
    let user = user.map(|user| user.trim().chars().take(64).collect::<String>());
    let mut named = user.filter(|user| !user.is_empty());
    let user = named.next().unwrap_or_else(|| "unknown".to_owned());
    format!("{user}@{}", crate::worker::host_name())
}

/// `run.limits.memory_bytes 268435456 -> 536870912`, several separated by commas.
fn in_words(changes: &[Change]) -> String {
    let changes = changes.iter();
    let changes = changes.map(|change| format!("{} {} -> {}", change.path, change.from, change.to));
    changes.collect::<Vec<_>>().join(", ")
}
