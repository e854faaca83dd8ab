//! Attacks on memory, in every kind that there is.

use crate::attack::{Attack, c};

const MIB: u64 = 1 << 20;

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let in_files = || c("in_files.c", include_str!("memory/in_files.c"));
    let bombs = [
        c("anonymous.c", include_str!("memory/anonymous.c")).sees("EACCES", &["spare me"]),
        c("children.c", include_str!("memory/children.c")),
        in_files().arg("/work"),
        in_files().arg("/tmp"),
        in_files().arg("/dev/shm"),
        c("nameless.c", include_str!("memory/nameless.c")),
        c("system_v.c", include_str!("memory/system_v.c")),
        c("posix.c", include_str!("memory/posix.c")),
        c("in_pipes.c", include_str!("memory/in_pipes.c")),
    ];
    let bomb = |attack: Attack| {
        attack
            .limit("memory_bytes", 48 * MIB)
            .ends("memory_exceeded")
            .hits("memory_bytes")
    };
    let mut attacks: Vec<_> = bombs.into_iter().map(bomb).collect();
    attacks.extend([
        c("page_cache.c", include_str!("memory/page_cache.c"))
            .limit("memory_bytes", 64 * MIB)
            .sees("more than the limit", &["read"]),
        c("dentries.c", include_str!("memory/dentries.c")).sees("0", &["found"]),
        c("in_flight.c", include_str!("memory/in_flight.c")).sees("128 MiB", &["in flight"]),
        c("locked.c", include_str!("memory/locked.c"))
            .sees(
                "ENOMEM",
                &["mlock", "mlock2", "mlockall", "shmctl lock", "mmap huge"],
            )
            .sees("EAGAIN", &["mmap locked"])
            .sees("EPERM|ENOMEM", &["shmget huge"])
            .sees("ENOSYS|EAGAIN|EPERM", &["memfd_secret"]),
    ]);
    attacks
}
