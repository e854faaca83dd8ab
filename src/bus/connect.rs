//! The connection of a program to NATS: as one of four users, by name, reconnecting without end, to a server that is new
//! enough.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};

use super::{
    credentials::{Credentials, CredentialsError, Role},
    link::{Link, reconnect_delay},
    subjects::Names,
};
use crate::config;

/// The oldest server that keeps its promises: earlier ones may lose messages whose deliveries are used up (#7817).
pub const OLDEST_SERVER: (u64, u64, u64) = (2, 12, 5);

/// Between two tries to connect at start.
const RETRY: Duration = Duration::from_millis(100);

/// The connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is none.
    #[error(
        "nats.url {url:?} is not a URL of a NATS server, like \"nats://127.0.0.1:4222\": {message}"
    )]
    Url {
        /// What was given, without its password.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The credentials file cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The server refused the user or the password.
    #[error(
        "the NATS server at {url} refused the user {user:?}: check the password in nats.url or nats.credentials_file"
    )]
    Refused {
        /// Where.
        url: String,
        /// Who.
        user: String,
    },
    /// Nobody answers.
    #[error(
        "no NATS server answers at {url}: {message}. Start one (`envicutor up`), or name another with --nats"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// The last error.
        message: String,
    },
    /// It is too old.
    #[error("the NATS server at {url} is version {version}: {}.{}.{} or later is needed", OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2)]
    TooOld {
        /// Where.
        url: String,
        /// What it is.
        version: String,
    },
}

/// A connection, and the names of the fleet that it serves. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    /// The connection itself.
    pub client: Client,
    /// The fleet's subjects and streams.
    pub names: Names,
    /// How long to wait for the answer to a request.
    pub request_timeout: Duration,
    /// How long to wait for the answer to a pull or a reading.
    pub(super) read_timeout: Duration,
    /// How long to ask again while there is no leader, or no connection.
    pub outage_timeout: Duration,
    /// Who we are.
    pub role: Role,
    /// How many servers there are to go to.
    pub(super) servers: usize,
    pub(super) link: Arc<Link>,
}

impl Bus {
    /// Connects as `role`. `name` is what the server shows for this connection. Tries for `nats.connect_timeout_us`; once
    /// connected it reconnects for as long as it takes.
    pub async fn connect(
        config: &config::Nats,
        role: Role,
        name: &str,
    ) -> Result<Self, ConnectError> {
        let servers = servers(&config.url)?;
        let shown = shown(&servers);
        let link = Arc::new(Link::new());
        let (user, options) = options(config, role, name, &servers, &link)?;
        let deadline = Instant::now() + config.connect_timeout_us.duration();
        let client = loop {
            let error = match options().connect(&servers[..]).await {
                Ok(client) => break client,
                Err(error) => error,
            };
            if error.kind() == ConnectErrorKind::AuthorizationViolation {
                return Err(ConnectError::Refused { url: shown, user });
            }
            if Instant::now() >= deadline {
                return Err(ConnectError::Unreachable {
                    url: shown,
                    message: error.to_string(),
                });
            }
            tokio::time::sleep(RETRY).await;
        };
        let version = client.server_info().version;
        if !is_new_enough(&version) {
            return Err(ConnectError::TooOld {
                url: shown,
                version,
            });
        }
        Ok(Self {
            client,
            names: Names::new(&config.prefix),
            request_timeout: config.request_timeout_us.duration(),
            read_timeout: config.read_timeout_us.duration(),
            outage_timeout: config.outage_timeout_us.duration(),
            role,
            servers: servers.len(),
            link,
        })
    }

    /// Sends what is still buffered and closes the connection. Nothing can be sent on any clone afterwards.
    pub async fn close(&self) {
        if tokio::time::timeout(self.request_timeout, self.client.flush())
            .await
            .is_err()
        {
            tracing::warn!("the connection to NATS was closed with messages unsent");
        }
        // An error says that it is closed already.
        let _ = self.client.drain().await;
    }
}

/// Whether a server of this version may be used.
pub fn is_new_enough(version: &str) -> bool {
    parse_version(version).is_some_and(|version| version >= OLDEST_SERVER)
}

/// The numbers of `2.15.1`, `v2.12.5` or `2.14.0-RC.1`.
fn parse_version(version: &str) -> Option<(u64, u64, u64)> {
    let mut parts = version
        .trim_start_matches('v')
        .split(['.', '-', '+'])
        .map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

fn servers(url: &str) -> Result<Vec<ServerAddr>, ConnectError> {
    let parse = |one: &str| {
        one.trim()
            .parse::<ServerAddr>()
            .map_err(|error| ConnectError::Url {
                url: one.rsplit('@').next().unwrap_or_default().to_owned(),
                message: error.to_string(),
            })
    };
    url.split(',').map(parse).collect()
}

/// The servers without users and passwords.
fn shown(servers: &[ServerAddr]) -> String {
    let one = |server: &ServerAddr| format!("{}:{}", server.host(), server.port());
    servers.iter().map(one).collect::<Vec<_>>().join(",")
}

/// The user in force, and a maker of the options for a try.
fn options(
    config: &config::Nats,
    role: Role,
    name: &str,
    servers: &[ServerAddr],
    link: &Arc<Link>,
) -> Result<(String, impl Fn() -> ConnectOptions + use<>), ConnectError> {
    let in_url = servers.iter().find(|server| server.has_user_pass());
    let login = match (in_url, &config.credentials_file) {
        (Some(server), _) => Some((
            server.username().unwrap_or_default().to_owned(),
            server.password().unwrap_or_default().to_owned(),
        )),
        (None, Some(file)) => {
            let credentials = Credentials::load(file)?;
            let absent = || CredentialsError::Absent {
                path: file.display().to_string(),
                role,
            };
            let password = credentials.password(role).ok_or_else(absent)?;
            Some((role.user().to_owned(), password.to_owned()))
        }
        (None, None) => None,
    };
    let user = login
        .as_ref()
        .map_or_else(String::new, |(user, _)| user.clone());
    let timeout = config.request_timeout_us.duration();
    let (server_timeout, ping) = (
        config.server_timeout_us.duration(),
        config.ping_us.duration(),
    );
    let (name, inbox) = (name.to_owned(), role.inbox_prefix());
    let link = Arc::clone(link);
    let make = move || {
        let (heard, choosing) = (Arc::clone(&link), Arc::clone(&link));
        let options = ConnectOptions::new()
            .name(&name)
            .custom_inbox_prefix(inbox)
            .request_timeout(Some(timeout))
            .connection_timeout(server_timeout)
            .ping_interval(ping)
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_delay)
            .reconnect_to_server_callback(move |servers, _| {
                std::future::ready(choosing.choose(&servers))
            })
            .event_callback(move |event| {
                log(&event);
                heard.hear(&event);
                std::future::ready(())
            });
        match &login {
            Some((user, password)) => options.user_and_password(user.clone(), password.clone()),
            None => options,
        }
    };
    Ok((user, make))
}

fn log(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        // Each try to connect again, among others.
        Event::Draining | Event::Closed | Event::ClientError(_) => {
            tracing::debug!("NATS: {event}");
        }
        event => tracing::warn!("NATS: {event}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for new in ["2.12.5", "v2.15.1", "2.13.0-RC.2", "3.0.0"] {
            assert!(is_new_enough(new), "{new}");
        }
        for old in ["2.12.4", "2.9.99", "1.20.0", "", "two"] {
            assert!(!is_new_enough(old), "{old}");
        }
    }

    #[test]
    fn a_bad_url_is_shown_without_its_password() {
        let error = servers("nats://me:secret@:x:y")
            .expect_err("refused")
            .to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
