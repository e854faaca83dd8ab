//! `container`: the walls that submissions run behind.

use serde::{Deserialize, Serialize};

use crate::submission::units::{ByteSize, Micros};

/// The containers of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Container {
    /// The wall that submissions run behind.
    pub isolation: IsolationChoice,
    /// The Docker Engine: `unix:///path` or `http://host:port`; absent: `DOCKER_HOST`, else the default socket.
    pub docker_host: Option<String>,
    /// The container runtime that the Engine uses; absent: its default.
    pub oci_runtime: Option<String>,
    /// Who gives a slot's cgroup to its agent.
    pub cgroups: Cgroups,
    /// Isolation `container`: started containers that wait for work, at most, over all runtimes. Isolation `sandbox`: slots,
    /// whether they wait or not, at least one for each submission at a time. Absent: two for each slot.
    pub pool_size: Option<usize>,
    /// How long a started container waits for work before it is removed.
    pub pool_idle_us: Micros,
    /// Isolation `sandbox`: the submissions of its tenant that a slot serves before it is replaced.
    pub slot_uses: u64,
    /// Isolation `sandbox`: how long a tenant has a slot before it is replaced.
    pub slot_age_us: Micros,
    /// Isolation `sandbox`: the Docker volume with the root file systems of runtimes.
    pub runtimes_volume: String,
    /// Isolation `sandbox`: how long to wait for another worker that fills the root file system of a runtime.
    pub fill_timeout_us: Micros,
    /// Isolation `sandbox`: how often the worker removes root file systems whose images are gone, the first time this long
    /// after its start.
    pub collect_us: Micros,
    /// Isolation `sandbox`: how much of a runtime's root file system is brought into huge pages of the page cache: its files of
    /// 2 MiB or more, the smaller first, as far as they fit. 0: nothing.
    pub preload_bytes: ByteSize,
    /// Isolation `sandbox`: runtimes that allow it start their programs from templates.
    pub templates: bool,
    /// Processors that a container may use.
    pub cpus: f64,
    /// Memory of a container beyond the stage's limit: the agent and the kernel's own for it.
    pub overhead_bytes: ByteSize,
    /// The size of `/tmp` and of `/dev/shm`, each.
    pub tmp_bytes: ByteSize,
    /// The files that `/tmp` and `/dev/shm` may hold, each.
    pub tmp_inodes: u64,
    /// What a stage writes, or what is read out of its work directory, is in the worker's memory up to this much, then in a file
    /// in the worker's directory.
    pub spool_bytes: ByteSize,
    /// Memory of what unpacks an archive, or reads files out of a work directory, beyond what it writes. Half of it is the most
    /// that zstd may refer back.
    pub tool_memory_bytes: ByteSize,
    /// CPU time that unpacking, collecting or packing may take.
    pub tool_cpu_time_us: Micros,
    /// Wall time that unpacking, collecting or packing may take.
    pub tool_wall_time_us: Micros,
    /// How many times its packed size an archive may be unpacked, the first MiB not counted.
    pub unpack_ratio: u64,
    /// How many components a path in an archive may have.
    pub unpack_depth: u64,
    /// The first host uid that stages run as; each container has one of its own.
    pub uid_first: u32,
    /// How many uids from there belong to this worker. Two workers of one host need ranges that do not overlap.
    pub uid_count: u32,
    /// How long a container may take from its creation until its agent has connected.
    pub start_timeout_us: Micros,
    /// How long any other call of the Engine may take.
    pub call_timeout_us: Micros,
}

/// The uids that an installer takes of the range where it shares one with a worker.
const INSTALLER_UIDS: u32 = 16;

impl Container {
    /// The configuration of a worker and of an installer that are one program: each has uids of its own.
    pub fn shared(&self) -> (Self, Self) {
        let (mut worker, mut installer) = (self.clone(), self.clone());
        // A range of one cannot be shared: then they take turns as well as they can.
        let theirs = INSTALLER_UIDS.min(self.uid_count / 2);
        if theirs > 0 {
            worker.uid_count -= theirs;
            installer.uid_first += worker.uid_count;
            installer.uid_count = theirs;
        }
        (worker, installer)
    }
}

impl Default for Container {
    fn default() -> Self {
        Self {
            isolation: IsolationChoice::Auto,
            docker_host: None,
            oci_runtime: None,
            cgroups: Cgroups::Auto,
            pool_size: None,
            pool_idle_us: Micros(300_000_000),
            slot_uses: 1_000,
            slot_age_us: Micros(3_600_000_000),
            runtimes_volume: "envicutor-runtimes".into(),
            fill_timeout_us: Micros(1_800_000_000),
            collect_us: Micros(600_000_000),
            preload_bytes: ByteSize(512 << 20),
            templates: true,
            cpus: 1.0,
            overhead_bytes: ByteSize(8 << 20),
            tmp_bytes: ByteSize(64 << 20),
            tmp_inodes: 4_096,
            spool_bytes: ByteSize(256 << 10),
            tool_memory_bytes: ByteSize(64 << 20),
            tool_cpu_time_us: Micros(60_000_000),
            tool_wall_time_us: Micros(120_000_000),
            unpack_ratio: 200,
            unpack_depth: 64,
            uid_first: 700_000,
            uid_count: 10_000,
            start_timeout_us: Micros(60_000_000),
            call_timeout_us: Micros(60_000_000),
        }
    }
}

impl Container {
    /// The bounds of tools within which they could do nothing: key, and what is expected.
    pub(super) fn useless_bounds(&self) -> Option<(&'static str, &'static str)> {
        let bounds = [
            (
                self.spool_bytes.0 >= 4 << 10,
                "container.spool_bytes",
                "expected 4 KiB or more",
            ),
            (
                self.tool_memory_bytes.0 >= 4 << 20,
                "container.tool_memory_bytes",
                "expected 4 MiB or more",
            ),
            (
                self.tool_cpu_time_us.0 > 0,
                "container.tool_cpu_time_us",
                "expected more than 0",
            ),
            (
                self.tool_wall_time_us.0 > 0,
                "container.tool_wall_time_us",
                "expected more than 0",
            ),
            (
                self.unpack_ratio > 0,
                "container.unpack_ratio",
                "expected 1 or more",
            ),
            (
                (1..=256).contains(&self.unpack_depth),
                "container.unpack_depth",
                "expected 1 to 256",
            ),
        ];
        let useless = bounds.into_iter().find(|(holds, ..)| !holds);
        useless.map(|(_, key, problem)| (key, problem))
    }
}

/// The isolation that is asked for. What is given is an [`Isolation`].
///
/// [`Isolation`]: crate::submission::result::Isolation
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsolationChoice {
    /// `sandbox` where this host allows it, else `container`, with a warning.
    Auto,
    /// Nothing less than `sandbox`: where this host does not allow it, the worker does not start.
    Sandbox,
    /// A fresh container for each submission.
    Container,
}

/// Who gives a slot's cgroup to its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cgroups {
    /// The worker where it can, else a helper.
    Auto,
    /// The worker: it is root and sees the host's cgroups.
    Direct,
    /// A helper container with the capability CHOWN, which sees the host's cgroups.
    Helper,
}
