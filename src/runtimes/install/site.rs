//! The host's side of an installation: the directory that its container sees, with the agent and the two sockets, for as long as
//! the installation goes on.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use envicutor_protocol::install::{AGENT, LIFE_SOCKET, PROXY_SOCKET};
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};

use crate::{
    config::Config,
    container,
    egress::{EgressError, Proxy, Told},
    runtimes::error::RuntimeError,
    submission::names::Digest,
};

/// Lines about requests that wait to be put into the log; more are in the program's own log only.
const LINES: usize = 256;

/// A directory with its sockets. Dropped, both are closed, whereby the installation ends, and it is removed.
pub(super) struct Site {
    path: PathBuf,
    /// Holds the agent's connection: its end is the installation's.
    life: JoinHandle<()>,
    proxy: Option<Proxy>,
}

impl Site {
    /// Makes it in `work_dir` for whoever holds `lock`, in the place of what a dead holder left.
    pub(super) fn make(work_dir: &Path, lock: &Path) -> Result<Self, RuntimeError> {
        let digest = Digest::of(lock.as_os_str().as_encoded_bytes());
        let name = digest.as_str().trim_start_matches("sha256:");
        // Short: the path of a socket has 107 bytes.
        let path = work_dir.join("i").join(&name[..12]);
        let failed = |source| RuntimeError::WorkDir {
            path: path.clone(),
            source,
        };
        let made = || -> io::Result<UnixListener> {
            // The sockets of a dead holder cannot be bound again.
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Who is root in the container has no right over the modes of others' files here, and others pass.
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&path)?;
            container::write_agent(&path.join(AGENT))?;
            let life = UnixListener::bind(path.join(LIFE_SOCKET))?;
            fs::set_permissions(path.join(LIFE_SOCKET), Permissions::from_mode(0o666))?;
            Ok(life)
        };
        let life = made().map_err(failed)?;
        let life = tokio::spawn(async move {
            // The agent is the first: nothing else runs in the container before.
            let held = life.accept().await;
            drop(life);
            std::future::pending::<()>().await;
            drop(held);
        });
        let path = path.canonicalize().map_err(failed)?;
        Ok(Self {
            path,
            life,
            proxy: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the way out to `hosts`. What comes of each request is told in lines.
    pub(super) fn open(
        &mut self,
        config: &Config,
        hosts: Vec<String>,
    ) -> Result<mpsc::Receiver<String>, RuntimeError> {
        let (sender, lines) = mpsc::channel(LINES);
        let told: Told = std::sync::Arc::new(move |line| {
            tracing::info!(target: "envicutor::egress", "{line}");
            let _ = sender.try_send(line);
        });
        let socket = self.path.join(PROXY_SOCKET);
        let proxy = Proxy::start(config, hosts, &socket, told)?;
        let opened = fs::set_permissions(&socket, Permissions::from_mode(0o666));
        opened.map_err(|source| EgressError::Listen {
            path: socket,
            source,
        })?;
        self.proxy = Some(proxy);
        Ok(lines)
    }

    /// Requests and bytes so far.
    pub(super) fn used(&self) -> (u64, u64) {
        self.proxy.as_ref().map_or((0, 0), Proxy::used)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.life.abort();
        self.proxy = None;
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, directory = %self.path.display(), "the directory of an installation stays");
        }
    }
}
