//! The filter, run as the kernel runs it.

use super::*;

/// Runs the filter as the kernel does.
fn run(architecture: u32, call: u32, arguments: [u32; 3]) -> u32 {
    let filter = filter();
    let (mut at, mut loaded) = (0, 0);
    loop {
        let it = filter[at];
        at += 1;
        match u32::from(it.code) {
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                loaded = match it.k {
                    NUMBER => call,
                    ARCHITECTURE => architecture,
                    offset => arguments[((offset - 16) / 8) as usize],
                };
            }
            code if code == libc::BPF_RET | libc::BPF_K => return it.k,
            code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => loaded &= it.k,
            code if code == libc::BPF_JMP | libc::BPF_JA => at += it.k as usize,
            code => {
                let holds = match code & 0xf0 {
                    libc::BPF_JEQ => loaded == it.k,
                    libc::BPF_JGE => loaded >= it.k,
                    libc::BPF_JSET => loaded & it.k != 0,
                    other => panic!("no such test: {other}"),
                };
                at += usize::from(if holds { it.jt } else { it.jf });
            }
        }
    }
}

fn of(call: c_long, arguments: [u32; 3]) -> u32 {
    run(X86_64, number(call), arguments)
}

#[test]
fn ordinary_calls_are_allowed() {
    for call in [
        libc::SYS_read,
        libc::SYS_execve,
        libc::SYS_fork,
        libc::SYS_ptrace,
        libc::SYS_futex,
    ] {
        assert_eq!(of(call, [0; 3]), ALLOW, "{call}");
    }
    assert_eq!(of(libc::SYS_clone, [0x0001_0f00, 0, 0]), ALLOW, "a thread");
}

#[test]
fn another_architecture_and_the_calls_of_no_honest_program_kill() {
    assert_eq!(run(0x4000_0003, 1, [0; 3]), KILL, "i386");
    assert_eq!(run(X86_64, X32 + 1, [0; 3]), KILL, "x32");
    for call in KILLING {
        assert_eq!(of(call, [0; 3]), KILL, "{call}");
    }
}

#[test]
fn a_call_is_decided_in_a_few_steps_and_has_one_rule() {
    let rules = rules();
    assert!(rules.windows(2).all(|two| two[0].call < two[1].call));
    assert!(filter().len() < 400);
}

#[test]
fn namespaces_are_refused_however_they_are_asked_for() {
    for call in REFUSED {
        assert_eq!(of(call, [0; 3]), REFUSE, "{call}");
    }
    let every = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWCGROUP,
    ];
    for flag in every {
        assert_eq!(of(libc::SYS_clone, [flag.cast_unsigned(), 0, 0]), REFUSE);
    }
    assert_eq!(of(libc::SYS_clone3, [0; 3]), UNKNOWN);
}

#[test]
fn sockets_are_of_the_machine_itself_and_of_the_internet() {
    let typed = |family: i32, kind: i32, protocol: i32| {
        let arguments = [family, kind, protocol].map(i32::cast_unsigned);
        of(libc::SYS_socket, arguments)
    };
    let socket = |family, protocol| typed(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, protocol);
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
        assert_eq!(socket(family, 0), ALLOW);
    }
    assert_eq!(socket(libc::AF_NETLINK, libc::NETLINK_ROUTE), ALLOW);
    assert_eq!(
        socket(libc::AF_NETLINK, libc::NETLINK_NETFILTER),
        NO_SUCH_FAMILY
    );
    for family in [libc::AF_INET, libc::AF_INET6] {
        assert_eq!(socket(family, libc::IPPROTO_TCP), ALLOW);
        assert_eq!(typed(family, libc::SOCK_DGRAM, libc::IPPROTO_UDP), ALLOW);
        assert_eq!(socket(family, libc::IPPROTO_SCTP), NO_SUCH_PROTOCOL);
        assert_eq!(typed(family, libc::SOCK_SEQPACKET, 0), NO_SUCH_PROTOCOL);
    }
    for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG] {
        assert_eq!(socket(family, 0), NO_SUCH_FAMILY);
    }
}

#[test]
fn arguments_are_looked_at() {
    assert_eq!(of(libc::SYS_ioctl, [0, 0x5412, 0]), REFUSE, "TIOCSTI");
    assert_eq!(of(libc::SYS_ioctl, [0, 0x5401, 0]), ALLOW, "TCGETS");
    assert_eq!(of(libc::SYS_personality, [u32::MAX, 0, 0]), ALLOW);
    assert_eq!(of(libc::SYS_personality, [0x0400_0000, 0, 0]), REFUSE);
}

#[test]
fn an_init_is_not_changed() {
    for call in NOT_TO_INIT {
        assert_eq!(of(call, [1, 0, 0]), REFUSE, "{call}");
        assert_eq!(of(call, [0, 1, 1]), ALLOW, "{call}");
    }
    let which = [
        (libc::SYS_setpriority, [0, 1, 2]),
        (libc::SYS_ioprio_set, [1, 2, 3]),
    ];
    for (call, [process, group, user]) in which {
        assert_eq!(of(call, [process, 1, 19]), REFUSE, "{call}");
        assert_eq!(of(call, [process, 0, 19]), ALLOW, "{call}");
        assert_eq!(of(call, [process, 7, 19]), ALLOW, "{call}");
        assert_eq!(of(call, [group, 0, 19]), REFUSE, "{call}");
        assert_eq!(of(call, [user, 0, 19]), REFUSE, "{call}");
    }
}
