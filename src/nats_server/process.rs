//! The server's process. It ends with us in each of three ways: stopped, killed when its owner is dropped, and ended by the
//! kernel when we die (`setpriv --pdeathsig`). The kernel looks at the *thread* that started a process, so one thread starts the
//! server and waits for its end. Where all three fail, the next start finds it by its pid file.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{POLL, STOP_TIMEOUT, ServerError, files};

/// By how much the server's timers may be late, in nanoseconds. While it waits for the disk its runtime looks up every 70
/// microseconds whether there is something to do; it shares the processors with what it serves, and once in a millisecond
/// does.
const TIMER_SLACK_NS: &str = "1000000";

/// What the server's runtime may use, unless the environment says otherwise: a quarter of the processors, since the programs
/// are what this machine is for, and a heap that grows to three times what lives before it is looked through. Both make a message
/// cheaper.
fn bounds() -> [(&'static str, String); 2] {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    [
        ("GOMAXPROCS", processors.div_ceil(4).to_string()),
        ("GOGC", "200".to_owned()),
    ]
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// As asked.
    Ended,
    /// It took too long.
    Killed,
}

/// A running server.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    ended: watch::Receiver<bool>,
}

impl Process {
    /// Starts `program` with the configuration in `dir`, listening on 127.0.0.1 and `port`, 0 for a free one.
    pub(super) fn start(program: &Path, dir: &Path, port: u16) -> Result<Self, ServerError> {
        files::forget_ports(dir);
        let mut command = command(program, dir, port);
        let (started, start) = mpsc::channel();
        let (tell_end, ended) = watch::channel(false);
        let failed = |source| ServerError::Spawn {
            program: program.to_owned(),
            source,
        };
        let keep = move || {
            if let Err(error) = slacken_timers() {
                tracing::debug!(%error, "the nats-server wakes more often than it needs to");
            }
            let spawned = command.spawn();
            match spawned {
                Ok(mut child) => {
                    // The receiver waits for this, and takes either.
                    let _ = started.send(Ok(child.id()));
                    if let Err(error) = child.wait() {
                        tracing::error!(%error, "the nats-server cannot be waited for");
                    }
                }
                Err(error) => drop(started.send(Err(error))),
            }
            tell_end.send_replace(true);
        };
        std::thread::Builder::new()
            .name("nats-server".into())
            .spawn(keep)
            .map_err(failed)?;
        let spawned = start
            .recv()
            .map_err(|error| failed(std::io::Error::other(error)))?;
        let process = Self {
            pid: spawned.map_err(failed)?,
            ended,
        };
        let path = files::pid(dir);
        fs::write(&path, process.pid.to_string())
            .map_err(|source| ServerError::File { path, source })?;
        Ok(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    pub(super) async fn ended(&mut self) {
        // An error says that the thread is gone, and that waited for the end.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }

    /// Asks it to end, waits for `patience`, then kills it.
    pub(super) async fn stop(&mut self, patience: Duration) -> Stopped {
        if self.has_ended() {
            return Stopped::Ended;
        }
        signal("TERM", self.pid);
        if tokio::time::timeout(patience, self.ended()).await.is_ok() {
            return Stopped::Ended;
        }
        signal("KILL", self.pid);
        self.ended().await;
        Stopped::Killed
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            signal("KILL", self.pid);
        }
    }
}

/// The server's command line. Its working directory is where `server.conf` puts its store.
fn command(program: &Path, dir: &Path, port: u16) -> Command {
    // nats-server's -1 is a free port.
    let port = if port == 0 {
        "-1".to_owned()
    } else {
        port.to_string()
    };
    let args: [OsString; 10] = [
        "-c".into(),
        dir.join("server.conf").into(),
        "-a".into(),
        "127.0.0.1".into(),
        "-p".into(),
        port.into(),
        "--ports_file_dir".into(),
        dir.into(),
        "-l".into(),
        files::log(dir).into(),
    ];
    let mut command = match find_setpriv() {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(args).current_dir(dir);
    let unset = bounds()
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none());
    command.envs(unset);
    // A SIGINT from the terminal is for us; the server ends when we say so.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_for_early_errors(dir));
    command
}

/// Gives this thread, and so what it starts, [`TIMER_SLACK_NS`].
fn slacken_timers() -> std::io::Result<()> {
    let thread = fs::read_link("/proc/thread-self")?;
    let id = thread.file_name().unwrap_or_default();
    let slack = Path::new("/proc").join(id).join("timerslack_ns");
    fs::write(slack, TIMER_SLACK_NS)
}

/// What the server says before it reads its configuration goes to its log as well.
fn log_for_early_errors(dir: &Path) -> Stdio {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(files::log(dir));
    log.map_or_else(|_| Stdio::null(), Stdio::from)
}

fn find_setpriv() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("setpriv"))
        .find(|file| file.is_file())
}

/// Sends a signal by the shell's own `kill`: there is no safe call for it in the standard library.
pub(crate) fn signal(name: &str, pid: u32) {
    let kill = format!("kill -{name} {pid}");
    let status = Command::new("/bin/sh")
        .args(["-c", &kill])
        .stderr(Stdio::null())
        .status();
    if let Err(error) = status {
        tracing::error!(%error, pid, name, "the process cannot be signalled");
    }
}

/// Ends a server that an earlier owner of `dir` left behind. The caller holds the lock, so nobody owns it any more.
pub(super) async fn end_stale(dir: &Path) -> Result<(), ServerError> {
    let path = files::pid(dir);
    let pid = fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    if let Some(pid) = pid.filter(|pid| is_ours(*pid, dir)) {
        tracing::warn!(pid, "ending the nats-server of an earlier run");
        for name in ["TERM", "KILL"] {
            signal(name, pid);
            let asked = Instant::now();
            while is_ours(pid, dir) && asked.elapsed() < STOP_TIMEOUT {
                tokio::time::sleep(POLL).await;
            }
        }
        if is_ours(pid, dir) {
            return Err(ServerError::Stale {
                pid,
                dir: dir.to_owned(),
            });
        }
    }
    // An absent one is what is wanted.
    let _ = fs::remove_file(path);
    Ok(())
}

/// Whether this process is a server of this directory, and not one that got the number of one: its command line names our
/// configuration.
fn is_ours(pid: u32, dir: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let conf = dir.join("server.conf");
    line.split(|byte| *byte == 0)
        .any(|argument| argument == conf.as_os_str().as_encoded_bytes())
}
