//! What the outer wall is made of: the options of a container for one submission, and what slots share with it. No I/O; whoever
//! wants to know what holds a submission reads this file.

use std::{collections::HashMap, path::Path};

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Mount, MountType,
};
use envicutor_protocol::{AGENT_PATH, SOCKET_DIR, WATCH, WORK_DIR};

use super::{Request, oci_runtime::Keeper, sweep::Labels};
use crate::{
    config,
    submission::{limits::Limits, units::ByteSize},
};

/// Says nothing about the machine.
const HOST_NAME: &str = "envicutor";

/// Files beyond the submission's in its work directory: the directory itself.
const OWN_INODES: u64 = 1;

/// The agent.
const OWN_PROCESSES: u64 = 1;

/// When the machine runs out of memory, a container goes before the worker and the message bus.
const OOM_SCORE: i64 = 500;

/// Who and where a container is.
pub(super) struct Place<'a> {
    pub(super) uid: u32,
    pub(super) agent: &'a Path,
    pub(super) socket_dir: &'a Path,
    pub(super) labels: &'a Labels,
}

/// What a container has of the limits that can be changed while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Memory in bytes, the agent's included.
    pub(super) memory_bytes: u64,
    /// Processes, the agent included.
    pub(super) processes: u64,
}

impl Allowance {
    /// What a container needs for a stage with `limits`.
    pub(super) fn of(limits: &Limits, overhead: ByteSize) -> Self {
        Self {
            memory_bytes: limits.memory_bytes.0.saturating_add(overhead.0),
            processes: limits.processes.saturating_add(OWN_PROCESSES),
        }
    }
}

/// The container for `request`.
pub(super) fn create(
    config: &config::Container,
    keeper: Keeper,
    request: &Request,
    place: &Place<'_>,
) -> ContainerCreateBody {
    let arguments = match keeper {
        Keeper::Cgroup => Vec::new(),
        Keeper::Agent(_) => vec![WATCH.to_owned()],
    };
    ContainerCreateBody {
        image: Some(request.image.clone()),
        cmd: Some(arguments),
        user: Some("0:0".to_owned()),
        host_config: Some(host_config(config, keeper, request, place)),
        ..common(place)
    }
}

/// What every container with an agent has.
pub(super) fn common(place: &Place<'_>) -> ContainerCreateBody {
    ContainerCreateBody {
        entrypoint: Some(vec![AGENT_PATH.to_owned()]),
        env: Some(Vec::new()),
        working_dir: Some("/".to_owned()),
        hostname: Some(HOST_NAME.to_owned()),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..Default::default()
        }),
        labels: Some(place.labels.of(place.uid)),
        ..Default::default()
    }
}

fn host_config(
    config: &config::Container,
    keeper: Keeper,
    request: &Request,
    place: &Place<'_>,
) -> HostConfig {
    let allowance = keeper.allowance(&request.limits, config.overhead_bytes);
    HostConfig {
        // For the agent: to make its stages another user's, and to end them.
        cap_add: Some(["SETUID", "SETGID", "KILL"].map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        tmpfs: Some(in_memory(config, request, place.uid)),
        memory: Some(signed(allowance.memory_bytes)),
        memory_swap: Some(signed(allowance.memory_bytes)),
        pids_limit: Some(signed(allowance.processes)),
        nano_cpus: Some(nano_cpus(config.cpus)),
        ..common_host_config(config, place)
    }
}

/// What holds every container with an agent.
pub(super) fn common_host_config(config: &config::Container, place: &Place<'_>) -> HostConfig {
    HostConfig {
        network_mode: Some("none".to_owned()),
        ipc_mode: Some("private".to_owned()),
        // Whatever the Engine's default is: in the host's, the agent would find the cgroups of the whole machine and read
        // none, and version 2 would lose `nsdelegate` there.
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        cap_drop: Some(vec!["ALL".to_owned()]),
        readonly_rootfs: Some(true),
        mounts: Some(vec![
            bind(place.agent, AGENT_PATH),
            bind(place.socket_dir, SOCKET_DIR),
        ]),
        oom_score_adj: Some(OOM_SCORE),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        auto_remove: Some(true),
        init: Some(false),
        privileged: Some(false),
        runtime: config.oci_runtime.clone(),
        ..Default::default()
    }
}

/// Everything that a stage can write to. Counted as its memory, and bounded on its own.
fn in_memory(config: &config::Container, request: &Request, uid: u32) -> HashMap<String, String> {
    // To a tmpfs a size or number of 0 means no bound.
    let bounds = |size: ByteSize, inodes: u64| {
        format!(
            "rw,nosuid,nodev,size={},nr_inodes={}",
            size.0.max(1),
            inodes.max(1)
        )
    };
    let work = bounds(
        request.disk_bytes,
        request.inodes.saturating_add(OWN_INODES),
    );
    let scratch = bounds(
        config.tmp_bytes,
        config.tmp_inodes.saturating_add(OWN_INODES),
    );
    HashMap::from([
        (
            WORK_DIR.to_owned(),
            format!("{work},exec,mode=0700,uid={uid},gid={uid}"),
        ),
        ("/tmp".to_owned(), format!("{scratch},exec,mode=1777")),
        ("/dev/shm".to_owned(), format!("{scratch},noexec,mode=1777")),
    ])
}

/// A read-only bind mount. Unlike the short form, this one refuses a source that is not there.
pub(super) fn bind(source: &Path, target: &str) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        ..Default::default()
    }
}

/// The change that gives a living container `allowance`. Memory is always named: where it is absent, Engines reset it.
pub(super) fn update(allowance: Allowance) -> ContainerUpdateBody {
    ContainerUpdateBody {
        memory: Some(signed(allowance.memory_bytes)),
        memory_swap: Some(signed(allowance.memory_bytes)),
        pids_limit: Some(signed(allowance.processes)),
        ..Default::default()
    }
}

/// A number as the Engine's API has it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the conversion saturates, and no machine has that many processors"
)]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::units::Micros;

    fn request() -> Request {
        Request {
            tenant: crate::submission::names::Tenant::default_tenant(),
            image: "sha256:0".to_owned(),
            disk_bytes: ByteSize(1 << 20),
            inodes: 10,
            limits: Limits {
                cpu_time_us: Micros(1),
                extra_time_us: Micros(0),
                wall_time_us: Micros(1),
                memory_bytes: ByteSize(64 << 20),
                stack_bytes: ByteSize(1),
                processes: 4,
                open_files: 1,
                file_size_bytes: ByteSize(1),
                disk_bytes: ByteSize(1 << 20),
                inodes: 10,
                output_bytes: ByteSize(1),
            },
            fresh: false,
        }
    }

    fn created() -> HostConfig {
        created_with(Keeper::Cgroup).host_config.expect("set")
    }

    fn created_with(keeper: Keeper) -> ContainerCreateBody {
        let place = Place {
            uid: 700_001,
            agent: Path::new("/state/agent"),
            socket_dir: Path::new("/state/c/x"),
            labels: &Labels::new("host", "worker", Path::new("/state/lock")),
        };
        create(&config::Container::default(), keeper, &request(), &place)
    }

    #[test]
    fn nothing_of_the_host_is_in_a_container_but_the_agent_and_its_socket_read_only() {
        let host_config = created();
        assert_eq!(host_config.binds, None);
        let mounts = host_config.mounts.expect("set");
        assert_eq!(mounts.len(), 2);
        assert!(mounts.iter().all(|mount| mount.read_only == Some(true)));
        assert_eq!(host_config.network_mode.as_deref(), Some("none"));
        assert_eq!(
            host_config.cgroupns_mode,
            Some(HostConfigCgroupnsModeEnum::PRIVATE)
        );
        assert_eq!(host_config.readonly_rootfs, Some(true));
    }

    #[test]
    fn memory_has_no_swap_and_a_little_more_than_the_stage_may_use() {
        let host_config = created();
        assert_eq!(host_config.memory, Some(72 << 20));
        assert_eq!(host_config.memory_swap, host_config.memory);
        assert_eq!(host_config.pids_limit, Some(5));
    }

    #[test]
    fn an_agent_that_keeps_the_limits_is_told_so_and_has_room() {
        let created = created_with(Keeper::Agent(Allowance {
            memory_bytes: 2 << 30,
            processes: 5_000,
        }));
        assert_eq!(created.cmd, Some(vec![WATCH.to_owned()]));
        let host_config = created.host_config.expect("set");
        assert_eq!(host_config.memory, Some(2 << 30));
        assert_eq!(host_config.pids_limit, Some(5_000));
    }

    #[test]
    fn what_can_be_written_to_is_bounded() {
        let tmpfs = created().tmpfs.expect("set");
        assert_eq!(tmpfs.len(), 3);
        for (path, options) in tmpfs {
            assert!(!options.contains("size=0"), "{path}: {options}");
            assert!(options.contains("nr_inodes="), "{path}: {options}");
            assert!(options.contains("nosuid,nodev"), "{path}: {options}");
        }
    }
}
