//! The outer wall of a slot: the options of its container. No I/O; whoever wants to know what holds a slot reads this file.
//!
//! It differs from a container for one submission (`container::options`) where the inner wall needs it: the agent is a user
//! without any capability, not root; system calls that make namespaces and mounts are allowed; nothing of `/proc` is masked,
//! because a masked one cannot be mounted anew, and the agent masks its own. Its limits are the most that any submission may
//! use: what one may use is the cgroup's that the agent makes for its stages.

use bollard::models::{ContainerCreateBody, HostConfig};
use envicutor_protocol::SLOT;

use super::seccomp;
use crate::{
    config,
    container::{
        options::{self, Place},
        roots,
    },
    submission::limits::Limits,
};

/// Processes beyond the submission's: the agent, what it starts stages by, and the first of the stages' own.
const OWN_PROCESSES: u64 = 8;

/// What a slot is made of, the same for all of a worker.
pub(super) struct Kind {
    /// The image's id.
    pub(super) image: String,
    /// The most that any stage may use.
    pub(super) ceilings: Limits,
    /// The Engine applies AppArmor profiles, and its default one forbids every mount.
    pub(super) has_apparmor: bool,
}

/// The container of a slot.
pub(super) fn create(
    config: &config::Container,
    kind: &Kind,
    place: &Place<'_>,
) -> ContainerCreateBody {
    let uid = place.uid;
    ContainerCreateBody {
        image: Some(kind.image.clone()),
        cmd: Some(vec![SLOT.to_owned()]),
        user: Some(format!("{uid}:{uid}")),
        host_config: Some(host_config(config, kind, place)),
        ..options::common(place)
    }
}

fn host_config(config: &config::Container, kind: &Kind, place: &Place<'_>) -> HostConfig {
    let common = options::common_host_config(config, place);
    let limits = &kind.ceilings;
    let memory = limits
        .memory_bytes
        .0
        .saturating_add(limits.disk_bytes.0)
        .saturating_add(config.overhead_bytes.0);
    let mut security = vec![
        "no-new-privileges".to_owned(),
        format!("seccomp={}", seccomp::PROFILE),
    ];
    if kind.has_apparmor {
        security.push("apparmor=unconfined".to_owned());
    }
    let mut mounts = common.mounts.unwrap_or_default();
    mounts.push(roots::mount(&config.runtimes_volume, true));
    HostConfig {
        security_opt: Some(security),
        masked_paths: Some(Vec::new()),
        readonly_paths: Some(Vec::new()),
        mounts: Some(mounts),
        memory: Some(options::signed(memory)),
        memory_swap: Some(options::signed(memory)),
        pids_limit: Some(options::signed(
            limits.processes.saturating_add(OWN_PROCESSES),
        )),
        ..common
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::FleetCeilings, container::sweep::Labels};

    fn created(has_apparmor: bool) -> ContainerCreateBody {
        let place = Place {
            uid: 700_001,
            agent: Path::new("/state/agent"),
            socket_dir: Path::new("/state/c/x"),
            labels: &Labels::new("host", "worker", Path::new("/state/lock")),
        };
        let kind = Kind {
            image: "sha256:0".to_owned(),
            ceilings: FleetCeilings::default().0.limits,
            has_apparmor,
        };
        create(&config::Container::default(), &kind, &place)
    }

    #[test]
    fn a_slot_has_no_capability_and_no_root() {
        let created = created(false);
        assert_eq!(created.user.as_deref(), Some("700001:700001"));
        let host_config = created.host_config.expect("set");
        assert_eq!(host_config.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host_config.cap_add, None);
        assert_eq!(host_config.privileged, Some(false));
        let security = host_config.security_opt.expect("set");
        assert!(security.contains(&"no-new-privileges".to_owned()));
    }

    #[test]
    fn nothing_in_it_can_be_written_to() {
        let host_config = created(false).host_config.expect("set");
        assert_eq!(host_config.readonly_rootfs, Some(true));
        assert_eq!(host_config.network_mode.as_deref(), Some("none"));
        assert_eq!(host_config.tmpfs, None);
        let mounts = host_config.mounts.expect("set");
        assert_eq!(mounts.len(), 3);
        assert!(mounts.iter().all(|mount| mount.read_only == Some(true)));
    }

    #[test]
    fn its_limits_are_the_ceilings_and_a_little_more() {
        let host_config = created(false).host_config.expect("set");
        assert_eq!(host_config.memory, Some((2 << 30) + (8 << 20)));
        assert_eq!(host_config.memory_swap, host_config.memory);
        assert_eq!(host_config.pids_limit, Some(520));
        assert_eq!(host_config.nano_cpus, None);
    }

    #[test]
    fn apparmor_is_named_only_where_it_is() {
        let names_it = |has_apparmor| {
            let security = created(has_apparmor).host_config.expect("set").security_opt;
            security
                .expect("set")
                .iter()
                .any(|it| it.starts_with("apparmor"))
        };
        assert!(names_it(true));
        assert!(!names_it(false));
    }
}
