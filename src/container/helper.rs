//! Containers that do one thing for the worker, with the rights that it may not have itself: they hold no agent that
//! connects, run one subcommand of it if anything, and are removed by whoever made them.

use std::{collections::HashMap, path::Path};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
};
use envicutor_protocol::AGENT_PATH;
use tokio::{sync::oneshot, time::timeout};

use super::{
    ContainerError,
    engine::Engine,
    options,
    removal::{Existence, Occupancy, Remover},
};

/// What a helper is to do.
pub(super) struct Errand<'a> {
    /// The image: the slots'.
    pub(super) image: &'a str,
    /// The agent's file.
    pub(super) agent: &'a Path,
    /// Whose it is.
    pub(super) labels: HashMap<String, String>,
    /// The subcommand of the agent.
    pub(super) arguments: Vec<String>,
    /// What root keeps of its rights.
    pub(super) capabilities: &'a [&'a str],
    /// What it sees besides the agent.
    pub(super) mount: Mount,
}

/// A helper that was created. Dropped, it is removed.
pub(super) struct Helper {
    engine: Engine,
    occupancy: Occupancy,
}

impl Helper {
    /// Creates the container `name`, which does nothing yet. By a task of its own that is never dropped half-way: another may
    /// have a container of this name, so that afterwards nobody could tell whose it is.
    pub(super) async fn create(
        remover: &Remover,
        name: String,
        errand: Errand<'_>,
    ) -> Result<Self, ContainerError> {
        let (body, engine) = (body(errand), remover.engine.clone());
        let mut occupancy = remover.occupy_helper(name);
        let (answer, created) = oneshot::channel();
        remover.tasks.spawn(async move {
            let created = engine.create(occupancy.name(), body).await;
            if created.is_ok() {
                occupancy.set(Existence::Created);
            }
            // If nobody waits any more, it goes with the answer.
            let _ = answer.send(created.map(|_| Self { engine, occupancy }));
        });
        created.await.unwrap_or(Err(ContainerError::Closed))
    }

    pub(super) fn name(&self) -> &str {
        self.occupancy.name()
    }

    /// Does its errand, to the end. The error is what it says.
    pub(super) async fn run(&self) -> Result<Result<(), String>, ContainerError> {
        let waited = self.engine.call_timeout();
        self.engine.start(self.name()).await?;
        let ended = timeout(waited, self.engine.wait_until_stopped(self.name()));
        let code = ended.await.map_err(|_| ContainerError::Unanswered {
            doing: "end a helper",
            waited,
        })?;
        if code == Some(0) {
            return Ok(Ok(()));
        }
        let said = self.engine.said(self.name()).await?;
        Ok(Err(if said.is_empty() {
            format!("it ended with exit code {code:?}")
        } else {
            said
        }))
    }
}

fn body(errand: Errand<'_>) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(errand.image.to_owned()),
        entrypoint: Some(vec![AGENT_PATH.to_owned()]),
        cmd: Some(errand.arguments),
        user: Some("0:0".to_owned()),
        labels: Some(errand.labels),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(
                errand
                    .capabilities
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            ),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            readonly_rootfs: Some(true),
            mounts: Some(vec![options::bind(errand.agent, AGENT_PATH), errand.mount]),
            // Read back when it fails, whatever the Engine's default driver is.
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: None,
            }),
            init: Some(false),
            ..Default::default()
        }),
        ..Default::default()
    }
}
