//! `envicutor runtime rm` and `rollback`: what the fleet has installed is taken out, or what it had before is put back.

use crate::{
    bus::{
        Bus, Role,
        runtimes::{Shelf, ShelfError},
    },
    cli::{
        exit::{CliError, Exit},
        options::Options,
        terminal::say,
    },
    submission::names::{RuntimeName, RuntimeRef, RuntimeVersion},
};

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Remove,
    RollBack,
}

/// Does it to the one version that `reference` means.
pub(super) async fn run(
    options: &Options,
    reference: &RuntimeRef,
    change: Change,
) -> Result<Exit, CliError> {
    let config = options.load_for(Role::Operator)?;
    let bus = Bus::connect(&config.nats, Role::Operator, "envicutor-runtime").await;
    let bus = bus.map_err(crate::client::ClientError::from)?;
    let shelf = Shelf::new(&bus);
    let (name, version) = version_of(&shelf, reference, change).await?;
    match change {
        Change::Remove => {
            shelf.remove(&name, &version).await.map_err(of)?;
            say(format!("removed {name}@{version}"))?;
        }
        Change::RollBack => {
            let before = shelf.roll_back(&name, &version).await.map_err(of)?;
            say(format!(
                "{name}@{version} is what was installed at {} again",
                before.installed_at
            ))?;
        }
    }
    bus.close().await;
    Ok(Exit::Ok)
}

/// The version that is meant: the named one, or the only one that is installed; to go back, of a runtime that was removed whole,
/// the only one that was.
async fn version_of(
    shelf: &Shelf,
    reference: &RuntimeRef,
    change: Change,
) -> Result<(RuntimeName, RuntimeVersion), CliError> {
    if let Some(version) = &reference.version {
        return Ok((reference.name.clone(), version.clone()));
    }
    let known = shelf.versions(reference).await.map_err(of)?;
    let (mut versions, state) = match change {
        Change::RollBack if known.installed.is_empty() => (known.removed, "were removed"),
        Change::RollBack | Change::Remove => (known.installed, "are installed"),
    };
    match (versions.pop(), versions.is_empty()) {
        (Some(version), true) => Ok((reference.name.clone(), version)),
        (Some(_), false) => Err(CliError::Usage(format!(
            "several versions of {reference} {state}: name one, as {reference}@VERSION"
        ))),
        (None, _) => Err(of(ShelfError::Absent(reference.clone()))),
    }
}

fn of(error: ShelfError) -> CliError {
    match error {
        ShelfError::Absent(_) => CliError::Usage(format!(
            "{error}; what comes with the program, or from runtimes.dir, is not installed and stays"
        )),
        ShelfError::NothingBefore(_) => CliError::Usage(error.to_string()),
        error => CliError::Failed(error.to_string()),
    }
}
