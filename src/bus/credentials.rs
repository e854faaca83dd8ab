//! Who a program is to the server: one of four users, with the generated passwords of `credentials.toml`.

use std::{fmt, io, path::Path};

use serde::{Deserialize, Serialize};

/// What a program is allowed to do; `nats/server.conf` says what that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Publishes submissions, reads events and results.
    Service,
    /// Takes submissions, publishes results.
    Worker,
    /// Takes installations, writes images and the catalogue of runtimes.
    Installer,
    /// Everything.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Service, Self::Worker, Self::Installer, Self::Operator];

    /// The user's name.
    pub const fn user(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Worker => "worker",
            Self::Installer => "installer",
            Self::Operator => "operator",
        }
    }

    /// Where its answers arrive. A service has the stock prefix, since `nats req` and every client use it; the others have
    /// their own, so that a service cannot read what a worker is sent.
    pub const fn inbox_prefix(self) -> &'static str {
        match self {
            Self::Service => "_INBOX",
            Self::Worker => "_INBOX_worker",
            Self::Installer => "_INBOX_installer",
            Self::Operator => "_INBOX_operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user())
    }
}

/// The passwords of the users. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    service: String,
    worker: String,
    /// Absent in a file that was written before installers had a user of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    installer: Option<String>,
    operator: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials { .. }")
    }
}

/// The credentials file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It is not there, or not for us.
    #[error(
        "the credentials file {path} cannot be read: {source}. `envicutor nats init DIR` writes one"
    )]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is older than this user.
    #[error(
        "the credentials file {path} has no user {role}: `envicutor nats init DIR` adds it, and says what the server needs"
    )]
    Absent {
        /// Which file.
        path: String,
        /// Who.
        role: Role,
    },
    /// It holds something else.
    #[error("the credentials file {path} is not one that `envicutor nats init` writes: {message}")]
    Parse {
        /// Which file.
        path: String,
        /// What is wrong; never its content.
        message: String,
    },
}

impl Credentials {
    /// Fresh passwords.
    pub fn generate() -> Self {
        Self {
            service: generate_password(),
            worker: generate_password(),
            installer: Some(generate_password()),
            operator: generate_password(),
        }
    }

    /// Adds what an older program did not know of. Whether there was anything.
    pub fn complete(&mut self) -> bool {
        let is_old = self.installer.is_none();
        self.installer.get_or_insert_with(generate_password);
        is_old
    }

    /// The password of a role, where the role has one.
    pub fn password(&self, role: Role) -> Option<&str> {
        match role {
            Role::Service => Some(&self.service),
            Role::Worker => Some(&self.worker),
            Role::Installer => self.installer.as_deref(),
            Role::Operator => Some(&self.operator),
        }
    }

    /// What the programs load: TOML with a line for each user.
    pub fn to_toml(&self) -> String {
        let head = "# The users of this fleet's NATS server. Keep it secret; the server reads credentials.conf.\n";
        let line = |role: Role| {
            let password = self.password(role);
            password.map(|password| format!("{role} = \"{password}\"\n"))
        };
        let lines: String = Role::ALL.into_iter().filter_map(line).collect();
        head.to_owned() + &lines
    }

    /// What the server with the configuration `server_conf` includes: a variable for each password. The installer's only where it uses
    /// that: one that was written before there was such a user does not, and would keep the server from starting.
    pub fn to_server_conf(&self, server_conf: &str) -> String {
        let head =
            "# The passwords of this fleet's users, included by server.conf. Keep it secret.\n";
        let line = |role: Role| {
            let variable = variable(role);
            let is_used = role != Role::Installer || server_conf.contains(&format!("${variable}"));
            let password = self.password(role).filter(|_| is_used);
            password.map(|password| format!("{variable}: \"{password}\"\n"))
        };
        let lines: String = Role::ALL.into_iter().filter_map(line).collect();
        head.to_owned() + &lines
    }

    /// The credentials in the file at `path`.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| CredentialsError::Read {
            path: shown(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| CredentialsError::Parse {
            path: shown(),
            message: error.message().to_owned(),
        })
    }
}

/// What the server's configuration calls the password of a role.
pub fn variable(role: Role) -> String {
    format!("{}_PASSWORD", role.user().to_ascii_uppercase())
}

/// A fresh password of 43 letters and digits: 256 bits.
pub fn generate_password() -> String {
    use rand::{RngExt as _, distr::Alphanumeric};
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(43)
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_credentials_are_read_back_and_never_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credentials.toml");
        let credentials = Credentials::generate();
        std::fs::write(&path, credentials.to_toml()).expect("written");
        assert_eq!(Credentials::load(&path).expect("valid"), credentials);
        assert_ne!(credentials, Credentials::generate());
        for role in Role::ALL {
            let password = credentials.password(role).expect("generated");
            assert!(password.len() >= 32);
            assert!(!format!("{credentials:?}").contains(password));
        }
    }

    #[test]
    fn a_file_that_is_older_than_installers_is_read_and_completed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credentials.toml");
        std::fs::write(&path, "service = 's'\nworker = 'w'\noperator = 'o'\n").expect("written");
        let mut credentials = Credentials::load(&path).expect("valid");
        assert_eq!(credentials.password(Role::Installer), None);
        let old = "a: $SERVICE_PASSWORD b: $WORKER_PASSWORD c: $OPERATOR_PASSWORD";
        assert!(credentials.complete());
        assert!(!credentials.complete(), "it is complete");
        assert_eq!(credentials.password(Role::Worker), Some("w"));
        // A variable that the server's configuration does not use keeps the server from starting.
        assert!(!credentials.to_server_conf(old).contains("INSTALLER"));
        let new = format!("{old} d: $INSTALLER_PASSWORD");
        let included = credentials.to_server_conf(&new);
        assert!(included.contains("INSTALLER_PASSWORD: \""), "{included}");
        assert!(credentials.to_toml().contains("installer = \""));
    }
}
