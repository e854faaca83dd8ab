//! `envicutor blobs ls` and `blobs gc`: the files of the tenants, and the removal of those that nothing refers to.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    exit::{CliError, Exit},
    options::{Options, user_of},
    printer::say_json,
    terminal::say,
};
use crate::{
    blobs::{
        Blobs as Tenants, Store, Upload,
        collect::{Collected, Collector, Turn},
    },
    bus::{Bus, Role},
    client::ClientError,
    config::Config,
    submission::{
        names::{Digest, Tenant},
        units::{ByteSize, Micros},
    },
};

/// Look at the files of the tenants, and remove what nothing refers to. Needs the operator's rights.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Blobs {
    /// List what is stored: size, age, digest; and how much that is for each tenant.
    Ls {
        /// Of this tenant only.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// Print an object for each, one a line, and no totals.
        #[arg(long)]
        json: bool,
    },
    /// Remove what nothing refers to any more and nobody claimed for `blobs.grace_us`: no queued submission, dead letter, result or
    /// runtime, nothing that is kept for replays, no entry of the compile cache.
    Gc {
        /// Of this tenant only.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// Say what would be removed, and remove nothing.
        #[arg(long)]
        dry_run: bool,
        /// Print an object for each tenant, one a line.
        #[arg(long)]
        json: bool,
    },
}

/// What a command works on.
struct Fleet {
    config: Config,
    bus: Bus,
    store: Store,
    tenants: Vec<Tenant>,
}

impl Fleet {
    async fn connect(options: &Options, tenant: Option<Tenant>) -> Result<Self, CliError> {
        let config = options.load_for(Role::Operator)?;
        let role = user_of(&config.nats.url).unwrap_or(Role::Operator);
        let bus = Bus::connect(&config.nats, role, "envicutor-blobs").await;
        let bus = bus.map_err(ClientError::from)?;
        let store = Store::open(&config, Some(&bus)).map_err(failed)?;
        let tenants = tenant.map_or_else(|| config.nats.tenants.clone(), |tenant| vec![tenant]);
        Ok(Self {
            config,
            bus,
            store,
            tenants,
        })
    }
}

impl Blobs {
    /// Does it and prints what was found.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        match self {
            Self::Ls { tenant, json } => {
                let fleet = Fleet::connect(options, tenant).await?;
                for tenant in &fleet.tenants {
                    list(&fleet.store.of(tenant), json).await?;
                }
                fleet.bus.close().await;
                Ok(Exit::Ok)
            }
            Self::Gc {
                tenant,
                dry_run,
                json,
            } => {
                let fleet = Fleet::connect(options, tenant).await?;
                let exit = collect(&fleet, dry_run, json).await;
                fleet.bus.close().await;
                exit
            }
        }
    }
}

async fn list(blobs: &Tenants, json: bool) -> Result<(), CliError> {
    let (mut count, mut bytes) = (0_u64, 0);
    let mut uploads = blobs.uploads();
    while let Some(upload) = uploads.try_next().await.map_err(failed)? {
        count += 1;
        bytes += upload.size_bytes.0;
        if json {
            say_json(&in_json(blobs.tenant(), &upload))?;
        } else {
            say(line(&upload))?;
        }
    }
    if !json {
        let bytes = ByteSize(bytes);
        say(format!("{}: {count} blobs, {bytes}", blobs.tenant()))?;
    }
    Ok(())
}

/// A whole number of seconds is enough to read.
fn age(upload: &Upload) -> Micros {
    Micros(upload.age().as_secs().saturating_mul(1_000_000))
}

fn line(upload: &Upload) -> String {
    let digest = upload.digest.as_ref().map_or("", Digest::as_str);
    let (size, age) = (upload.size_bytes.to_string(), age(upload).to_string());
    format!("{size:>10}  {age:>10}  {digest}")
}

fn in_json(tenant: &Tenant, upload: &Upload) -> serde_json::Value {
    let stored_at = OffsetDateTime::from(upload.stored_at);
    json!({
        "tenant": tenant,
        "digest": upload.digest,
        "size_bytes": upload.size_bytes,
        "stored_at": stored_at.format(&Rfc3339).unwrap_or_default(),
        "age_us": age(upload),
    })
}

async fn collect(fleet: &Fleet, dry_run: bool, json: bool) -> Result<Exit, CliError> {
    let mut collector = Collector::new(&fleet.bus, &fleet.store, &fleet.config);
    if dry_run {
        collector = collector.dry();
    }
    let turn = collector.take_turn(&fleet.tenants, "envicutor blobs gc", Duration::ZERO);
    match turn.await.map_err(failed)? {
        Turn::Ours(all) => {
            for collected in &all {
                show(collected, dry_run, json)?;
            }
            Ok(Exit::Ok)
        }
        Turn::Held { holder } => Err(CliError::Failed(format!(
            "{holder} collects at this moment: try again when it is done"
        ))),
        Turn::Done => Ok(Exit::Ok),
    }
}

fn show(collected: &Collected, dry_run: bool, json: bool) -> Result<(), CliError> {
    if json {
        return say_json(collected);
    }
    let removed = if dry_run { "to remove" } else { "removed" };
    say(format!(
        "{}: {} blobs, {}; {removed}: {} blobs, {}; {} entries of the compile cache, {} unfinished uploads",
        collected.tenant,
        collected.blobs,
        collected.bytes,
        collected.removed,
        collected.removed_bytes,
        collected.entries,
        collected.unfinished,
    ))?;
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}
