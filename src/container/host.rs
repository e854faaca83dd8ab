//! What this host and its Docker Engine allow, as far as it can be read: no container is started. For each thing that is
//! missing, the one command that would allow it.
//!
//! What is read here explains; what decides is the test that makes a slot.

use std::fs;

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum};
use serde::Serialize;

use super::{
    oci_runtime::{INSTALL_GVISOR, Kernel, names},
    pages::Pages,
};
use crate::config;

/// The oldest Engine that was tried.
const OLDEST_ENGINE: (u32, u32) = (20, 10);

/// The settings that decide over user namespaces of processes without rights: name, the value that forbids them, a value that
/// allows them.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
];

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// Whether it is well.
    pub state: State,
    /// What was found.
    pub found: String,
    /// The one command that would mend it, where it is not well and there is one.
    pub command: Option<String>,
}

/// How a finding counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Well,
    /// It works, but should be mended.
    Weak,
    /// Isolation `sandbox` cannot be given without it.
    Missing,
}

impl Finding {
    /// All is well with `name`.
    pub fn well(name: &str, found: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            state: State::Well,
            found: found.into(),
            command: None,
        }
    }

    /// The same thing in another state, with the command that mends it.
    #[must_use]
    pub fn but(self, state: State, command: &str) -> Self {
        Self {
            state,
            command: (!command.is_empty()).then(|| command.to_owned()),
            ..self
        }
    }
}

/// What was read of the host.
#[derive(Debug, Clone, Default)]
pub(super) struct Host {
    /// The values of [`SETTINGS`]; none where the kernel has no such setting.
    settings: [Option<String>; 3],
    /// `/proc/mounts`.
    mounts: String,
    /// `/proc/swaps`.
    swaps: String,
    pages: Pages,
}

impl Host {
    pub(super) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let setting = |(name, _, _): (&str, _, _)| {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            Some(fs::read_to_string(path).ok()?.trim().to_owned())
        };
        Self {
            settings: SETTINGS.map(setting),
            mounts: text("/proc/mounts"),
            swaps: text("/proc/swaps"),
            pages: Pages::read(),
        }
    }

    /// Everything that was looked at, with what the Engine says of itself.
    pub(super) fn findings(&self, config: &config::Container, engine: &SystemInfo) -> Vec<Finding> {
        let mut findings = vec![
            version(engine),
            architecture(engine),
            cgroups(engine),
            limits(engine),
            self.swap(engine),
        ];
        findings.extend(self.nsdelegate(engine));
        findings.extend(self.user_namespaces());
        findings.extend(security(engine));
        findings.push(storage(engine));
        findings.push(runtimes(config, engine));
        findings.extend(self.pages.finding());
        findings
    }

    fn user_namespaces(&self) -> Vec<Finding> {
        let one = |((name, forbids, allows), value): ((&str, &str, &str), &Option<String>)| {
            let finding = match value {
                Some(value) => Finding::well(name, value),
                None => Finding::well(name, "this kernel has no such setting"),
            };
            if value.as_deref() != Some(forbids) {
                return finding;
            }
            let command = format!(
                "echo {name} = {allows} | sudo tee -a /etc/sysctl.d/60-envicutor.conf && sudo sysctl --system"
            );
            finding.but(State::Missing, &command)
        };
        SETTINGS.into_iter().zip(&self.settings).map(one).collect()
    }

    /// Without it a process that can mount the cgroups may change its own limits.
    fn nsdelegate(&self, engine: &SystemInfo) -> Option<Finding> {
        if !is_version_2(engine) {
            return None;
        }
        let options = self
            .mounts
            .lines()
            .filter(|line| line.split(' ').nth(2) == Some("cgroup2"))
            .filter_map(|line| line.split(' ').nth(3));
        let has_it = options
            .flat_map(|it| it.split(','))
            .any(|it| it == "nsdelegate");
        let name = "cgroups: nsdelegate";
        Some(if has_it {
            Finding::well(name, "set")
        } else {
            Finding::well(
                name,
                "not set: a container with the host's cgroup namespace takes it away",
            )
            .but(
                State::Weak,
                "sudo mount -o remount,nsdelegate,memory_recursiveprot /sys/fs/cgroup",
            )
        })
    }

    /// Memory that is swapped out is not counted.
    fn swap(&self, engine: &SystemInfo) -> Finding {
        let is_used = self.swaps.lines().count() > 1;
        let found = match (is_used, engine.swap_limit) {
            (false, _) => "none in use",
            (true, Some(true)) => "in use, and limited for containers",
            (true, _) => {
                return Finding::well("swap", "in use, and the Engine cannot limit it")
                    .but(State::Weak, "sudo swapoff --all");
            }
        };
        Finding::well("swap", found)
    }
}

fn is_version_2(engine: &SystemInfo) -> bool {
    matches!(engine.cgroup_version, Some(SystemInfoCgroupVersionEnum::_2))
}

fn cgroups(engine: &SystemInfo) -> Finding {
    let driver = engine
        .cgroup_driver
        .map_or_else(|| "no".to_owned(), |driver| driver.to_string());
    let version = if is_version_2(engine) { 2 } else { 1 };
    let finding = Finding::well("cgroups", format!("version {version}, {driver} driver"));
    if driver == "none" || driver == "no" {
        return finding.but(
            State::Missing,
            "sudo systemctl disable --now docker-rootless && sudo systemctl enable --now docker",
        );
    }
    finding
}

fn version(engine: &SystemInfo) -> Finding {
    let version = engine.server_version.clone().unwrap_or_default();
    let mut numbers = version.split('.').map(|it| it.parse::<u32>().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let finding = Finding::well("Docker Engine", version);
    if number < OLDEST_ENGINE {
        return finding.but(State::Weak, "sudo apt-get install --only-upgrade docker.io");
    }
    finding
}

/// The stages' filter for system calls knows one.
fn architecture(engine: &SystemInfo) -> Finding {
    let architecture = engine.architecture.clone().unwrap_or_default();
    let is_known = matches!(architecture.as_str(), "x86_64" | "amd64");
    let finding = Finding::well("architecture", architecture);
    if is_known {
        finding
    } else {
        finding.but(State::Missing, "")
    }
}

fn limits(engine: &SystemInfo) -> Finding {
    let has = [
        ("memory", engine.memory_limit),
        ("pids", engine.pids_limit),
        ("cpu", engine.cpu_cfs_quota),
    ];
    let lacks = has.iter().filter(|(_, has)| *has == Some(false));
    let lacks: Vec<&str> = lacks.map(|(name, _)| *name).collect();
    let name = "cgroups: controllers";
    if lacks.is_empty() {
        return Finding::well(name, "memory, pids, cpu");
    }
    Finding::well(name, format!("without {}", lacks.join(", "))).but(
        State::Missing,
        "echo 'GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX cgroup_enable=memory\"' | \
         sudo tee -a /etc/default/grub.d/envicutor.cfg && sudo update-grub && sudo reboot",
    )
}

fn security(engine: &SystemInfo) -> [Finding; 3] {
    let options = engine.security_options.clone().unwrap_or_default();
    let has = |name: &str| {
        let name = format!("name={name}");
        options.iter().any(|it| it.split(',').any(|it| it == name))
    };
    let seccomp = if has("seccomp") {
        Finding::well("seccomp", "available")
    } else {
        Finding::well("seccomp", "the Engine has none")
            .but(State::Missing, "sudo apt-get install --reinstall docker.io")
    };
    let apparmor = if has("apparmor") {
        "in force; slots run unconfined by it, since its profile for containers forbids every mount"
    } else {
        "not in force"
    };
    let rights = if has("rootless") {
        Finding::well(
            "Engine's rights",
            "rootless: it can make no devices and has few uids",
        )
        .but(State::Missing, "sudo systemctl enable --now docker")
    } else if has("userns") {
        Finding::well("Engine's rights", "root, with containers in a user namespace: uids are not the host's").but(
            State::Missing,
            "sudo sed -i '/userns-remap/d' /etc/docker/daemon.json && sudo systemctl restart docker",
        )
    } else {
        Finding::well("Engine's rights", "root")
    };
    [seccomp, Finding::well("AppArmor", apparmor), rights]
}

/// Slots hardly meet it; a container for one submission lives in it.
fn storage(engine: &SystemInfo) -> Finding {
    let driver = engine.driver.clone().unwrap_or_default();
    let is_slow = matches!(driver.as_str(), "vfs" | "fuse-overlayfs" | "devicemapper");
    let finding = Finding::well("storage driver", driver.clone());
    if is_slow {
        let found = format!("{driver}: slow for isolation `container`, and when a root is filled");
        return Finding { found, ..finding };
    }
    finding
}

fn runtimes(config: &config::Container, engine: &SystemInfo) -> Finding {
    const NAME: &str = "container runtime";
    let default = engine.default_runtime.as_deref().unwrap_or_default();
    let wanted = config.oci_runtime.as_deref().unwrap_or(default);
    match Kernel::of(wanted, engine) {
        None if wanted != default => {
            let install = if wanted == "runsc" {
                INSTALL_GVISOR
            } else {
                ""
            };
            let found = format!("the Engine has no {wanted} (container.oci_runtime)");
            Finding::well(NAME, found).but(State::Missing, install)
        }
        Some(Kernel::Own) => {
            let found = format!(
                "{wanted} (container.oci_runtime) has a kernel of its own, without what the inner wall is made of: it goes with \
                 isolation `container`"
            );
            Finding::well(NAME, found).but(State::Missing, "")
        }
        _ => {
            let mut others = names(engine);
            others.retain(|name| *name != wanted);
            Finding::well(
                NAME,
                format!("{wanted}; there are also {}", others.join(", ")),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::{Runtime, SystemInfoCgroupDriverEnum};

    use super::*;

    fn engine() -> SystemInfo {
        SystemInfo {
            server_version: Some("20.10.24+dfsg1".to_owned()),
            architecture: Some("x86_64".to_owned()),
            cgroup_driver: Some(SystemInfoCgroupDriverEnum::SYSTEMD),
            cgroup_version: Some(SystemInfoCgroupVersionEnum::_2),
            memory_limit: Some(true),
            pids_limit: Some(true),
            cpu_cfs_quota: Some(true),
            security_options: Some(vec!["name=seccomp,profile=default".to_owned()]),
            driver: Some("overlay2".to_owned()),
            runtimes: Some(HashMap::from([("runc".to_owned(), Runtime::default())])),
            default_runtime: Some("runc".to_owned()),
            ..Default::default()
        }
    }

    fn host() -> Host {
        Host {
            settings: [None, Some("15000".to_owned()), Some("0".to_owned())],
            mounts: "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate,memory_recursiveprot 0 0"
                .to_owned(),
            swaps: "Filename Type Size Used Priority\n".to_owned(),
            pages: Pages::default(),
        }
    }

    fn unwell(host: &Host, engine: &SystemInfo) -> Vec<Finding> {
        let mut findings = host.findings(&config::Container::default(), engine);
        findings.retain(|finding| finding.state != State::Well);
        findings
    }

    #[test]
    fn a_host_that_is_well_is_found_well() {
        assert_eq!(unwell(&host(), &engine()), []);
    }

    #[test]
    fn a_setting_that_forbids_user_namespaces_is_named_with_its_command() {
        let mut forbidding = host();
        forbidding.settings = [
            Some("0".to_owned()),
            Some("0".to_owned()),
            Some("1".to_owned()),
        ];
        let found = unwell(&forbidding, &engine());
        assert_eq!(found.len(), 3);
        for (finding, (name, _, allows)) in found.iter().zip(SETTINGS) {
            assert_eq!(
                (finding.name.as_str(), finding.state),
                (name, State::Missing)
            );
            let command = finding.command.as_ref().expect("a command");
            assert!(command.contains(&format!("{name} = {allows}")), "{command}");
        }
    }

    #[test]
    fn what_the_engine_lacks_is_missing() {
        let engine = SystemInfo {
            memory_limit: Some(false),
            security_options: Some(vec!["name=rootless".to_owned()]),
            ..engine()
        };
        let names: Vec<String> = unwell(&host(), &engine)
            .into_iter()
            .map(|it| it.name)
            .collect();
        assert_eq!(
            names,
            ["cgroups: controllers", "seccomp", "Engine's rights"]
        );
    }

    #[test]
    fn nsdelegate_is_looked_for_on_version_2_only() {
        let lost = Host {
            mounts: "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0".to_owned(),
            ..host()
        };
        assert_eq!(unwell(&lost, &engine())[0].state, State::Weak);
        let one = SystemInfo {
            cgroup_version: Some(SystemInfoCgroupVersionEnum::_1),
            ..engine()
        };
        assert_eq!(unwell(&lost, &one), []);
    }

    #[test]
    fn a_container_runtime_that_is_not_there_is_missing() {
        let config = config::Container {
            oci_runtime: Some("runsc".to_owned()),
            ..Default::default()
        };
        let findings = host().findings(&config, &engine());
        let missing: Vec<_> = findings
            .iter()
            .filter(|it| it.state == State::Missing)
            .collect();
        assert_eq!(missing.len(), 1);
        assert!(
            missing[0]
                .command
                .as_ref()
                .is_some_and(|it| it.contains("runsc install"))
        );
    }
}
