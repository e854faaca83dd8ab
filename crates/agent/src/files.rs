//! Lays out a submission's files in the work directory.
//!
//! The worker has validated every path; here nothing is trusted all the same: a path is walked one component at a time,
//! below a descriptor of the work directory, and no symbolic link is followed.

use std::{
    ffi::{CStr, CString},
    fs,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use envicutor_protocol::{CHUNK_BYTES, File};

use crate::{
    directory::open_at,
    failure::{Failure, Naming},
    identity::Identity,
    sys::check,
};

const STEP: &str = "write file";

/// Writes `file`, or its next part, below `work_dir` as `identity`. Missing directories are made.
pub fn write(file: &File, work_dir: &Path, identity: Identity) -> Result<(), Failure> {
    if file.data.len() > CHUNK_BYTES {
        let error = format!(
            "{} bytes came in one part, expected at most {CHUNK_BYTES}",
            file.data.len()
        );
        return Err(Failure::new(STEP, &file.path, error));
    }
    let components =
        components(&file.path).map_err(|error| Failure::new(STEP, &file.path, error))?;
    identity
        .act(|| write_below(work_dir, &components, file))
        .and_then(|result| result)
        .naming(STEP, &file.path)
}

/// The components of a relative path that stays below its start; else what is wrong with it.
fn components(path: &str) -> Result<Vec<CString>, &'static str> {
    if path.starts_with('/') {
        return Err("the path is absolute, expected a relative one");
    }
    path.split('/')
        .map(|component| match component {
            "" | "." | ".." => Err("the path has an empty, '.' or '..' component, expected names"),
            name => CString::new(name).map_err(|_| "the path holds a NUL, expected none"),
        })
        .collect()
}

fn write_below(work_dir: &Path, components: &[CString], file: &File) -> io::Result<()> {
    let (name, parents) = components
        .split_last()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    let mut directory = OwnedFd::from(fs::File::open(work_dir)?);
    for parent in parents {
        directory = enter(&directory, parent)?;
    }
    let flags = if file.append {
        libc::O_APPEND
    } else {
        libc::O_CREAT | libc::O_EXCL
    };
    let mode = if file.executable { 0o755 } else { 0o644 };
    let opened = open_at(directory.as_raw_fd(), name, libc::O_WRONLY | flags, mode)?;
    fs::File::from(opened).write_all(&file.data)
}

/// The directory `name` in `directory`, made where it is missing.
fn enter(directory: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `name` ends with a NUL, `directory` is open.
    let made = check(unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), 0o755) });
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => open_at(
            directory.as_raw_fd(),
            name,
            libc::O_RDONLY | libc::O_DIRECTORY,
            0,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_leave_the_work_directory_is_refused() {
        for path in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "./a",
            "a/",
            "a\0b",
        ] {
            assert!(components(path).is_err(), "{path:?}");
        }
        assert_eq!(components("a/b c/..d").expect("is fine").len(), 3);
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let base = std::env::temp_dir().join(format!("envicutor-files-{}", std::process::id()));
        fs::create_dir_all(&base).expect("makes a directory");
        std::os::unix::fs::symlink("/tmp", base.join("link")).expect("links");
        let file = File {
            path: "link/escaped".into(),
            executable: false,
            append: false,
            data: vec![1],
        };
        let parts = components(&file.path).expect("a fine path");
        let error = write_below(&base, &parts, &file).expect_err("must not follow");
        fs::remove_dir_all(&base).expect("cleans up");
        assert!(matches!(
            error.raw_os_error(),
            Some(libc::ENOTDIR | libc::ELOOP)
        ));
    }
}
