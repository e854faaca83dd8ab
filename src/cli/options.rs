//! The flags that every program takes, and the configuration and the server that they lead to.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use super::exit::CliError;
use crate::{
    bus::Role,
    client::Client,
    config::{self, Config},
    logging::{self, LogFormat, Told},
    nats_server,
};

/// The environment variable of `nats.url`.
const URL_VARIABLE: &str = "ENVICUTOR__NATS__URL";

/// The flags that every program takes.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Options {
    /// Read this TOML file; the environment (`ENVICUTOR__NATS__URL`) and flags go before it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The NATS server: `nats://[user:password@]host:port`. Without it the configured one, else the `envicutor up` of the
    /// data directory.
    #[arg(long, global = true, value_name = "URL")]
    nats: Option<String>,
    /// Where everything of this machine is kept.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How log lines are written to standard error.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Tell more of what happens; repeat for more. `RUST_LOG` replaces this.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// More keys and values that flags of the command stand for.
    #[arg(skip)]
    flags: BTreeMap<String, String>,
}

impl Options {
    /// A flag of the command that stands for a key of the configuration.
    #[must_use]
    pub fn with(mut self, key: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.flags.insert(key.to_owned(), value.to_string());
        }
        self
    }

    /// Sets up the log.
    pub fn init_logging(&self, told: Told) {
        logging::init(self.log_format, told, self.verbose);
    }

    /// The flags that say where this machine's configuration and data are, for a program of ours that is started.
    pub fn arguments(&self) -> Vec<OsString> {
        let config = self.config.iter().map(|file| ("--config", file));
        let data_dir = self.data_dir.iter().map(|dir| ("--data-dir", dir));
        let flags = config.chain(data_dir);
        flags
            .flat_map(|(flag, path)| [flag.into(), path.into()])
            .collect()
    }

    /// The configuration in force.
    pub fn load(&self) -> Result<Config, CliError> {
        let mut flags = self.flags.clone();
        if let Some(url) = &self.nats {
            flags.insert("nats.url".to_owned(), url.clone());
        }
        if let Some(dir) = &self.data_dir {
            let dir = dir.to_str().ok_or_else(|| {
                CliError::Usage(format!(
                    "--data-dir {}: the path is not UTF-8",
                    dir.display()
                ))
            })?;
            flags.insert("data_dir".to_owned(), dir.to_owned());
        }
        Ok(Config::load(self.config.as_deref(), &flags)?)
    }

    /// Whether a server is named, by a flag, the environment or the configuration.
    pub fn names_a_server(&self, config: &Config) -> bool {
        self.nats.is_some()
            || std::env::var_os(URL_VARIABLE).is_some()
            || config.nats.url != config::Nats::default().url
            || config.nats.credentials_file.is_some()
    }

    /// The configuration with the server that `role` connects to: the one that is named, else that of the data directory's
    /// running `envicutor up`, else the default.
    pub fn load_for(&self, role: Role) -> Result<Config, CliError> {
        let mut config = self.load()?;
        if !self.names_a_server(&config)
            && let Some(url) = nats_server::running_url(&config.data_dir.0, role)
        {
            config.nats.url = url;
        }
        Ok(config)
    }

    /// A client with the rights of `role`, or of the user in the URL.
    pub async fn connect(&self, role: Role) -> Result<Client, CliError> {
        let config = self.load_for(role)?;
        let role = user_of(&config.nats.url).unwrap_or(role);
        Ok(Client::connect_as(&config, role).await?)
    }
}

/// The role whose user the URL names: its answers arrive elsewhere than another's.
pub fn user_of(url: &str) -> Option<Role> {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let (login, _) = rest.split_once('@')?;
    let user = login.split(':').next().unwrap_or_default();
    Role::ALL.into_iter().find(|role| role.user() == user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_url_says_the_role() {
        assert_eq!(user_of("nats://service:p@h:1"), Some(Role::Service));
        assert_eq!(
            user_of("nats://operator:p@h:1,nats://h:2"),
            Some(Role::Operator)
        );
        assert_eq!(user_of("nats://me:p@h"), None);
        assert_eq!(user_of("nats://127.0.0.1:4222"), None);
    }
}
