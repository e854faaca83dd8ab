//! The socket that a container's agent finds its worker by. It takes one connection, before anything but the agent runs in
//! the container, and is gone then: no program that runs later finds anything to connect to.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use envicutor_protocol::SOCKET_NAME;
use tokio::net::{UnixListener, UnixStream};

use super::{
    ContainerError,
    error::Naming,
    state_dir::{make_dir, remove_if_there},
};

/// A socket that waits for its agent.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Listens in `directory`, which is made. All may enter: the agent is root without the right to pass over modes, and the
    /// directory above is the worker's alone.
    pub(super) fn open(directory: &Path) -> Result<Self, ContainerError> {
        make_dir(directory, 0o755)?;
        let path = directory.join(SOCKET_NAME);
        let listener = UnixListener::bind(&path).naming("listen on", &path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))
            .naming("set the mode of", &path)?;
        Ok(Self { listener, path })
    }

    /// Waits for the agent, and closes the door behind it.
    pub(super) async fn admit(self) -> Result<UnixStream, ContainerError> {
        let (stream, _) = self
            .listener
            .accept()
            .await
            .naming("accept the agent on", &self.path)?;
        remove_if_there(&self.path)?;
        Ok(stream)
    }
}
