//! Attacks by system calls, sockets and ioctls.

use crate::{
    attack::{Attack, c},
    isolation::Isolation::{Container, Sandbox},
};

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let mut attacks = vec![
        forbidden(),
        deadly(),
        other_abi(),
        sockets(),
        clocks(),
        hidden_time(),
        terminal(),
    ];
    attacks.extend(["kexec_load", "init_module", "reboot", "iopl"].map(deadly_one));
    attacks
}

fn forbidden() -> Attack {
    let namespaces = [
        "unshare user",
        "unshare mount",
        "unshare pid",
        "unshare network",
        "unshare ipc",
        "unshare uts",
        "unshare cgroup",
        "unshare time",
        "clone user",
        "clone user and all",
        "clone with high bits",
        "setns own",
        "setns own user",
        "setns pidfd",
    ];
    let mounts = [
        "mount tmpfs",
        "mount proc",
        "mount cgroup",
        "mount cgroup2",
        "mount bind",
        "mount remount",
        "umount",
        "umount proc",
        "pivot_root",
        "chroot",
        "fsopen",
        "fspick",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "open_by_handle_at",
        "fanotify_init",
        "quotactl",
        "mknod",
    ];
    let processes = [
        "ptrace attach 1",
        "ptrace seize 1",
        "process_vm_readv 1",
        "process_vm_writev 1",
        "pidfd_getfd 1",
        "kcmp 1",
        "process_madvise 1",
        "move_pages 1",
        "migrate_pages 1",
        "get_robust_list 1",
    ];
    let subsystems = [
        "bpf program",
        "bpf map",
        "perf_event_open",
        "userfaultfd",
        "userfaultfd user mode",
        "add_key",
        "request_key",
        "keyctl",
        "lookup_dcookie",
        "syslog",
        "vhangup",
        "sethostname",
        "setdomainname",
        "nfsservctl",
        "_sysctl",
    ];
    c("forbidden.c", include_str!("calls/forbidden.c"))
        .sees("EPERM", &namespaces)
        .sees("ENOSYS", &["clone3", "clone3 user"])
        .sees("EACCES", &["setns pid 1"])
        .sees("EPERM", &mounts)
        .sees("EPERM", &processes)
        .sees("EPERM", &subsystems)
        .sees("EPERM", &["modify_ldt"])
        .sees(
            "ENOSYS",
            &["io_uring_setup", "io_uring_enter", "io_uring_register"],
        )
}

/// They end their process.
fn deadly() -> Attack {
    let calls = [
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "swapoff",
        "iopl",
        "ioperm",
        "acct",
        "uselib",
    ];
    c("deadly.c", include_str!("calls/deadly.c")).sees("SIGSYS", &calls)
}

/// And where that is the program's own process, the submission.
fn deadly_one(call: &str) -> Attack {
    c("deadly.c", include_str!("calls/deadly.c"))
        .arg(call)
        .ends("forbidden")
}

fn other_abi() -> Attack {
    c("other_abi.c", include_str!("calls/other_abi.c"))
        .sees(
            "SIGSYS",
            &["32 bit getpid", "32 bit unshare", "32 bit mount"],
        )
        .sees("SIGSYS", &["x32 getpid", "x32 ptrace", "negative call"])
        .sees("ENOSYS", &["no such call"])
        .sees("clear", &["direction flag"])
}

fn sockets() -> Attack {
    let families = [
        "packet",
        "packet datagram",
        "vsock",
        "vsock datagram",
        "crypto",
        "xdp",
        "key",
        "bluetooth",
        "can",
        "tipc",
        "rds",
        "smc",
        "kcm",
        "qrtr",
        "nfc",
        "pppox",
        "x25",
    ];
    let netlink = [
        "netlink audit",
        "netlink netfilter",
        "netlink uevent",
        "netlink xfrm",
    ];
    c("sockets.c", include_str!("calls/sockets.c"))
        .sees("EAFNOSUPPORT", &families)
        .sees("EAFNOSUPPORT", &netlink)
        .sees("EPERM", &["raw icmp"])
        .sees("EPROTONOSUPPORT", &["raw ip", "raw ip6", "sctp"])
        .sees("ok", &["getifaddrs"])
        .sees("lo", &["addresses"])
        .sees(
            "ENETUNREACH",
            &[
                "name server",
                "internet",
                "Docker's bridge",
                "metadata service",
            ],
        )
        .sees("ENETUNREACH|EADDRNOTAVAIL", &["internet 6"])
        .sees("not found", &["name"])
        .sees("EPERM", &["interface down", "new address", "new name"])
        .sees("ENOENT", &["new tunnel"])
        .sees("ECONNREFUSED", &["containerd", "X"])
        .sees("0", &["unix sockets there"])
        // Both ends of the agent's connection.
        .sees_under(Container, "2", &["unix sockets there"])
}

fn clocks() -> Attack {
    c("clocks.c", include_str!("calls/clocks.c"))
        .sees(
            "EPERM",
            &["settimeofday", "clock_settime", "adjtimex", "clock_adjtime"],
        )
        .sees("EACCES", &["priority of its own"])
        .sees(
            "EPERM",
            &["nice", "fifo", "round robin", "deadline", "real time disk"],
        )
        .sees(
            "EPERM",
            &[
                "RLIMIT_CPU",
                "RLIMIT_STACK",
                "RLIMIT_NOFILE",
                "RLIMIT_FSIZE",
                "RLIMIT_CORE",
                "RLIMIT_MEMLOCK",
                "RLIMIT_MSGQUEUE",
                "RLIMIT_NICE",
                "RLIMIT_RTPRIO",
            ],
        )
}

fn hidden_time() -> Attack {
    c("hidden_time.c", include_str!("calls/hidden_time.c"))
        .limit("cpu_time_us", 500_000)
        .ends("cpu_time_exceeded")
        .hits("cpu_time_us")
}

fn terminal() -> Attack {
    c("terminal.c", include_str!("calls/terminal.c"))
        .sees(
            "EPERM",
            &[
                "TIOCSTI stdin",
                "TIOCSTI stdout",
                "TIOCSTI stderr",
                "TIOCLINUX",
                "TIOCSETD",
            ],
        )
        .sees("ENOTTY", &["TIOCCONS", "TIOCSCTTY"])
        .sees("ENXIO", &["/dev/tty"])
        .sees_under(Sandbox, "ENOENT", &["/dev/tty"])
        .sees("ENOENT", &["/dev/console"])
        .sees("EACCES", &["/proc/1/fd/0"])
}
