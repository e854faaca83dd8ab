//! Attacks by files: too many, too large, and not what they seem.

use crate::{
    attack::{Attack, bash, c, python},
    isolation::Isolation::{Container, Sandbox},
};

const MIB: u64 = 1 << 20;

/// All of them.
pub fn attacks() -> Vec<Attack> {
    [
        space(),
        left_by_a_build(),
        entries(),
        others(),
        archives(),
        collected(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What fills a file system in memory.
fn space() -> Vec<Attack> {
    let space = |place: &str, mib: &str| {
        c("space.c", include_str!("files/space.c"))
            .arg(place)
            .limit("memory_bytes", 256 * MIB)
            .sees("ENOSPC", &["write"])
            .sees(mib, &["MiB"])
    };
    let inodes = |place: &str, count: &str| {
        c("inodes.c", include_str!("files/inodes.c"))
            .arg(place)
            .sees("ENOSPC", &["make"])
            .sees(count, &["made"])
    };
    vec![
        space("/work", "63"),
        space("/tmp", "64"),
        space("/dev/shm", "64"),
        // Three are there: the source, the header and the program.
        inodes("/work", "4093"),
        inodes("/tmp", "4096"),
        inodes("/dev/shm", "4096"),
    ]
}

/// A Python program as a build.
const BUILD: [&str; 3] = ["/usr/bin/python3", "main.py", "build"];

/// What is kept of a build for every run, and laid out again.
fn left_by_a_build() -> Vec<Attack> {
    vec![
        python("sparse.py", include_str!("files/sparse.py"))
            .built_by(&BUILD)
            .times(3)
            .build_sees("EFBIG", &["truncate to 1 TiB", "write at 1 TiB"])
            .build_sees("ENOSPC", &["allocate 100 MiB"])
            .build_sees("58", &["GiB"])
            .build_sees("3", &["MiB in use"])
            .build_sees("middle", &["in the middle"])
            .sees("58", &["GiB"])
            .sees("3", &["MiB in use"])
            .sees("middle", &["in the middle"]),
        deep(),
        planted(),
        python(
            "survive_the_build.py",
            include_str!("files/survive_the_build.py"),
        )
        .built_by(&BUILD)
        .times(2)
        .sees("dead", &["the daemon"])
        .sees("0", &["processes"]),
    ]
}

/// Directories in directories. AppArmor, which Docker's own profile confines a container with where the kernel has it, refuses
/// whatever has a path of more than 8 KiB (its `path_max`); a sandbox is not under that profile.
fn deep() -> Attack {
    let refused = ["refused in /work", "refused in /tmp", "refused in /dev/shm"];
    let depth = ["depth in /work", "depth in /tmp", "depth in /dev/shm"];
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let (why, how_deep) = if enabled.is_ok_and(|enabled| enabled.trim() == "Y") {
        ("ENAMETOOLONG", "tens")
    } else {
        ("ENOSPC", "thousands")
    };
    python("deep.py", include_str!("files/deep.py"))
        .built_by(&BUILD)
        .times(3)
        .build_sees_under(Sandbox, "ENOSPC", &refused)
        .build_sees_under(Container, why, &refused)
        .build_sees_under(Sandbox, "thousands", &depth)
        .build_sees_under(Container, how_deep, &depth)
        .sees_under(Sandbox, "thousands", &depth[..1])
        .sees_under(Container, how_deep, &depth[..1])
}

/// Each run finds what the build left, whatever the run before did to it.
fn planted() -> Attack {
    let names = [
        "new\\nline",
        "-rf",
        " ",
        "...",
        "\\udcff\\udcfe",
        "\\x1b[31m",
        "*",
        "x x 255",
    ];
    python("plant.py", include_str!("files/plant.py"))
        .built_by(&["/usr/bin/python3", "main.py", "plant"])
        .times(3)
        .build_sees("ENAMETOOLONG", &["name of 256 bytes"])
        .build_sees("ENOENT", &["name with a slash"])
        .build_sees(
            "EXDEV",
            &["hard link to passwd", "hard link through a link"],
        )
        .build_sees("EPERM", &["character device", "block device"])
        .build_sees("EPERM|EOPNOTSUPP|ENOTTY", &["immutable"])
        .build_sees("EPERM|EINVAL", &["give away"])
        .build_sees("EROFS|EBUSY", &["remove the work directory"])
        .build_sees("EROFS|EBUSY|EXDEV", &["move the work directory"])
        .sees("-rw-r--r-- named", &names)
        .sees("lrwxrwxrwx /etc/shadow", &["to shadow"])
        .sees("lrwxrwxrwx /proc/1/root", &["to the agent"])
        .sees("lrwxrwxrwx ../../../../../etc/passwd", &["to above"])
        .sees("lrwxrwxrwx to itself", &["to itself"])
        .sees("lrwxrwxrwx 4095", &["to nowhere"])
        .sees("-rw-r--r--", &["main.py", "report.py", "hard link"])
        .sees("d---------", &["closed"])
        .sees("-rwsrwsrwx #!/bin/sh", &["setuid"])
        .sees("hidden", &["closed/inner/file"])
}

/// A program to be run that is none.
fn entries() -> Vec<Attack> {
    let entry = |kind: &str| {
        bash(&format!("entry.sh {kind}"), include_str!("files/entry.sh"))
            .built_by(&["/bin/bash", "main.sh", kind])
            .run_by(&["./program"])
            .ends("runtime_error")
    };
    [
        "pipe",
        "loop",
        "directory",
        "itself",
        "nothing",
        "text",
        "agent",
        "interpreter",
    ]
    .map(entry)
    .into()
}

/// What an archive must not do. What else it must not: `crates/agent/tests/archives.rs`.
fn archives() -> Vec<Attack> {
    let entry = |kind: tar::EntryType, name: &str, target: &str, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o6777);
        header.set_size(size);
        // As they are, where no honest archive has them.
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let attack = |name: &str, archive: &[u8], reason| {
        let attack = python(&format!("archive {name}"), "print('it runs')");
        attack.refused("tar", archive, reason)
    };
    let link = |name, target| entry(tar::EntryType::Symlink, name, target, 0);
    let file = |name| entry(tar::EntryType::Regular, name, "", 0);
    vec![
        attack("escapes", &file("../../etc/x"), "leads out"),
        attack("absolute", &file("/proc/self/mem"), "absolute path"),
        attack(
            "link to root",
            &link("x", "/"),
            "symbolic link to an absolute",
        ),
        attack(
            "link above",
            &link("a/x", "../../x"),
            "symbolic link out of",
        ),
        attack(
            "through a link",
            &[link("x", "y"), file("x/z")].concat(),
            "a link there already",
        ),
        attack(
            "hard link to passwd",
            &entry(tar::EntryType::Link, "x", "etc/passwd", 0),
            "hard link to what is no earlier",
        ),
        attack(
            "device",
            &entry(tar::EntryType::Block, "x", "", 0),
            "is a device",
        ),
        attack(
            "pipe",
            &entry(tar::EntryType::Fifo, "x", "", 0),
            "named pipe",
        ),
        attack("the source", &file("main.py"), "is there already"),
        attack("twice", &[file("x"), file("x")].concat(), "named twice"),
        attack(
            "a tebibyte",
            &entry(tar::EntryType::Regular, "x", "", 1 << 40),
            "more than the",
        ),
        attack("nonsense", &[b'x'; 4096], "can be read"),
    ]
}

/// What must not be collected.
fn collected() -> Vec<Attack> {
    const PATTERNS: [&str; 6] = [
        "out/*",
        "root/etc/passwd",
        "proc/1/environ",
        "self/main.py",
        "fd/*",
        "zmany/*",
    ];
    vec![
        python("leave.py", include_str!("files/leave.py"))
            .collecting(&PATTERNS)
            .sees("all", &["left"])
            .checked(nothing_but_files),
    ]
}

/// What `leave.py` left as files was collected, within its bounds, and nothing that it led to.
fn nothing_but_files(result: &serde_json::Value) -> Option<String> {
    let files = result["collected"].as_array().cloned().unwrap_or_default();
    let paths: Vec<_> = files.iter().filter_map(|it| it["path"].as_str()).collect();
    let errors = result["collect_errors"].to_string();
    let is_right = paths.len() == 4
        && paths.contains(&"out/real")
        && paths.iter().all(|path| {
            *path == "out/real" || path.starts_with("zmany/") || path.starts_with("out/\n")
        })
        && ["out/link", "out/shadow", "out/pipe", "out/sparse"]
            .iter()
            .all(|path| errors.contains(path));
    (!is_right).then(|| format!("collected {paths:?}, {errors}"))
}

fn others() -> Vec<Attack> {
    let places = ["/work", "/tmp", "/dev/shm"];
    vec![
        python("unremovable.py", include_str!("files/unremovable.py"))
            .times(2)
            .sees("EROFS", &places.map(|place| format!("remove {place}")))
            .sees("EROFS", &places.map(|place| format!("move {place}")))
            .sees_under(Container, "EACCES", &["remove /dev/shm", "move /dev/shm"])
            .sees("ok", &["close /work", "close /tmp", "close /dev/shm"])
            .sees_under(Container, "EPERM", &["close /tmp", "close /dev/shm"])
            .sees("yes", &["alive"]),
        python("read_only_root.py", include_str!("files/read_only_root.py"))
            .sees_under(
                Container,
                "/dev/full /dev/mqueue /dev/null /dev/pts/ptmx /dev/random /dev/tty /dev/urandom /dev/zero",
                &["writable"],
            )
            .sees_under(
                Sandbox,
                "/dev/full /dev/null /dev/random /dev/urandom /dev/zero",
                &["writable"],
            )
            .sees("EACCES|EROFS", &["write /etc/passwd", "make /dev/made"])
            .sees("EROFS", &["make /made", "remove /bin/sh"])
            .sees("EXDEV|EROFS", &["move /usr"])
            .sees_under(Container, "EROFS", &["make /envicutor/made"])
            .sees_under(Container, "EACCES|EROFS", &["write the agent"])
            .sees_under(Sandbox, "ENOENT", &["make /envicutor/made", "write the agent"])
            .sees("ENOENT", &["connect to the worker", "connect to Docker"]),
    ]
}
