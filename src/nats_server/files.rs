//! The files of a server: its configuration and passwords, and what tells other programs of the same data directory where it
//! is. Whatever holds a password is for the owner alone.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::ServerError;
use crate::{
    bus::{
        Role,
        credentials::{self, Credentials},
        subjects::Names,
    },
    config,
    submission::names::Tenant,
};

/// The server's configuration, as it came with the program.
const SERVER_CONF: &str = include_str!("../../nats/server.conf");

/// What stands for each tenant in a line of the configuration.
const BUCKET: &str = "blobs-default";

/// The server's configuration for a fleet of this prefix and these tenants: in the permissions each subject, stream and bucket has its
/// name.
pub fn server_conf(nats: &config::Nats) -> String {
    let prefix = &nats.prefix;
    let names = Names::new(prefix).stream_prefix();
    let mut conf = SERVER_CONF.replace("\"envicutor.", &format!("\"{prefix}."));
    for stream in [
        "RESULTS",
        "EVENTS",
        "DEAD_LETTERS",
        "HISTORY",
        "INSTALLATIONS",
    ] {
        conf = conf.replace(&format!(".{stream}"), &format!(".{names}{stream}"));
    }
    for bucket in [
        "attempts",
        "installations",
        "leases",
        "replays",
        "workers",
        "runtimes",
        "tenants",
    ] {
        conf = conf
            .replace(&format!("KV_{bucket}"), &format!("KV_{names}{bucket}"))
            .replace(&format!("$KV.{bucket}"), &format!("$KV.{names}{bucket}"));
    }
    conf = conf
        .replace("OBJ_images", &format!("OBJ_{names}images"))
        .replace("$O.images", &format!("$O.{names}images"));
    let for_tenants = |line: &str| -> String {
        if !line.contains(BUCKET) {
            return format!("{line}\n");
        }
        let of = |tenant: &Tenant| line.replace(BUCKET, &format!("{names}blobs-{tenant}")) + "\n";
        nats.tenants.iter().map(of).collect()
    };
    conf.lines().map(for_tenants).collect()
}

/// What [`init`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialized {
    /// What was written.
    pub written: Vec<PathBuf>,
    /// What was there already, and was left as it is.
    pub kept: Vec<PathBuf>,
    /// The users that the server's configuration, which was there already, does not know.
    pub lacks: Vec<Role>,
}

impl Initialized {
    /// Writes a file, unless it is there.
    pub(super) fn write_missing(
        &mut self,
        path: PathBuf,
        content: &str,
    ) -> Result<(), ServerError> {
        if path.exists() {
            self.kept.push(path);
        } else {
            write(&path, content)?;
            self.written.push(path);
        }
        Ok(())
    }
}

/// Makes `dir` ready for a server (`nats-server -c server.conf`) and for the programs (`nats.credentials_file`): `server.conf`,
/// `credentials.conf`, `credentials.toml`. Nothing that is there is overwritten.
pub fn init(dir: &Path, nats: &config::Nats) -> Result<Initialized, ServerError> {
    create_private_dir(dir)?;
    let mut done = Initialized {
        written: Vec::new(),
        kept: Vec::new(),
        lacks: Vec::new(),
    };
    done.write_missing(dir.join("server.conf"), &server_conf(nats))?;
    let before = Credentials::load(&credentials_file(dir)).ok();
    let paths = [credentials_file(dir), dir.join("credentials.conf")];
    let credentials = write_credentials(dir)?;
    done.lacks = lacking(dir);
    if before.as_ref() == Some(&credentials) {
        &mut done.kept
    } else {
        &mut done.written
    }
    .extend(paths);
    Ok(done)
}

/// The same for the server of a data directory, whose `server.conf` is the program's own and follows it.
pub(super) fn write_for_own_server(
    dir: &Path,
    nats: &config::Nats,
) -> Result<Credentials, ServerError> {
    write(&dir.join("server.conf"), &server_conf(nats))?;
    write_credentials(dir)
}

/// The credentials of `dir`, generated where there are none or some are missing. The server's copy is always derived from the programs'.
fn write_credentials(dir: &Path) -> Result<Credentials, ServerError> {
    let path = credentials_file(dir);
    let (mut credentials, is_new) = if path.exists() {
        (Credentials::load(&path)?, false)
    } else {
        (Credentials::generate(), true)
    };
    if credentials.complete() || is_new {
        write(&path, &credentials.to_toml())?;
    }
    let included = credentials.to_server_conf(&conf_of(dir));
    write(&dir.join("credentials.conf"), &included)?;
    Ok(credentials)
}

/// The configuration of the server of `dir`; one that cannot be read uses nothing.
fn conf_of(dir: &Path) -> String {
    fs::read_to_string(dir.join("server.conf")).unwrap_or_default()
}

/// The roles whose users the configuration of `dir` does not know: it was written before they were.
fn lacking(dir: &Path) -> Vec<Role> {
    let conf = conf_of(dir);
    let mut roles = Role::ALL.to_vec();
    roles.retain(|role| !conf.contains(&format!("${}", credentials::variable(*role))));
    roles
}

/// What `nats.credentials_file` names.
pub fn credentials_file(dir: &Path) -> PathBuf {
    dir.join("credentials.toml")
}

pub(super) fn lock(dir: &Path) -> PathBuf {
    dir.join("lock")
}

pub(super) fn log(dir: &Path) -> PathBuf {
    dir.join("nats-server.log")
}

pub(super) fn pid(dir: &Path) -> PathBuf {
    dir.join("nats-server.pid")
}

fn ports(dir: &Path, pid: u32) -> PathBuf {
    dir.join(format!("nats-server_{pid}.ports"))
}

fn url(dir: &Path, role: Role) -> PathBuf {
    dir.join(format!("{role}.url"))
}

/// Creates a directory that only we can enter, where it is missing.
pub(super) fn create_private_dir(dir: &Path) -> Result<(), ServerError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| failed(dir, source))
}

/// Writes a file that only we can read, whole or not at all.
fn write(path: &Path, content: &str) -> Result<(), ServerError> {
    let staged = path.with_extension("new");
    let write = || -> io::Result<()> {
        // A file that was left half written may have any mode.
        if let Err(error) = fs::remove_file(&staged)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&staged, path)
    };
    write().map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> ServerError {
    ServerError::File {
        path: path.to_owned(),
        source,
    }
}

/// Tells the other programs of this data directory where the server is.
pub(super) fn write_urls(dir: &Path, url_of: impl Fn(Role) -> String) -> Result<(), ServerError> {
    for role in Role::ALL {
        write(&url(dir, role), &url_of(role))?;
    }
    Ok(())
}

/// No server runs (yet, or any more).
pub(super) fn forget_urls(dir: &Path) {
    for role in Role::ALL {
        // An absent one is what is wanted.
        let _ = fs::remove_file(url(dir, role));
    }
}

pub(super) fn read_url(dir: &Path, role: Role) -> Option<String> {
    fs::read_to_string(url(dir, role)).ok()
}

/// The address in the ports file that the server of process `pid` writes once it listens.
pub(super) fn read_ports(dir: &Path, pid: u32) -> Option<String> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let text = fs::read_to_string(ports(dir, pid)).ok()?;
    let ports: Ports = serde_json::from_str(&text).ok()?;
    Some(ports.nats.first()?.strip_prefix("nats://")?.to_owned())
}

/// Removes ports files of servers that are gone.
pub(super) fn forget_ports(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path
            .extension()
            .is_some_and(|extension| extension == "ports")
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// The last lines of the server's log.
pub(super) fn log_tail(dir: &Path, lines: usize) -> String {
    let text = fs::read(log(dir)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn permissions_follow_the_prefix() {
        assert_eq!(server_conf(&config::Nats::default()), SERVER_CONF);
        let conf = server_conf(&config::Nats {
            prefix: "lab".into(),
            ..config::Nats::default()
        });
        for there in [
            "\"lab.settle.>\"",
            "STREAM.MSG.DELETE.LAB_RESULTS\"",
            "PURGE.KV_LAB_attempts\"",
            "\"$KV.LAB_workers.>",
            "\"$O.LAB_blobs-default.M.*\"",
            "GET.OBJ_LAB_blobs-default\"",
        ] {
            assert!(conf.contains(there), "{there}");
        }
        for gone in [
            "\"envicutor.",
            ".RESULTS",
            "KV_attempts",
            "$KV.runtimes",
            "OBJ_blobs",
        ] {
            assert!(!conf.contains(gone), "{gone}");
        }
    }

    #[test]
    fn a_service_reads_the_files_of_every_tenant_and_of_no_other() {
        let mut nats = config::Nats::default();
        nats.tenants.push("second".parse().expect("valid"));
        let conf = server_conf(&nats);
        for there in [
            "\"$O.blobs-default.C.*\"",
            "\"$O.blobs-second.C.*\"",
            "GET.OBJ_blobs-second\"",
        ] {
            assert!(conf.contains(there), "{there}");
        }
        nats.tenants.remove(0);
        assert!(!server_conf(&nats).contains("blobs-default"));
    }

    #[test]
    fn a_directory_that_is_older_than_installers_is_completed_and_its_server_still_starts() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        let old = SERVER_CONF.replace("$INSTALLER_PASSWORD", "\"none\"");
        fs::write(dir.join("server.conf"), old).expect("written");
        let three = "service = 's'\nworker = 'w'\noperator = 'o'\n";
        fs::write(credentials_file(dir), three).expect("written");
        let included = || fs::read_to_string(dir.join("credentials.conf")).expect("read");
        let done = init(dir, &config::Nats::default()).expect("done");
        assert_eq!(done.lacks, [Role::Installer]);
        assert!(
            !included().contains("INSTALLER"),
            "the server would not start"
        );
        let credentials = Credentials::load(&credentials_file(dir)).expect("valid");
        assert_eq!(credentials.password(Role::Service), Some("s"));
        assert!(credentials.password(Role::Installer).is_some());
        fs::remove_file(dir.join("server.conf")).expect("removed");
        let done = init(dir, &config::Nats::default()).expect("done");
        assert_eq!(done.lacks, []);
        assert!(included().contains("INSTALLER_PASSWORD"));
        let again = Credentials::load(&credentials_file(dir)).expect("valid");
        assert_eq!(again, credentials);
    }

    #[test]
    fn init_overwrites_nothing_and_keeps_passwords_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("nats");
        assert_eq!(
            init(&dir, &config::Nats::default())
                .expect("done")
                .written
                .len(),
            3
        );
        let credentials = Credentials::load(&credentials_file(&dir)).expect("valid");
        fs::write(dir.join("server.conf"), "# mine\n").expect("written");
        assert_eq!(
            init(&dir, &config::Nats::default())
                .expect("done")
                .kept
                .len(),
            3
        );
        assert_eq!(
            Credentials::load(&credentials_file(&dir)).expect("valid"),
            credentials
        );
        assert_eq!(
            fs::read_to_string(dir.join("server.conf")).expect("read"),
            "# mine\n"
        );
        for name in ["credentials.toml", "credentials.conf"] {
            let mode = fs::metadata(dir.join(name))
                .expect("there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
