//! The filter for system calls of a stage, in a slot and in a container, as the kernel takes it: classic BPF over number, architecture and arguments.
//!
//! What it forbids is what makes new namespaces and mounts (the wall's own tools), what reaches the whole machine, and what a
//! program has no use for and the kernel has had holes in. Everything else is allowed: a list of what is allowed breaks with
//! each new C library. Node, Java, Go and threads work under it.
//!
//! An error is the rule. `ENOSYS` where libraries probe and fall back: the C library to `clone`, libuv from io_uring. A short
//! list kills, and the verdict is `forbidden`: what no honest program calls, and another architecture's calls, which would
//! pass the numbers of this one by.
//!
//! `ptrace` is allowed: sanitizers use it, a stage sees none but its own processes, and its init cannot be traced.

use libc::{c_long, sock_filter};

/// What becomes of a call.
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const REFUSE: u32 = errno(libc::EPERM);
const UNKNOWN: u32 = errno(libc::ENOSYS);
const NO_SUCH_FAMILY: u32 = errno(libc::EAFNOSUPPORT);
const NO_SUCH_PROTOCOL: u32 = errno(libc::EPROTONOSUPPORT);

const fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number.cast_unsigned()
}

/// Calls that end the program.
const KILLING: [c_long; 12] = [
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_acct,
    libc::SYS_uselib,
];

/// Calls that are refused.
const REFUSED: [c_long; 49] = [
    // New namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    OPEN_TREE_ATTR,
    libc::SYS_open_by_handle_at,
    // Keys, whose names cross namespaces.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Programs in the kernel, its counters, its faults.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    // Other processes' descriptors and memory.
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    // The machine: clock, log, quotas, names.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    // Where memory lies.
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_get_mempolicy,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Old things of this architecture.
    libc::SYS_modify_ldt,
    libc::SYS__sysctl,
    libc::SYS_sysfs,
    libc::SYS_ustat,
    libc::SYS_memfd_secret,
];

/// Newer than the library's list of calls.
const OPEN_TREE_ATTR: c_long = 467;

/// Calls that this kernel does not seem to have.
const UNKNOWN_CALLS: [c_long; 4] = [
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Calls that are refused where their first argument is the stage's init: with them a program could keep the init from the
/// processor while it buries.
const NOT_TO_INIT: [c_long; 5] = [
    libc::SYS_prlimit64,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
];

/// What the library has no name for: `IOPRIO_WHO_PROCESS`.
const IOPRIO_WHO_PROCESS: u32 = 1;

/// Flags of `clone` that make namespaces.
const NAMESPACES: u32 = 0x7e02_0000;

/// Requests of `ioctl` that put input into a terminal, or choose what drives one.
const TERMINAL: [u32; 3] = [0x5412, 0x541c, 0x5423];

/// The families of sockets that there are; and of netlink none but routes, which the C library asks for addresses.
const LOCAL: u32 = libc::AF_UNIX.cast_unsigned();
const INTERNET: [u32; 2] = [
    libc::AF_INET.cast_unsigned(),
    libc::AF_INET6.cast_unsigned(),
];
const NETLINK: u32 = libc::AF_NETLINK.cast_unsigned();
const ROUTES: u32 = libc::NETLINK_ROUTE.cast_unsigned();

/// The types of the internet's sockets: streams, datagrams, raw (which take a capability that no stage has).
const TYPES: [u32; 3] = [
    libc::SOCK_STREAM.cast_unsigned(),
    libc::SOCK_DGRAM.cast_unsigned(),
    libc::SOCK_RAW.cast_unsigned(),
];

/// The part of a type that is no flag.
const TYPE: u32 = 0xf;

/// The protocols of the internet's sockets: the type's own, TCP, UDP, and the two that `ping` uses.
const PROTOCOLS: [u32; 5] = [
    0,
    libc::IPPROTO_TCP.cast_unsigned(),
    libc::IPPROTO_UDP.cast_unsigned(),
    libc::IPPROTO_ICMP.cast_unsigned(),
    libc::IPPROTO_ICMPV6.cast_unsigned(),
];

/// Personalities that programs choose: the ordinary one, asking, and no random addresses (debuggers, sanitizers).
const PERSONALITIES: [u32; 3] = [0, u32::MAX, libc::ADDR_NO_RANDOMIZE.cast_unsigned()];

/// The architecture as audit names it: x86-64, little endian, 64 bit.
const X86_64: u32 = 0xc000_003e;

/// Numbers from here on are of the x32 interface.
const X32: u32 = 0x4000_0000;

/// Where the kernel's `seccomp_data` has its parts.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index // Of the 64 bits of each the lower half comes first.
}

/// What is decided of one call.
struct Rule {
    call: u32,
    /// Answers in every case.
    body: Vec<sock_filter>,
}

/// The whole filter.
pub fn filter() -> Vec<sock_filter> {
    let mut filter = vec![
        load(ARCHITECTURE),
        jump(libc::BPF_JEQ, X86_64, 1, 0),
        answer(KILL),
        load(NUMBER),
        jump(libc::BPF_JGE, X32, 0, 1),
        answer(KILL),
    ];
    filter.extend(decide(&rules()));
    filter
}

/// Every rule, in the order of the calls' numbers.
fn rules() -> Vec<Rule> {
    let lists: [(&[c_long], u32); 3] = [
        (&KILLING, KILL),
        (&REFUSED, REFUSE),
        (&UNKNOWN_CALLS, UNKNOWN),
    ];
    let simple = lists
        .iter()
        .flat_map(|(calls, what)| calls.iter().map(|&call| (call, vec![answer(*what)])));
    let special = [
        (libc::SYS_clone, clone_rule()),
        (libc::SYS_socket, socket_rule()),
        (libc::SYS_socketpair, socket_rule()),
        (libc::SYS_ioctl, ioctl_rule()),
        (libc::SYS_personality, personality_rule()),
        (
            libc::SYS_setpriority,
            of_one_process_rule(libc::PRIO_PROCESS),
        ),
        (
            libc::SYS_ioprio_set,
            of_one_process_rule(IOPRIO_WHO_PROCESS),
        ),
    ];
    let not_to_init = NOT_TO_INIT.map(|call| (call, not_init_rule(0)));
    let mut rules: Vec<_> = simple
        .chain(special)
        .chain(not_to_init)
        .map(|(call, body)| Rule {
            call: number(call),
            body,
        })
        .collect();
    rules.sort_unstable_by_key(|rule| rule.call);
    rules
}

/// Decides by `rules`, which are sorted: half of them at each jump. When a filter is set the kernel runs it once for every
/// call that there is, and every stage sets one: a list in a row would take longer than making a namespace does.
fn decide(rules: &[Rule]) -> Vec<sock_filter> {
    const FEW: usize = 3;
    if rules.len() > FEW {
        let (lower, upper) = rules.split_at(rules.len() / 2);
        let (below, above) = (decide(lower), decide(upper));
        let skip = u32::try_from(below.len()).expect("the filter is short");
        let mut filter = vec![
            jump(libc::BPF_JGE, upper[0].call, 0, 1),
            instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, skip),
        ];
        filter.extend(below);
        filter.extend(above);
        return filter;
    }
    let mut filter = Vec::new();
    for rule in rules {
        let length = u8::try_from(rule.body.len()).expect("rules are short");
        filter.push(unless_equal(rule.call, 0, length));
        filter.extend(&rule.body);
    }
    filter.push(answer(ALLOW));
    filter
}

fn clone_rule() -> Vec<sock_filter> {
    vec![
        load(argument(0)),
        jump(libc::BPF_JSET, NAMESPACES, 0, 1),
        answer(REFUSE),
        answer(ALLOW),
    ]
}

/// Families, types and protocols that there are without the kernel having to look for a module.
fn socket_rule() -> Vec<sock_filter> {
    let one_of = |numbers: &[u32], otherwise: u32| {
        let last = u8::try_from(numbers.len()).expect("lists are short");
        let mut rule = Vec::new();
        for (&number, left) in numbers.iter().zip((0..last).rev()) {
            rule.push(unless_equal(number, left + 1, 0));
        }
        rule.push(answer(otherwise));
        rule
    };
    let internet = [
        vec![
            load(argument(1)),
            instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, TYPE),
        ],
        one_of(&TYPES, NO_SUCH_PROTOCOL),
        vec![load(argument(2))],
        one_of(&PROTOCOLS, NO_SUCH_PROTOCOL),
        vec![answer(ALLOW)],
    ]
    .concat();
    let length = u8::try_from(internet.len()).expect("the rule is short");
    let routes = [
        vec![load(argument(2))],
        one_of(&[ROUTES], NO_SUCH_FAMILY),
        vec![answer(ALLOW)],
    ]
    .concat();
    let after_routes = u8::try_from(routes.len()).expect("the rule is short");
    [
        vec![
            load(argument(0)),
            unless_equal(INTERNET[0], 1, 0),
            unless_equal(INTERNET[1], 0, length),
        ],
        internet,
        vec![unless_equal(NETLINK, 0, after_routes)],
        routes,
        one_of(&[LOCAL], NO_SUCH_FAMILY),
        vec![answer(ALLOW)],
    ]
    .concat()
}

/// Its init is not a stage's to change, though that is the same user's: the process that the argument `index` names.
fn not_init_rule(index: u32) -> Vec<sock_filter> {
    const INIT: u32 = 1;
    vec![
        load(argument(index)),
        unless_equal(INIT, 0, 1),
        answer(REFUSE),
        answer(ALLOW),
    ]
}

/// The first argument says what the second one names: only `process`, of which the init is none. A group or a user could have
/// the init among its own.
fn of_one_process_rule(process: u32) -> Vec<sock_filter> {
    let mut rule = vec![
        load(argument(0)),
        unless_equal(process, 1, 0),
        answer(REFUSE),
    ];
    rule.extend(not_init_rule(1));
    rule
}

fn ioctl_rule() -> Vec<sock_filter> {
    let mut rule = vec![load(argument(1))];
    for request in TERMINAL {
        rule.extend([unless_equal(request, 0, 1), answer(REFUSE)]);
    }
    rule.push(answer(ALLOW));
    rule
}

fn personality_rule() -> Vec<sock_filter> {
    let mut rule = vec![load(argument(0))];
    for personality in PERSONALITIES {
        rule.extend([unless_equal(personality, 0, 1), answer(ALLOW)]);
    }
    rule.push(answer(REFUSE));
    rule
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).expect("calls have small numbers")
}

/// Loads the 32 bits at `offset`.
fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

/// Goes on `equal` instructions further where what was loaded is `value`, else `other` further.
fn unless_equal(value: u32, equal: u8, other: u8) -> sock_filter {
    jump(libc::BPF_JEQ, value, equal, other)
}

fn jump(test: u32, value: u32, yes: u8, no: u8) -> sock_filter {
    instruction(libc::BPF_JMP | test | libc::BPF_K, yes, no, value)
}

fn answer(what: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, what)
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    let code = u16::try_from(code).expect("codes have 16 bits");
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests;
