"""The kernel's files that ended other sandboxes: what can be read of them, and whether they can be written to."""

import os

from report import attempt, name_of, say

READ = [
    "/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats",
    "/proc/kpagecount", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/pagetypeinfo", "/sys/firmware",
    "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/fs/bpf",
    "/dev/kmsg", "/dev/mem", "/proc/scsi", "/proc/acpi", "/proc/asound",
]
WRITTEN = [
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/poweroff_cmd", "/proc/sys/kernel/usermodehelper/bset", "/proc/sys/kernel/shmmax", "/proc/sys/kernel/msgmax",
    "/proc/sys/kernel/sem", "/proc/sys/kernel/hostname", "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/unprivileged_bpf_disabled", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/drop_caches",
    "/proc/sys/vm/panic_on_oom", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/mqueue/queues_max", "/proc/sys/fs/file-max",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ping_group_range", "/proc/sys/net/core/somaxconn",
    "/proc/sys/user/max_user_namespaces", "/proc/irq/default_smp_affinity", "/proc/mtrr", "/proc/timer_stats",
    "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/ksm/run", "/sys/class/net/lo/mtu", "/sys/bus/pci/rescan",
    "/proc/self/setgroups",
]


def read(path):
    """Reads a byte, or lists a directory. What is masked is not there, not allowed or empty."""
    try:
        if os.path.isdir(path):
            return "something" if os.listdir(path) else "hidden"
        with open(path, "rb", buffering=0) as file:
            return "something" if file.read(1) else "hidden"
    except OSError as error:
        return "hidden" if error.errno in (1, 2, 5, 13) else name_of(error)


def write(path, data):
    with open(path, "wb", buffering=0) as file:
        file.write(data)


for path in READ:
    say(f"read {path}", read(path))
for path in WRITTEN:
    try:
        os.close(os.open(path, os.O_WRONLY))
        say(f"write {path}", "ok")
    except OSError as error:
        say(f"write {path}", "refused" if error.errno in (1, 2, 13, 30) else name_of(error))
attempt("lower the OOM score", lambda: write("/proc/self/oom_score_adj", b"-1000"))
attempt("become root", lambda: write("/proc/self/uid_map", b"0 0 1"))
attempt("choose the next process id", lambda: write("/proc/sys/kernel/ns_last_pid", b"1000"))
