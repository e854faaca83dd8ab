//! A place where a worker runs: whenever its process ends, the next one is started, until the place is closed. Every second
//! start keeps the id of the one before, so that both ways are tried: a worker that comes back, and one that is new.

use std::{
    fs::File,
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    faults::{
        history::{Cause, Recorder, What},
        plan::Kind,
    },
    nats_server::signal,
};

/// Orders that wait for a place: one that cannot keep up misses faults.
const ORDERS: usize = 8;

/// Between the end of a worker that nobody ended and the next start.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// What is done to the worker of a place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after this long.
    Freeze(Duration),
    /// SIGTERM.
    Drain,
}

/// What the workers of a place are started with.
#[derive(Debug)]
pub(super) struct Start {
    /// The program.
    pub(super) program: PathBuf,
    /// Its configuration file.
    pub(super) config: PathBuf,
    /// Where their logs go, each to `<id>.log`.
    pub(super) logs: PathBuf,
    /// The beginning of their ids.
    pub(super) name: String,
    /// How long one may take to drain.
    pub(super) patience: Duration,
}

/// A place with its worker.
#[derive(Debug)]
pub(super) struct Place {
    orders: mpsc::Sender<Order>,
    keeper: JoinHandle<io::Result<()>>,
}

impl Place {
    /// Starts the first worker.
    pub(super) fn open(start: Start, recorder: Recorder) -> Self {
        let (orders, taken) = mpsc::channel(ORDERS);
        let keeper = Keeper {
            start,
            recorder,
            orders: taken,
            starts: 0,
        };
        Self {
            orders,
            keeper: tokio::spawn(keeper.keep()),
        }
    }

    /// Does it to whatever worker is there; false where the place is still busy with what came before.
    pub(super) fn order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    /// Drains the worker and starts none any more.
    pub(super) async fn close(self) -> io::Result<()> {
        drop(self.orders);
        self.keeper.await.map_err(io::Error::other)?
    }
}

struct Keeper {
    start: Start,
    recorder: Recorder,
    orders: mpsc::Receiver<Order>,
    starts: usize,
}

/// A worker that runs.
struct Running {
    child: Child,
    id: String,
    since: Instant,
    cause: Cause,
    /// When it is to go on, where it is frozen.
    frozen_until: Option<Instant>,
    /// When it must have drained.
    drained_by: Option<Instant>,
}

impl Keeper {
    async fn keep(mut self) -> io::Result<()> {
        let mut is_open = true;
        while is_open {
            let mut worker = self.begin()?;
            let status = self.attend(&mut worker, &mut is_open).await?;
            self.note_end(&worker, status);
            if worker.cause == Cause::Itself && is_open {
                sleep(AFTER_FAILURE).await;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<Running> {
        let Start { name, logs, .. } = &self.start;
        let id = format!("{name}-{}", self.starts / 2);
        self.starts += 1;
        let log = File::options()
            .create(true)
            .append(true)
            .open(logs.join(format!("{id}.log")))?;
        let mut command = Command::new(&self.start.program);
        // Variables would go before the file.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("ENVICUTOR__") {
                command.env_remove(variable);
            }
        }
        command
            .arg("--config")
            .arg(&self.start.config)
            .args(["--verbose", "--id", &id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A SIGINT from the terminal is for us.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn()?;
        let worker = id.clone();
        self.recorder.note(What::WorkerStarted { worker });
        Ok(Running {
            child,
            id,
            since: Instant::now(),
            cause: Cause::Itself,
            frozen_until: None,
            drained_by: None,
        })
    }

    /// Follows orders until the worker has ended.
    async fn attend(&mut self, worker: &mut Running, is_open: &mut bool) -> io::Result<ExitStatus> {
        loop {
            let next = worker
                .frozen_until
                .into_iter()
                .chain(worker.drained_by)
                .min();
            tokio::select! {
                status = worker.child.wait() => return status,
                order = self.orders.recv(), if *is_open => if let Some(order) = order {
                    self.follow(order, worker);
                } else {
                    *is_open = false;
                    worker.drain(self.start.patience);
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.time_is_up(worker);
                }
            }
        }
    }

    fn follow(&self, order: Order, worker: &mut Running) {
        let kind = match order {
            Order::Kill => Kind::WorkerKilled,
            Order::Freeze(_) => Kind::WorkerFrozen,
            Order::Drain => Kind::WorkerDrained,
        };
        self.recorder.note(What::Fault {
            kind,
            whom: worker.id.clone(),
        });
        match order {
            Order::Kill => worker.kill(),
            Order::Freeze(time) => {
                worker.signal("STOP");
                worker.frozen_until = Some(Instant::now() + time);
            }
            Order::Drain => worker.drain(self.start.patience),
        }
    }

    fn time_is_up(&self, worker: &mut Running) {
        let now = Instant::now();
        if worker.frozen_until.is_some_and(|until| until <= now) {
            worker.thaw();
        }
        if worker.drained_by.is_some_and(|by| by <= now) {
            let (id, patience) = (&worker.id, self.start.patience);
            let note = format!("{id} did not drain within {patience:?} and is killed");
            self.recorder.note(What::Note(note));
            worker.drained_by = None;
            worker.signal("KILL");
        }
    }

    fn note_end(&self, worker: &Running, status: ExitStatus) {
        // One that does not drain in good order ends by itself.
        let cause = match worker.cause {
            Cause::Drained if !status.success() => Cause::Itself,
            cause => cause,
        };
        self.recorder.note(What::WorkerEnded {
            worker: worker.id.clone(),
            cause,
            how: status.to_string(),
            after: worker.since.elapsed(),
        });
    }
}

impl Running {
    fn kill(&mut self) {
        self.cause = Cause::Killed;
        self.signal("KILL");
    }

    fn drain(&mut self, patience: Duration) {
        // What is stopped hears nothing.
        self.thaw();
        if self.cause == Cause::Itself {
            self.cause = Cause::Drained;
            self.drained_by = Some(Instant::now() + patience);
            self.signal("TERM");
        }
    }

    fn thaw(&mut self) {
        if self.frozen_until.take().is_some() {
            self.signal("CONT");
        }
    }

    fn signal(&self, name: &str) {
        // None once it was waited for.
        if let Some(pid) = self.child.id() {
            signal(name, pid);
        }
    }
}
