//! Gives a slot's agent the cgroup of its own container, so that it can make cgroups for stages in it. The subcommand
//! `delegate` of the agent says which files that are; here is who runs it: this process where it may, else a helper
//! container, so that a worker needs no more than the Docker socket.

use std::{sync::Arc, sync::OnceLock};

use bollard::models::{Mount, MountBindOptions, MountType};
use tokio::process::Command;
use tracing::{debug, info};
use uuid::Uuid;

use crate::{
    config::Cgroups,
    container::{
        ContainerError,
        helper::{Errand, Helper},
        start::Starter,
    },
};

/// The cgroups of this host.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The same in a helper.
const IN_HELPER: &str = "/cgroup";

/// What root keeps of its rights in a helper.
const CAPABILITIES: [&str; 1] = ["CHOWN"];

/// Gives cgroups away.
pub(super) struct Delegate {
    starter: Arc<Starter>,
    image: String,
    /// Known from the beginning where it is configured, else from the first slot on.
    launcher: OnceLock<Launcher>,
}

/// Who runs the subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Launcher {
    /// This process: it is root and sees the cgroups of the host.
    Direct,
    /// A container that sees them.
    Helper,
}

impl Delegate {
    pub(super) fn new(starter: Arc<Starter>, image: String) -> Self {
        let launcher = match starter.config.cgroups {
            Cgroups::Auto => OnceLock::new(),
            Cgroups::Direct => Launcher::Direct.into(),
            Cgroups::Helper => Launcher::Helper.into(),
        };
        Self {
            starter,
            image,
            launcher,
        }
    }

    /// Gives the cgroup of the container with this id to `uid`.
    pub(super) async fn give(&self, container: &str, uid: u32) -> Result<(), ContainerError> {
        let failed = |problem| ContainerError::Delegation {
            container: container.to_owned(),
            problem,
        };
        match self.launcher.get() {
            Some(Launcher::Direct) => self.direct(container, uid).await.map_err(failed),
            Some(Launcher::Helper) => self.helper(container, uid).await?.map_err(failed),
            None => {
                let launcher = match self.direct(container, uid).await {
                    Ok(()) => Launcher::Direct,
                    Err(why_not) => {
                        debug!(
                            why_not,
                            "this process cannot give cgroups away: a helper container does"
                        );
                        self.helper(container, uid).await?.map_err(failed)?;
                        Launcher::Helper
                    }
                };
                info!(?launcher, "cgroups are given to slots");
                // Another slot may have found the same meanwhile.
                let _ = self.launcher.set(launcher);
                Ok(())
            }
        }
    }

    async fn direct(&self, container: &str, uid: u32) -> Result<(), String> {
        let mut command = Command::new(self.starter.state_dir.agent());
        command
            .args(arguments(CGROUPS, container, uid))
            .kill_on_drop(true);
        let patience = self.starter.remover.engine.call_timeout();
        let ended = tokio::time::timeout(patience, command.output()).await;
        let ended = ended.map_err(|_| format!("it did not end within {patience:?}"))?;
        let ended = ended.map_err(|error| format!("it cannot be started: {error}"))?;
        if ended.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&ended.stderr).trim().to_owned())
        }
    }

    async fn helper(
        &self,
        container: &str,
        uid: u32,
    ) -> Result<Result<(), String>, ContainerError> {
        let agent = self.starter.state_dir.agent();
        let errand = Errand {
            image: &self.image,
            agent: &agent,
            labels: self.starter.labels.of_helper(),
            arguments: arguments(IN_HELPER, container, uid).to_vec(),
            capabilities: &CAPABILITIES,
            mount: cgroups(),
        };
        let name = format!("envicutor-delegate-{}", Uuid::now_v7().simple());
        Helper::create(&self.starter.remover, name, errand)
            .await?
            .run()
            .await
    }
}

fn arguments(root: &str, container: &str, uid: u32) -> [String; 4] {
    ["delegate", root, container, &uid.to_string()].map(str::to_owned)
}

/// The cgroups of the host, to change owners in.
fn cgroups() -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(CGROUPS.to_owned()),
        target: Some(IN_HELPER.to_owned()),
        read_only: Some(false),
        bind_options: Some(MountBindOptions::default()),
        ..Default::default()
    }
}
