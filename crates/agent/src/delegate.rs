//! `envicutor-agent delegate CGROUP_ROOT CONTAINER_ID UID`: gives a container's own cgroup to the user that its agent runs as.
//! No part of PID 1: the worker runs it on the host, or in a container that sees the host's cgroups.
//!
//! What changes its owner is the directory and the files that move processes and hand controllers down: what the
//! kernel's own list of delegatable files (`/sys/kernel/cgroup/delegate`) has without the ones for memory. The container's
//! limits stay root's, so that nobody inside can raise them.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{MetadataExt, lchown},
    path::{Path, PathBuf},
};

/// The files that change their owner with the directory, where they are there. The first always is.
const FILES: [&str; 4] = [
    "cgroup.procs",
    // Version 1.
    "tasks",
    // Version 2.
    "cgroup.subtree_control",
    "cgroup.threads",
];

/// The controllers of version 1 that a slot's agent uses. A directory of the root is named by its controllers.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];

/// Does it. The exit code: 0 done, 1 not (standard error says why), 2 wrong arguments.
pub fn run(arguments: impl Iterator<Item = OsString>) -> libc::c_int {
    let arguments: Vec<OsString> = arguments.collect();
    let [root, container, uid] = arguments.as_slice() else {
        eprintln!("usage: envicutor-agent delegate CGROUP_ROOT CONTAINER_ID UID");
        return 2;
    };
    let container = container.to_string_lossy();
    let uid = uid.to_string_lossy().parse().ok().filter(|uid| *uid > 0);
    let Some(uid) = uid.filter(|_| is_id(&container)) else {
        eprintln!("delegate: expected 64 hexadecimal digits of a container's id and a uid above 0");
        return 2;
    };
    match delegate(Path::new(root), &container, uid) {
        Ok(()) => 0,
        Err(problem) => {
            eprintln!("delegate: {problem}");
            1
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn delegate(root: &Path, container: &str, uid: u32) -> Result<(), String> {
    for hierarchy in hierarchies(root)? {
        let names = [container.to_owned(), format!("docker-{container}.scope")];
        let mut found = Vec::new();
        find(&hierarchy, &names, &mut found);
        if found.is_empty() {
            return Err(format!(
                "{} has no cgroup of container {container}, neither {container} nor docker-{container}.scope",
                hierarchy.display()
            ));
        }
        for directory in found {
            give(&directory, uid)?;
        }
    }
    Ok(())
}

/// The hierarchies to look in: the only one of version 2, or version 1's that matter.
fn hierarchies(root: &Path) -> Result<Vec<PathBuf>, String> {
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let matters = |name: &str| name.split(',').any(|it| CONTROLLERS.contains(&it));
    // Links (`cpu` to `cpu,cpuacct`) are other names of the same.
    let hierarchies: Vec<PathBuf> = directories(root)
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| matters(&name.to_string_lossy()))
        })
        .collect();
    if hierarchies.is_empty() {
        return Err(format!(
            "{} holds no cgroups: expected cgroup.controllers (version 2) or a directory `memory` (version 1) in it",
            root.display()
        ));
    }
    Ok(hierarchies)
}

/// The directories below `within` that have one of `names`. What belongs to somebody else than root was given away, and is
/// not looked into: its owner could have put any name there.
fn find(within: &Path, names: &[String], found: &mut Vec<PathBuf>) {
    for path in directories(within) {
        let is_named = |name: &String| path.file_name().is_some_and(|it| it == name.as_str());
        if names.iter().any(is_named) {
            found.push(path);
        } else if fs::metadata(&path).is_ok_and(|metadata| metadata.uid() == 0) {
            find(&path, names, found);
        }
    }
}

/// The directories in `within`. One that ends meanwhile holds none.
fn directories(within: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(within).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

fn give(directory: &Path, uid: u32) -> Result<(), String> {
    let failed =
        |path: &Path, error: &io::Error| format!("chown {} to {uid}: {error}", path.display());
    for (place, name) in FILES.iter().enumerate() {
        let path = directory.join(name);
        match lchown(&path, Some(uid), Some(uid)) {
            Err(error) if place > 0 && error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|error| failed(&path, &error))?,
        }
    }
    lchown(directory, Some(uid), Some(uid)).map_err(|error| failed(directory, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "f123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn make(root: &Path, directory: &str, files: &[&str]) {
        fs::create_dir_all(root.join(directory)).expect("made");
        for file in files {
            fs::write(root.join(directory).join(file), "").expect("written");
        }
    }

    /// What below `root` belongs to `uid`.
    fn owned(root: &Path, uid: u32) -> Vec<String> {
        let mut found = Vec::new();
        let mut left = vec![root.to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(&directory).expect("listed").flatten() {
                let path = entry.path();
                let metadata = entry.metadata().expect("there");
                if metadata.uid() == uid {
                    let inside = path.strip_prefix(root).expect("inside");
                    found.push(inside.to_string_lossy().into_owned());
                }
                if metadata.is_dir() {
                    left.push(path);
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn nothing_but_the_named_files_of_the_containers_own_cgroup_is_given_on_version_2() {
        let root = tempfile::tempdir().expect("a directory");
        let scope = format!("system.slice/docker-{ID}.scope");
        let files = [
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
            "memory.max",
            "pids.max",
        ];
        make(root.path(), "", &["cgroup.controllers", "cgroup.procs"]);
        make(root.path(), &scope, &files);
        make(root.path(), &format!("{scope}/inside"), &files);
        make(
            root.path(),
            &format!("system.slice/docker-{OTHER}.scope"),
            &files,
        );
        delegate(root.path(), ID, 4242).expect("given");
        let mut expected: Vec<String> = files[..3]
            .iter()
            .map(|file| format!("{scope}/{file}"))
            .collect();
        expected.insert(0, scope);
        assert_eq!(owned(root.path(), 4242), expected);
    }

    #[test]
    fn on_version_1_the_hierarchies_that_matter_are_given_and_no_other() {
        let root = tempfile::tempdir().expect("a directory");
        let files = ["cgroup.procs", "tasks", "memory.limit_in_bytes"];
        for hierarchy in ["memory", "pids", "cpu,cpuacct", "freezer", "systemd"] {
            make(root.path(), &format!("{hierarchy}/docker/{ID}"), &files);
        }
        std::os::unix::fs::symlink("cpu,cpuacct", root.path().join("cpu")).expect("linked");
        delegate(root.path(), ID, 4242).expect("given");
        let mut expected = Vec::new();
        for hierarchy in ["cpu,cpuacct", "memory", "pids"] {
            let directory = format!("{hierarchy}/docker/{ID}");
            expected.extend([
                directory.clone(),
                format!("{directory}/cgroup.procs"),
                format!("{directory}/tasks"),
            ]);
        }
        assert_eq!(owned(root.path(), 4242), expected);
    }

    #[test]
    fn a_name_that_somebody_else_planted_is_not_found() {
        let root = tempfile::tempdir().expect("a directory");
        make(root.path(), "", &["cgroup.controllers"]);
        make(
            root.path(),
            &format!("docker/{OTHER}/{ID}"),
            &["cgroup.procs"],
        );
        lchown(root.path().join("docker").join(OTHER), Some(77), Some(77)).expect("given");
        let problem = delegate(root.path(), ID, 4242).expect_err("not found");
        assert!(problem.contains("no cgroup of container"), "{problem}");
        assert_eq!(owned(root.path(), 4242), Vec::<String>::new());
    }
}
