//! Attacks through the kernel's files, devices, and what a process inherits.

use crate::{
    attack::{Attack, c, python},
    isolation::Isolation::{Container, Sandbox},
};

/// All of them.
pub fn attacks() -> Vec<Attack> {
    vec![
        files(),
        python("writable.py", include_str!("kernel/writable.py"))
            .sees("", &["opened"])
            // Its mode is for everybody, and whoever writes to it is refused: files.py tries that.
            .sees_under(Sandbox, "|/proc/sys/kernel/ns_last_pid", &["opened"])
            .sees("True", &["looked at hundreds"]),
        cgroups(),
        devices(),
        descriptors(),
        privileges(),
    ]
}

fn files() -> Attack {
    let secret = [
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/latency_stats",
        "/proc/kpagecount",
        "/proc/vmallocinfo",
        "/proc/slabinfo",
        "/proc/pagetypeinfo",
        "/sys/firmware",
        "/sys/kernel/debug",
        "/sys/kernel/tracing",
        "/sys/kernel/security",
        "/sys/fs/bpf",
        "/dev/kmsg",
        "/dev/mem",
        "/proc/scsi",
        "/proc/acpi",
        "/proc/asound",
    ];
    let settings = [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hotplug",
        "/proc/sys/kernel/poweroff_cmd",
        "/proc/sys/kernel/usermodehelper/bset",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/msgmax",
        "/proc/sys/kernel/sem",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/kernel/unprivileged_bpf_disabled",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/fs/mqueue/queues_max",
        "/proc/sys/fs/file-max",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv4/ping_group_range",
        "/proc/sys/net/core/somaxconn",
        "/proc/sys/user/max_user_namespaces",
        "/proc/irq/default_smp_affinity",
        "/proc/mtrr",
        "/proc/timer_stats",
        "/sys/kernel/uevent_helper",
        "/sys/power/state",
        "/sys/kernel/mm/ksm/run",
        "/sys/class/net/lo/mtu",
        "/sys/bus/pci/rescan",
        "/proc/self/setgroups",
    ];
    python("files.py", include_str!("kernel/files.py"))
        .sees("hidden", &secret.map(|path| format!("read {path}")))
        .sees("refused", &settings.map(|path| format!("write {path}")))
        .sees("EACCES", &["lower the OOM score"])
        .sees("EPERM", &["become root"])
        .sees("EPERM|EROFS|ENOENT", &["choose the next process id"])
}

/// What there is in `/dev`. In a container `core` is a link to `/proc/kcore`, which is masked; Docker makes it where the kernel has that
/// file.
fn devices() -> Attack {
    let kernel_has_it = std::path::Path::new("/proc/kcore").exists();
    let core = if kernel_has_it { "core " } else { "" };
    let of_container =
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    let of_sandbox = "fd full null random shm stderr stdin stdout urandom zero";
    python("devices.py", include_str!("kernel/devices.py"))
        .sees("", &["opened"])
        .sees_under(Container, &format!("{core}{of_container}"), &["there"])
        .sees_under(Sandbox, of_sandbox, &["there"])
}

fn cgroups() -> Attack {
    let files = [
        "memory/memory.limit_in_bytes",
        "memory.max",
        "pids.max",
        "pids/pids.max",
        "release_agent",
        "memory/release_agent",
        "rdma/release_agent",
        "cgroup.procs",
        "memory/cgroup.procs",
        "memory/tasks",
        "devices/devices.allow",
    ];
    python("cgroups.py", include_str!("kernel/cgroups.py"))
        .sees("/", &["paths"])
        .sees("", &["made", "opened"])
        .sees("refused", &files.map(|file| format!("write {file}")))
}

fn descriptors() -> Attack {
    c("descriptors.c", include_str!("kernel/descriptors.c"))
        .sees("3", &["listed", "open"])
        .sees("pipe", &["descriptor 0", "descriptor 1", "descriptor 2"])
        .sees("/work", &["current directory"])
        .sees("nothing", &["mapped of the agent"])
        .sees("yes", &["leads its session"])
        .sees("ENXIO", &["terminal"])
        .sees_under(Sandbox, "ENOENT", &["terminal"])
        .sees("0", &["signals not at their default"])
}

fn privileges() -> Attack {
    let ids = ["setuid", "setreuid", "setresuid", "setgid"];
    c("privileges.c", include_str!("kernel/privileges.c"))
        .sees(
            "0000000000000000",
            &["inheritable", "permitted", "effective", "ambient"],
        )
        .sees("1", &["no new privileges"])
        .sees("2", &["filter"])
        .sees("", &["groups"])
        .sees_under(Sandbox, "|1000 ", &["groups"])
        .sees("no", &["root"])
        .sees("EPERM", &ids)
        // There is no such user.
        .sees_under(Sandbox, "EINVAL", &ids)
        .sees(
            "EPERM",
            &[
                "setgroups",
                "setfsuid",
                "capset",
                "raise ambient",
                "securebits",
            ],
        )
        .sees("EINVAL", &["allow new privileges", "no filter"])
        .sees("EPERM|ok", &["personality"])
}
