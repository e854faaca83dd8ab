//! `envicutor up`: the one-machine fleet, until it is stopped.

use tokio_util::sync::CancellationToken;

use super::{
    exit::{CliError, Exit},
    options::Options,
    terminal::say,
};
use crate::{bus::Role, standalone::Standalone};

/// Run a fleet on this machine: a NATS server, and a worker.
///
/// Prints, one a line, `service nats://…`, `operator nats://…`, then `ready`; runs until SIGINT or SIGTERM, then lets what runs
/// finish, hands back the rest, and stops the server. The other commands find it by its data directory.
#[derive(Debug, Clone, clap::Args)]
pub struct Up {
    /// The port of the NATS server on 127.0.0.1; 0 picks a free one.
    #[arg(long, value_name = "PORT")]
    nats_port: Option<u16>,
    /// Submissions at a time.
    #[arg(long, value_name = "N")]
    slots: Option<usize>,
}

impl Up {
    /// Starts the fleet and waits for the end.
    pub async fn run(
        self,
        options: &Options,
        shutdown: CancellationToken,
    ) -> Result<Exit, CliError> {
        let options = options
            .clone()
            .with("nats.server_port", self.nats_port)
            .with("worker.slots", self.slots);
        let config = options.load()?;
        let start = Standalone::start_to_stay(&config);
        let mut fleet = tokio::select! {
            started = start => started?,
            () = shutdown.cancelled() => return Ok(Exit::Ok),
        };
        let told = tell_ready(&mut fleet, &shutdown).await;
        let ended = match told {
            Ok(()) => tokio::select! {
                error = fleet.ended() => Err(error.into()),
                () = shutdown.cancelled() => Ok(Exit::Ok),
            },
            Err(error) => Err(error),
        };
        fleet.stop().await?;
        ended
    }
}

/// Says where the fleet is, and that it is ready once a worker answers.
async fn tell_ready(fleet: &mut Standalone, shutdown: &CancellationToken) -> Result<(), CliError> {
    for role in [Role::Service, Role::Operator] {
        say(format!("{role} {}", fleet.url(role)))?;
    }
    tokio::select! {
        ready = fleet.ready() => ready?,
        () = shutdown.cancelled() => return Ok(()),
    }
    Ok(say("ready")?)
}
