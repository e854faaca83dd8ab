//! `envicutor worker`: the workers there are, and what an operator tells one of them.

use std::time::Duration;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, sleep};

use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    report::word,
    terminal::{escape_line, say, tell},
};
use crate::{
    bus::{
        Role,
        orders::{Obeyed, Order, OrderError},
        registry::{Heartbeat, Running, WorkerState},
    },
    client::{Client, ClientError},
    submission::units::{ByteSize, Micros},
};

/// Between two questions how far a drain is.
const DRAIN_LOOK: Duration = Duration::from_millis(500);

/// Show the workers of the fleet, and tell one what to do. Needs the operator's rights.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Worker {
    /// List them, and what each runs.
    Ls {
        /// Print what each says of itself, one a line.
        #[arg(long)]
        json: bool,
    },
    /// Have one take nothing new and finish what runs. It stays so until `uncordon`, or until it ends.
    Cordon(Told),
    /// Have one that was cordoned take work again.
    Uncordon(Told),
    /// Have one end: what runs may finish within its grace time, the rest is handed back. It exits with 0.
    Drain {
        /// Which.
        #[command(flatten)]
        told: Told,
        /// Wait until it has ended, and say meanwhile what it still runs.
        #[arg(long)]
        wait: bool,
        /// The longest wait: `30s`, `10min`. It drains all the same.
        #[arg(long, value_name = "TIME", requires = "wait")]
        timeout: Option<Micros>,
    },
}

/// The worker that is told something.
#[derive(Debug, Clone, clap::Args)]
pub struct Told {
    /// The worker, as `worker ls` has it.
    #[arg(value_name = "WORKER")]
    id: String,
    /// Print its acknowledgement as an object: worker, state, running.
    #[arg(long)]
    json: bool,
}

impl Worker {
    /// Reads the registry or tells a worker, and prints.
    pub async fn run(self, options: &Options) -> Result<Exit, CliError> {
        let client = options.connect(Role::Operator).await?;
        let exit = match self {
            Self::Ls { json } => list(&client, json).await,
            Self::Cordon(told) => told.obeys(&client, Order::Cordon).await,
            Self::Uncordon(told) => told.obeys(&client, Order::Uncordon).await,
            Self::Drain {
                told, wait: false, ..
            } => told.obeys(&client, Order::Drain).await,
            Self::Drain { told, timeout, .. } => told.drains(&client, timeout).await,
        };
        client.close().await;
        exit
    }
}

impl Told {
    /// Gives an order and shows the acknowledgement.
    async fn obeys(&self, client: &Client, order: Order) -> Result<Exit, CliError> {
        let obeyed = client.order(&self.id, order).await?;
        self.show(&obeyed)?;
        let is_so = match order {
            Order::Drain => obeyed.state == WorkerState::Draining,
            Order::Cordon => {
                matches!(obeyed.state, WorkerState::Cordoned | WorkerState::Draining)
            }
            Order::Uncordon => {
                matches!(obeyed.state, WorkerState::Ready | WorkerState::Unhealthy)
            }
        };
        if is_so {
            return Ok(Exit::Ok);
        }
        let (id, state) = (escape_line(&self.id), word(&obeyed.state));
        Err(CliError::Failed(match obeyed.state {
            WorkerState::Draining => format!("{id} drains, which cannot be taken back"),
            _ => format!("{id} is {state}: its version knows no {}", order.as_str()),
        }))
    }

    /// Has it drain, and waits for its end.
    async fn drains(&self, client: &Client, timeout: Option<Micros>) -> Result<Exit, CliError> {
        let until = timeout.map(|time| Instant::now() + time.duration());
        self.obeys(client, Order::Drain).await?;
        let mut shown = None;
        loop {
            if until.is_some_and(|until| Instant::now() >= until) {
                tell(format!("{} still drains", escape_line(&self.id)));
                return Ok(Exit::TimedOut);
            }
            sleep(DRAIN_LOOK).await;
            match client.order(&self.id, Order::Drain).await {
                Ok(obeyed) => {
                    let left = obeyed.running.len();
                    if shown.replace(left).is_some_and(|before| before != left) {
                        self.show(&obeyed)?;
                    }
                }
                Err(ClientError::Order(OrderError::NoSuchWorker { .. })) => {
                    tell(format!("{} has ended", escape_line(&self.id)));
                    return Ok(Exit::Ok);
                }
                // Its last moments, or it was lost: the registry says soon.
                Err(ClientError::Order(OrderError::Silent { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn show(&self, obeyed: &Obeyed) -> Result<(), CliError> {
        if self.json {
            return say_json(obeyed);
        }
        let (id, state) = (escape_line(&obeyed.worker), word(&obeyed.state));
        say(format!("{id}  {state}  {} running", obeyed.running.len()))?;
        for running in &obeyed.running {
            say(running_line(running))?;
        }
        Ok(())
    }
}

async fn list(client: &Client, json: bool) -> Result<Exit, CliError> {
    let workers = client.workers().await?;
    if json {
        for worker in &workers {
            say_json(worker)?;
        }
        return Ok(Exit::Ok);
    }
    let rows: Vec<_> = workers.iter().map(row).collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let lengths = rows.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or_default()
    });
    for (worker, row) in workers.iter().zip(&rows) {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        say(cells.join("  ").trim_end())?;
        for running in &worker.running {
            say(running_line(running))?;
        }
    }
    Ok(Exit::Ok)
}

/// The columns of `worker ls`.
const COLUMNS: usize = 8;

fn row(worker: &Heartbeat) -> [String; COLUMNS] {
    let held = worker.running.iter().map(|running| running.memory_bytes.0);
    let held = ByteSize(held.sum());
    [
        escape_line(&worker.worker),
        word(&worker.state),
        format!("{} of {} slots", worker.running.len(), worker.slots),
        format!("{held} of {}", worker.memory_bytes),
        word(&worker.isolation),
        format!(
            "{} version {}",
            escape_line(&worker.host),
            escape_line(&worker.version)
        ),
        format!("since {}", instant(worker.started_at)),
        format!("seen {} s ago", ago(worker.seen_at)),
    ]
}

fn running_line(running: &Running) -> String {
    let submission = escape_line(&format!("{}/{}", running.tenant, running.id));
    let since = instant(running.since);
    format!("    {submission}  since {since}, {} s", ago(running.since))
}

fn instant(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_default()
}

fn ago(at: OffsetDateTime) -> i64 {
    (OffsetDateTime::now_utc() - at).whole_seconds().max(0)
}
