//! `envicutor runtime`: what the fleet runs. [`show`] looks at one of it, [`install`] adds to it, `change` takes away and puts back,
//! [`mod@test`] holds it against its self-tests.

mod change;
pub mod install;
pub mod show;
pub mod test;
pub mod tested;

use tokio_util::sync::CancellationToken;

use self::{change::Change, install::Install};
use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    terminal::{escape_line, say},
    until,
};
use crate::{
    bus::Role,
    submission::{
        catalogue::{Catalogue, Runtime as Entry},
        names::RuntimeRef,
        units::Micros,
    },
};

/// Show, change and test the runtimes that the fleet offers.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Runtime {
    /// List them.
    Ls {
        /// Print the message of the contract.
        #[arg(long)]
        json: bool,
    },
    #[allow(missing_docs, reason = "the command's help is that of its own type")]
    Show(show::Show),
    #[allow(missing_docs, reason = "the command's help is that of its own type")]
    Install(Install),
    /// Take an installed version out of the catalogue. Submissions that run go on.
    Rm {
        /// `go`, or with a version `go@1.19`.
        runtime: RuntimeRef,
    },
    /// Put back what a version was before its last installation or removal.
    Rollback {
        /// `go`, or with a version `go@1.19`.
        runtime: RuntimeRef,
    },
    #[allow(missing_docs, reason = "the command's help is that of its own type")]
    Test(test::Test),
}

impl Runtime {
    /// Asks a worker and prints; or has an installer change something; or tests.
    pub async fn run(
        self,
        options: &Options,
        shutdown: CancellationToken,
    ) -> Result<Exit, CliError> {
        let remove = |runtime| change::run(options, runtime, Change::Remove);
        let roll_back = |runtime| change::run(options, runtime, Change::RollBack);
        match &self {
            Self::Ls { json } => until(&shutdown, Box::pin(ls(options, *json))).await,
            Self::Install(install) => until(&shutdown, Box::pin(install.run(options))).await,
            Self::Rm { runtime } => until(&shutdown, Box::pin(remove(runtime))).await,
            Self::Rollback { runtime } => until(&shutdown, Box::pin(roll_back(runtime))).await,
            Self::Show(show) => until(&shutdown, Box::pin(show.run(options))).await,
            Self::Test(test) => Box::pin(test.clone().run(options, shutdown)).await,
        }
    }
}

async fn catalogue(options: &Options) -> Result<Catalogue, CliError> {
    let client = options.connect(Role::Service).await?;
    let catalogue = client.runtimes().await?;
    client.close().await;
    Ok(catalogue)
}

async fn ls(options: &Options, json: bool) -> Result<Exit, CliError> {
    let catalogue = catalogue(options).await?;
    if json {
        say_json(&catalogue)?;
    } else {
        list(&catalogue)?;
    }
    Ok(Exit::Ok)
}

fn list(catalogue: &Catalogue) -> Result<(), CliError> {
    let width = |runtime: &Entry| runtime.reference().to_string().len();
    let width = catalogue.runtimes.iter().map(width).max().unwrap_or(0);
    for runtime in &catalogue.runtimes {
        let default = if runtime.default { "default" } else { "" };
        let description = escape_line(&runtime.description);
        let reference = runtime.reference().to_string();
        let cost = cost(runtime);
        say(format!(
            "{reference:<width$}  {default:<7}  {cost:>25}  {description}"
        ))?;
    }
    Ok(())
}

/// What starting it costs, where that is known.
fn cost(runtime: &Entry) -> String {
    runtime.start_cost.as_ref().map_or(String::new(), |cost| {
        let milliseconds = |us: Micros| us.duration().as_secs_f64() * 1000.0;
        format!(
            "starts in {:.1} ms, {}",
            milliseconds(cost.wall_us),
            cost.memory_bytes
        )
    })
}
