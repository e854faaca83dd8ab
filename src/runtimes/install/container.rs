//! The container of an installation: what holds it, its life, and what it leaves. It has no network but loopback, nothing of the
//! host but the agent and two sockets, and of root's rights those that a package needs; see [`body`].

use std::{
    collections::HashMap,
    convert::Infallible,
    path::Path,
    time::{Duration, Instant},
};

use bollard::{
    Docker,
    container::{AttachContainerResults, LogOutput},
    models::{
        ContainerConfig, ContainerCreateBody, ContainerUpdateBody, HealthConfig, HostConfig,
        HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount, MountType, ResourcesUlimits,
    },
    query_parameters::{
        AttachContainerOptionsBuilder, CommitContainerOptions, CreateContainerOptions,
        DownloadFromContainerOptionsBuilder, InspectContainerOptions,
        InspectContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    },
};
use envicutor_protocol::install::{AGENT, DIRECTORY, INSTALL};
use futures_util::StreamExt;

use super::{
    BASE, BUILD, DEFINITION, REPOSITORY, RUNTIME, SCRIPT,
    share::{self, PERIOD_US, Share, Times},
};
use crate::{
    config,
    runtimes::{
        definition::Definition,
        error::{RuntimeError, engine, is_missing},
        progress::Log,
    },
    submission::names::Digest,
};

/// What root keeps of its rights: whose files are, and to run a step as another user.
const CAPABILITIES: [&str; 6] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "SETUID",
    "SETGID",
];

/// When the machine runs out of memory, an installation goes before anything that runs.
const OOM_SCORE: i64 = 800;

/// The most that is read of an image's apt sources, in bytes.
const SOURCES_BYTES: usize = 4 << 20;

/// Where an image has them.
const SOURCES: &str = "/etc/apt";

/// How the container of an installation is made.
fn body(
    config: &config::Installer,
    definition: &Definition,
    base: &str,
    lock: &Path,
    directory: &Path,
) -> ContainerCreateBody {
    let agent = format!("{DIRECTORY}/{AGENT}");
    let mut entrypoint = [
        agent.as_str(),
        INSTALL,
        "/bin/bash",
        "-eu",
        "-c",
        SCRIPT,
        "install",
    ]
    .map(str::to_owned)
    .to_vec();
    entrypoint.push(definition.script.clone().unwrap_or_default());
    entrypoint.extend(definition.packages.iter().cloned());
    ContainerCreateBody {
        image: Some(base.to_owned()),
        // All of it is the entrypoint, so that the committed image can be left with no command at all.
        entrypoint: Some(entrypoint),
        cmd: Some(Vec::new()),
        user: Some("0:0".to_owned()),
        working_dir: Some("/".to_owned()),
        hostname: Some("envicutor".to_owned()),
        healthcheck: Some(no_health()),
        labels: Some(HashMap::from([(
            BUILD.to_owned(),
            lock.display().to_string(),
        )])),
        host_config: Some(host_config(config, directory)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(config: &config::Installer, directory: &Path) -> HostConfig {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let memory = signed(config.memory_bytes.0);
    let limit = |name: &str, most: i64| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(most),
        hard: Some(most),
    };
    HostConfig {
        network_mode: Some("none".to_owned()),
        ipc_mode: Some("private".to_owned()),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        // Seccomp and AppArmor are the Engine's defaults.
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // Below `/dev`, which is in memory: nothing of it is in what is committed.
        mounts: Some(vec![Mount {
            typ: Some(MountType::BIND),
            source: Some(directory.to_string_lossy().into_owned()),
            target: Some(DIRECTORY.to_owned()),
            read_only: Some(true),
            ..Mount::default()
        }]),
        memory: Some(memory),
        memory_swap: Some(memory),
        pids_limit: Some(signed(config.processes)),
        cpu_shares: Some(config.cpu_shares),
        // No single file is larger than the whole may be.
        ulimits: Some(vec![
            limit("fsize", signed(config.disk_bytes.0)),
            limit("core", 0),
        ]),
        oom_score_adj: Some(OOM_SCORE),
        // Its output is read from the container itself: no file of the host grows.
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        init: Some(false),
        privileged: Some(false),
        ..HostConfig::default()
    }
}

/// How long to wait after a look that took `took`: nine times that, so that looking is at most a tenth of the time, and between
/// `look` and ten times `look`, so that it stays a guard. A storage driver other than overlay2 walks the whole file system, and the
/// image's beside it, to tell the size.
fn pause(look: Duration, took: Duration) -> Duration {
    (took * 9).clamp(look, look * 10)
}

fn no_health() -> HealthConfig {
    HealthConfig {
        test: Some(vec!["NONE".to_owned()]),
        ..HealthConfig::default()
    }
}

/// A container that installs. Dropped without [`Installation::remove`] (a timeout, a stop), it is removed behind.
pub(super) struct Installation {
    docker: Docker,
    id: String,
    removed: bool,
}

impl Installation {
    /// Creates it over the image `base`; it does nothing yet.
    pub(super) async fn create(
        docker: &Docker,
        config: &config::Installer,
        definition: &Definition,
        base: &str,
        lock: &Path,
        directory: &Path,
    ) -> Result<Self, RuntimeError> {
        let body = body(config, definition, base, lock, directory);
        let created = docker
            .create_container(None::<CreateContainerOptions>, body)
            .await
            .map_err(engine("create the installation's container"))?;
        Ok(Self {
            docker: docker.clone(),
            id: created.id,
            removed: false,
        })
    }

    /// The hosts of the image's own apt sources.
    pub(super) async fn apt_hosts(&self) -> Result<Vec<String>, RuntimeError> {
        let options = DownloadFromContainerOptionsBuilder::new()
            .path(SOURCES)
            .build();
        let archive = self.docker.download_from_container(&self.id, Some(options));
        let mut archive = std::pin::pin!(archive);
        let mut bytes = Vec::new();
        while let Some(part) = archive.next().await {
            match part {
                Ok(part) if bytes.len() + part.len() <= SOURCES_BYTES => bytes.extend(part),
                // An image without apt has no such directory, and one with a huge one is none of Debian's.
                Ok(_) => return Ok(Vec::new()),
                Err(error) if is_missing(&error) => return Ok(Vec::new()),
                Err(error) => return Err(engine("read the image's apt sources")(error)),
            }
        }
        Ok(super::sources::hosts(&bytes))
    }

    /// Runs it to its end, while `lines` come from elsewhere too; the exit code.
    pub(super) async fn run(
        &self,
        log: &mut Log<'_>,
        lines: &mut tokio::sync::mpsc::Receiver<String>,
    ) -> Result<i64, RuntimeError> {
        let options = AttachContainerOptionsBuilder::new()
            .stream(true)
            .stdout(true)
            .stderr(true)
            .build();
        let attached = self.docker.attach_container(&self.id, Some(options)).await;
        let AttachContainerResults { mut output, .. } =
            attached.map_err(engine("attach to the installation's container"))?;
        self.docker
            .start_container(&self.id, None::<StartContainerOptions>)
            .await
            .map_err(engine("start the installation's container"))?;
        loop {
            tokio::select! {
                piece = output.next() => match piece {
                    Some(piece) => {
                        let piece = piece.map_err(engine("read the installation's log"))?;
                        log.write(&LogOutput::into_bytes(piece));
                    }
                    None => break,
                },
                Some(line) = lines.recv() => log.line(&line),
            }
        }
        self.exit_code().await
    }

    /// The exit code of the ended container. Its output may end a moment before it does.
    async fn exit_code(&self) -> Result<i64, RuntimeError> {
        loop {
            let container = self
                .docker
                .inspect_container(&self.id, None::<InspectContainerOptions>)
                .await
                .map_err(engine("look at the installation's container"))?;
            let state = container.state.unwrap_or_default();
            if state.running != Some(true) {
                return Ok(state.exit_code.unwrap_or(-1));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Looks again and again at how much it has written; ends with that number where it is more than `most`.
    ///
    /// A look every `look`, or less often where it costs much, by [`pause`].
    pub(super) async fn outgrows(&self, most: u64, look: Duration) -> u64 {
        let mut wait = look;
        loop {
            tokio::time::sleep(wait).await;
            let began = Instant::now();
            match self.written().await {
                Some(size) if size > most => return size,
                _ => wait = pause(look, began.elapsed()),
            }
        }
    }

    /// Bounds it, for as long as it runs, to what the machine has no other use for, from `share` on.
    pub(super) async fn give_way(&self, mut share: Share) -> Infallible {
        let mut given = None;
        let mut told = false;
        let mut before = Times::read();
        loop {
            if given != Some(share) {
                match self.bound(share).await {
                    Ok(()) => given = Some(share),
                    // It is tried again with each look.
                    Err(error) if !told && !is_missing(&error) => {
                        tracing::warn!(%error, "the installation's share of the processors cannot be bounded");
                        told = true;
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(share::LOOK).await;
            let now = Times::read();
            if let (Some(before), Some(now)) = (before, now)
                && let Some(idle) = now.idle_percent_since(before)
            {
                share = share.after(idle);
            }
            before = now;
        }
    }

    /// Bounds it by `share` from now on.
    async fn bound(&self, share: Share) -> Result<(), bollard::errors::Error> {
        let body = ContainerUpdateBody {
            cpu_period: Some(PERIOD_US),
            cpu_quota: Some(share.quota_us()),
            ..ContainerUpdateBody::default()
        };
        self.docker.update_container(&self.id, body).await
    }

    /// How much it has written to its disk, in bytes; none where the Engine does not tell.
    pub(super) async fn written(&self) -> Option<u64> {
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let looked = self.docker.inspect_container(&self.id, Some(options)).await;
        u64::try_from(looked.ok()?.size_rw?).ok()
    }

    /// Commits it with nothing of the installation in its configuration; the image's id.
    pub(super) async fn commit(
        &self,
        definition: &Definition,
        digest: &Digest,
        base: &str,
    ) -> Result<String, RuntimeError> {
        let labels = [
            (RUNTIME, definition.reference().to_string()),
            (DEFINITION, digest.to_string()),
            (BASE, base.to_owned()),
            (BUILD, String::new()),
        ];
        let config = ContainerConfig {
            entrypoint: Some(Vec::new()),
            working_dir: Some("/".to_owned()),
            healthcheck: Some(no_health()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
            ..ContainerConfig::default()
        };
        let options = CommitContainerOptions {
            container: Some(self.id.clone()),
            repo: Some(REPOSITORY.to_owned()),
            tag: Some(super::tag(&definition.reference())),
            ..CommitContainerOptions::default()
        };
        let committed = self.docker.commit_container(options, config).await;
        Ok(committed.map_err(engine("commit the image"))?.id)
    }

    /// Removes it.
    pub(super) async fn remove(mut self) {
        remove(&self.docker, &self.id).await;
        self.removed = true;
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.removed {
            let (docker, id) = (self.docker.clone(), self.id.clone());
            // Nobody can await it here. Where the program ends first, the next installation's sweep does it.
            runtime.spawn(async move { remove(&docker, &id).await });
        }
    }
}

/// Removes a container, running or not.
pub(super) async fn remove(docker: &Docker, id: &str) {
    let options = RemoveContainerOptionsBuilder::new()
        .force(true)
        .v(true)
        .build();
    match docker.remove_container(id, Some(options)).await {
        Err(error) if !is_missing(&error) => {
            tracing::warn!(
                "the installation's container {id} could not be removed: {error}; the next installation tries again"
            );
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> HostConfig {
        let text = "name = 'x'\nversion = '1'\ndescription = 'X'\nsource_file = 'm'\nrun.command = ['x']\nscript = 'true'\n";
        let definition = Definition::parse("x.toml", text).expect("valid");
        let config = config::Installer::default();
        let body = body(
            &config,
            &definition,
            "base",
            Path::new("/l"),
            Path::new("/d"),
        );
        body.host_config.expect("set")
    }

    #[test]
    fn an_installation_has_no_network_and_of_the_host_one_directory_to_read() {
        let made = made();
        assert_eq!(made.network_mode.as_deref(), Some("none"));
        assert!(made.binds.is_none() && made.devices.is_none() && made.volumes_from.is_none());
        let mounts = made.mounts.expect("set");
        assert_eq!(mounts.len(), 1);
        assert_eq!(
            (mounts[0].source.as_deref(), mounts[0].read_only),
            (Some("/d"), Some(true))
        );
    }

    #[test]
    fn a_look_that_costs_much_is_done_less_often_but_still_done() {
        let (look, second) = (Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(pause(look, Duration::ZERO), look);
        assert_eq!(pause(look, second), second * 9);
        assert_eq!(pause(look, second * 60), look * 10);
    }

    #[test]
    fn an_installation_has_the_rights_that_a_package_needs_and_no_other() {
        let made = made();
        assert_eq!(made.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(made.cap_add.expect("set"), CAPABILITIES);
        assert_eq!(
            made.security_opt,
            Some(vec!["no-new-privileges".to_owned()])
        );
        assert_eq!(made.privileged, Some(false));
    }

    #[test]
    fn what_an_installation_uses_is_bounded() {
        let made = made();
        assert_eq!(made.memory, made.memory_swap);
        assert!(made.memory.is_some_and(|it| it > 0) && made.pids_limit.is_some_and(|it| it > 0));
        assert!(made.cpu_shares.is_some_and(|it| it < 1024));
    }
}
