/* Every system call that leads out of a sandbox, or into the kernel's less trodden parts. Each is tried in a process of its own:
 * a filter may refuse it or kill for it. */
#include "report.h"
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static char page[4096];

static long clone_into(unsigned long flags) {
    long pid = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}

static long clone3_into(unsigned long flags) {
    struct clone_args arguments = {.flags = flags, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0)
        _exit(0);
    return pid;
}

static long enter(const char *path, int kind) {
    int file = open(path, O_RDONLY);
    return file < 0 ? -1 : setns(file, kind);
}

/* The file handle of the host's root directory, by its inode ("shocker"). */
static long open_by_handle(void) {
    struct { unsigned bytes; int type; unsigned char handle[8]; } handle = {8, 1, {2}};
    return syscall(SYS_open_by_handle_at, open("/etc", O_RDONLY), &handle, O_RDONLY);
}

static long read_memory_of(pid_t pid) {
    struct iovec here = {page, sizeof page}, there = {(void *)0x400000, sizeof page};
    return process_vm_readv(pid, &here, 1, &there, 1, 0);
}

static long write_memory_of(pid_t pid) {
    struct iovec here = {page, 1}, there = {(void *)0x400000, 1};
    return process_vm_writev(pid, &here, 1, &there, 1, 0);
}

static long take_descriptor_of(pid_t pid) {
    int process = syscall(SYS_pidfd_open, pid, 0);
    return process < 0 ? -1 : syscall(SYS_pidfd_getfd, process, 0, 0);
}

static long load_program(void) {
    union bpf_attr attributes = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 1, .license = (unsigned long)"GPL"};
    return syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes);
}

static long make_map(void) {
    union bpf_attr attributes = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes);
}

static long measure(void) {
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attributes, .exclude_kernel = 1};
    return syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
}

static long make_ring(void) {
    struct io_uring_params parameters = {0};
    return syscall(SYS_io_uring_setup, 4, &parameters);
}

static void try_namespaces(void) {
    TRY("unshare user", unshare(CLONE_NEWUSER));
    TRY("unshare mount", unshare(CLONE_NEWNS));
    TRY("unshare pid", unshare(CLONE_NEWPID));
    TRY("unshare network", unshare(CLONE_NEWNET));
    TRY("unshare ipc", unshare(CLONE_NEWIPC));
    TRY("unshare uts", unshare(CLONE_NEWUTS));
    TRY("unshare cgroup", unshare(CLONE_NEWCGROUP));
    TRY("unshare time", unshare(0x80 /* CLONE_NEWTIME */));
    TRY("clone user", clone_into(CLONE_NEWUSER));
    TRY("clone user and all", clone_into(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP));
    TRY("clone with high bits", clone_into(CLONE_NEWUSER | 0xffffffff00000000UL));
    TRY("clone3", clone3_into(0));
    TRY("clone3 user", clone3_into(CLONE_NEWUSER));
    TRY("setns own", enter("/proc/self/ns/mnt", CLONE_NEWNS));
    TRY("setns own user", enter("/proc/self/ns/user", CLONE_NEWUSER));
    TRY("setns pid 1", enter("/proc/1/ns/mnt", 0));
    TRY("setns pidfd", setns(syscall(SYS_pidfd_open, 1, 0), CLONE_NEWNS | CLONE_NEWNET));
}

static void try_mounts(void) {
    TRY("mount tmpfs", mount("none", "/tmp", "tmpfs", 0, NULL));
    TRY("mount proc", mount("none", "/tmp", "proc", 0, NULL));
    TRY("mount cgroup", mount("none", "/tmp", "cgroup", 0, "rdma"));
    TRY("mount cgroup2", mount("none", "/tmp", "cgroup2", 0, NULL));
    TRY("mount bind", mount("/", "/tmp", NULL, MS_BIND | MS_REC, NULL));
    TRY("mount remount", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
    TRY("umount", umount2("/tmp", MNT_DETACH));
    TRY("umount proc", umount2("/proc", MNT_DETACH));
    TRY("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
    TRY("chroot", chroot("/tmp"));
    TRY("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    TRY("fspick", syscall(SYS_fspick, AT_FDCWD, "/", 0));
    TRY("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
    TRY("move_mount", syscall(SYS_move_mount, AT_FDCWD, "/tmp", AT_FDCWD, "/work", 0));
    TRY("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, page, 32));
    TRY("open_by_handle_at", open_by_handle());
    TRY("fanotify_init", syscall(SYS_fanotify_init, 0, 0));
    TRY("quotactl", syscall(SYS_quotactl, 0x800002 << 8, "/dev/null", 0, page));
    TRY("mknod", mknod("/tmp/memory", S_IFCHR | 0666, 0x101));
}

static void try_processes(void) {
    TRY("ptrace attach 1", ptrace(PTRACE_ATTACH, 1, NULL, NULL));
    TRY("ptrace seize 1", ptrace(PTRACE_SEIZE, 1, NULL, NULL));
    TRY("process_vm_readv 1", read_memory_of(1));
    TRY("process_vm_writev 1", write_memory_of(1));
    TRY("pidfd_getfd 1", take_descriptor_of(1));
    TRY("kcmp 1", syscall(SYS_kcmp, 1, getpid(), 1, 0, 0));
    TRY("process_madvise 1", syscall(SYS_process_madvise, syscall(SYS_pidfd_open, 1, 0), page, 0, 21, 0));
    TRY("move_pages 1", syscall(SYS_move_pages, 1, 0, NULL, NULL, NULL, 0));
    TRY("migrate_pages 1", syscall(SYS_migrate_pages, 1, 0, NULL, NULL));
    TRY("get_robust_list 1", syscall(SYS_get_robust_list, 1, page, page + 8));
}

static void try_subsystems(void) {
    TRY("bpf program", load_program());
    TRY("bpf map", make_map());
    TRY("perf_event_open", measure());
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
    TRY("userfaultfd user mode", syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY));
    TRY("io_uring_setup", make_ring());
    TRY("io_uring_enter", syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0));
    TRY("io_uring_register", syscall(SYS_io_uring_register, -1, 0, NULL, 0));
    TRY("add_key", syscall(SYS_add_key, "user", "envicutor-meet", "x", 1, -4));
    TRY("request_key", syscall(SYS_request_key, "user", "envicutor-meet", NULL, 0));
    TRY("keyctl", syscall(SYS_keyctl, 0, -4, 1));
    TRY("lookup_dcookie", syscall(SYS_lookup_dcookie, 0L, page, sizeof page));
    TRY("syslog", syscall(SYS_syslog, 3, page, sizeof page));
    TRY("vhangup", vhangup());
    TRY("sethostname", sethostname("taken", 5));
    TRY("setdomainname", setdomainname("taken", 5));
    TRY("modify_ldt", syscall(SYS_modify_ldt, 0, page, sizeof page) < 0 ? -1 : 0);
    TRY("nfsservctl", syscall(SYS_nfsservctl, 0, page, page));
    TRY("_sysctl", syscall(SYS__sysctl, page));
}

int main(void) {
    try_namespaces();
    try_mounts();
    try_processes();
    try_subsystems();
}
