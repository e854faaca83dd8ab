//! `envicutor-agent collect RUNTIMES_DIR NAME…`: removes root file systems of runtimes with their markers. No part of PID 1: it
//! runs in a container of the worker's that has the volume to write to.
//!
//! The invariant: a marker never outlives its root, nor the note that a root was begun goes before it. Whatever interrupts
//! this, the next one finds what is left.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use envicutor_protocol::{BEGUN, READY};

/// Does it. The exit code: 0 done, 1 not (standard error says why), 2 wrong arguments.
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> libc::c_int {
    let Some(directory) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: envicutor-agent collect RUNTIMES_DIR NAME...");
        return 2;
    };
    for name in arguments {
        let name = name.to_string_lossy();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            eprintln!("collect: {name:?} is no root's name: expected hexadecimal digits");
            return 2;
        }
        if let Err(problem) = remove(&directory, &name) {
            eprintln!("collect: {problem}");
            return 1;
        }
    }
    0
}

fn remove(directory: &Path, name: &str) -> Result<(), String> {
    let (root, ready, begun) = (
        directory.join(name),
        directory.join(READY).join(name),
        directory.join(BEGUN).join(name),
    );
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error| format!("remove {path}: {error}")
    };
    absent(fs::remove_file(&ready)).map_err(failed(&ready))?;
    absent(fs::remove_dir_all(&root)).map_err(failed(&root))?;
    absent(fs::remove_file(&begun)).map_err(failed(&begun))
}

/// What is not there needs no removal.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_removed_with_its_markers_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        for name in ["aa", "bb", READY, BEGUN] {
            fs::create_dir(path.join(name)).expect("made");
        }
        for file in [
            "aa/x", "bb/x", "ready/aa", "ready/bb", "begun/aa", "begun/bb",
        ] {
            fs::write(path.join(file), "").expect("written");
        }
        let arguments = |names: &[&str]| {
            let names: Vec<OsString> = names.iter().map(Into::into).collect();
            [path.into()].into_iter().chain(names)
        };
        assert_eq!(run(arguments(&["aa", "cc"])), 0);
        for (file, is_there) in [
            ("aa", false),
            ("ready/aa", false),
            ("begun/aa", false),
            ("bb/x", true),
            ("ready/bb", true),
        ] {
            assert_eq!(path.join(file).exists(), is_there, "{file}");
        }
        assert_eq!(run(arguments(&["../bb"])), 2);
        assert!(path.join("bb/x").exists());
    }
}
