//! Who a program is to the server: one of three users, with the generated passwords of `credentials.toml`.

use std::{fmt, io, path::Path};

use serde::{Deserialize, Serialize};

/// What a program is allowed to do; `nats/server.conf` says what that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Publishes submissions, reads events and results.
    Service,
    /// Takes submissions, publishes results.
    Worker,
    /// Everything.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Service, Self::Worker, Self::Operator];

    /// The user's name.
    pub const fn user(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Worker => "worker",
            Self::Operator => "operator",
        }
    }

    /// Where its answers arrive. A service has the stock prefix, since `nats req` and every client use it; the others have
    /// their own, so that a service cannot read what a worker is sent.
    pub const fn inbox_prefix(self) -> &'static str {
        match self {
            Self::Service => "_INBOX",
            Self::Worker => "_INBOX_worker",
            Self::Operator => "_INBOX_operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user())
    }
}

/// The passwords of the three users. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    service: String,
    worker: String,
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
    /// Three fresh passwords.
    pub fn generate() -> Self {
        Self {
            service: generate_password(),
            worker: generate_password(),
            operator: generate_password(),
        }
    }

    /// The password of a role.
    pub fn password(&self, role: Role) -> &str {
        match role {
            Role::Service => &self.service,
            Role::Worker => &self.worker,
            Role::Operator => &self.operator,
        }
    }

    /// What the programs load: TOML with a line for each user.
    pub fn to_toml(&self) -> String {
        let head = "# The users of this fleet's NATS server. Keep it secret; the server reads credentials.conf.\n";
        let line = |role: Role| format!("{role} = \"{}\"\n", self.password(role));
        head.to_owned() + &Role::ALL.map(line).concat()
    }

    /// What the server includes: a variable for each password.
    pub fn to_server_conf(&self) -> String {
        let head =
            "# The passwords of this fleet's users, included by server.conf. Keep it secret.\n";
        let line = |role: Role| {
            let user = role.user().to_ascii_uppercase();
            format!("{user}_PASSWORD: \"{}\"\n", self.password(role))
        };
        head.to_owned() + &Role::ALL.map(line).concat()
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
        assert!(credentials.password(Role::Worker).len() >= 32);
        assert!(!format!("{credentials:?}").contains(credentials.password(Role::Worker)));
    }
}
