//! The container runtime that the Engine is to use (`container.oci_runtime`): whether it has it, and who keeps the limits of stages
//! under it.
//!
//! One that the Engine does not know is told when a worker starts, not by every submission.

use std::collections::HashMap;

use bollard::models::SystemInfo;

use super::{ContainerError, engine::Engine, options::Allowance};
use crate::{
    config,
    submission::{limits::Limits, units::ByteSize},
};

/// How gVisor is installed. Without a network its own is none either; the agent comes in by a socket of the host.
pub(super) const INSTALL_GVISOR: &str = "sudo apt-get install runsc && sudo runsc install -- --network=none --host-uds=open && sudo systemctl reload docker";

/// By this gVisor is known, in the name of the runtime or of its program.
const GVISOR: &str = "runsc";

/// Memory and processes that gVisor's kernel takes itself (20 and 45 MiB, 124 and 501 processes were seen with 10 and 60 of a
/// program's).
const KERNEL_BYTES: u64 = 128 << 20;
const KERNEL_PROCESSES: u64 = 256;
const KERNEL_PROCESSES_FOR_EACH: u64 = 16;

/// Who keeps a stage's limits on memory and processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    /// The container's cgroup, whose limits are changed for each stage.
    Cgroup,
    /// The agent: the kernel that the stages see has no cgroups, the limits of the container hold that kernel too, and cannot be
    /// changed. They are this, for good.
    Agent(Allowance),
}

impl Keeper {
    /// What a container gets for a stage with `limits`.
    pub(super) fn allowance(self, limits: &Limits, overhead: ByteSize) -> Allowance {
        match self {
            Self::Cgroup => Allowance::of(limits, overhead),
            Self::Agent(allowance) => allowance,
        }
    }
}

/// The kernel that the programs of a container meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    /// The host's, or one that does all that Linux does.
    Host,
    /// gVisor's.
    Own,
}

impl Kernel {
    /// That of the runtime `wanted`; none where the Engine has no such runtime.
    pub(super) fn of(wanted: &str, engine: &SystemInfo) -> Option<Self> {
        let runtime = engine.runtimes.as_ref().and_then(|it| it.get(wanted));
        // A shim of containerd (`io.containerd.runsc.v1`) or a path is not in the Engine's list; whether there is such a program
        // shows when it is used.
        if runtime.is_none() && !wanted.contains(['.', '/']) {
            return None;
        }
        let program = runtime
            .and_then(|it| it.path.as_deref())
            .unwrap_or_default();
        let is_gvisor = [wanted, program].iter().any(|it| it.contains(GVISOR));
        Some(if is_gvisor { Self::Own } else { Self::Host })
    }
}

/// Looks for the configured runtime. No stage may use more than `ceilings`.
pub(super) async fn find(
    engine: &Engine,
    config: &config::Container,
    ceilings: &Limits,
) -> Result<Keeper, ContainerError> {
    let Some(wanted) = config.oci_runtime.as_deref() else {
        return Ok(Keeper::Cgroup);
    };
    let info = engine.info().await?;
    match Kernel::of(wanted, &info) {
        Some(Kernel::Host) => Ok(Keeper::Cgroup),
        Some(Kernel::Own) => Ok(Keeper::Agent(around_a_kernel(
            ceilings,
            config.overhead_bytes,
        ))),
        None => Err(ContainerError::NoRuntime {
            wanted: wanted.to_owned(),
            known: names(&info).join(", "),
        }),
    }
}

/// The names of the runtimes that the Engine has.
pub(super) fn names(engine: &SystemInfo) -> Vec<&str> {
    let known = engine.runtimes.iter().flat_map(HashMap::keys);
    let mut names: Vec<&str> = known.map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn around_a_kernel(ceilings: &Limits, overhead: ByteSize) -> Allowance {
    let most = Allowance::of(ceilings, overhead);
    Allowance {
        memory_bytes: most
            .memory_bytes
            .saturating_add(ceilings.disk_bytes.0)
            .saturating_add(KERNEL_BYTES),
        processes: most
            .processes
            .saturating_mul(KERNEL_PROCESSES_FOR_EACH)
            .saturating_add(KERNEL_PROCESSES),
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::Runtime;

    use super::*;

    fn engine() -> SystemInfo {
        let runtime = |path: &str| Runtime {
            path: Some(path.to_owned()),
            ..Default::default()
        };
        SystemInfo {
            runtimes: Some(HashMap::from([
                ("runc".to_owned(), runtime("runc")),
                ("sandboxed".to_owned(), runtime("/usr/bin/runsc")),
            ])),
            ..Default::default()
        }
    }

    #[test]
    fn gvisor_is_known_by_its_program() {
        for (wanted, kernel) in [
            ("runc", Some(Kernel::Host)),
            ("sandboxed", Some(Kernel::Own)),
            ("io.containerd.runsc.v1", Some(Kernel::Own)),
            ("io.containerd.kata.v2", Some(Kernel::Host)),
            ("runsc", None),
        ] {
            assert_eq!(Kernel::of(wanted, &engine()), kernel, "{wanted}");
        }
        assert_eq!(names(&engine()), ["runc", "sandboxed"]);
    }
}
