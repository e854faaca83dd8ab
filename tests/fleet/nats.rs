//! A provisioned nats-server for one test: `TestNats::start().await`, then a URL or a connection for each role. It is killed by
//! its process id when the value is dropped, and by the kernel when the test dies.

use std::path::Path;

use envicutor::{
    bus::{Bus, Role, provision},
    config::{Config, Nats},
    nats_server::{NatsServer, binary},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A running server with everything that the configuration asks for.
pub struct TestNats {
    server: Option<NatsServer>,
    config: Config,
    dir: tempfile::TempDir,
}

impl TestNats {
    /// A server with the default configuration.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// A server with another configuration.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let nats = Self::start_empty(change).await;
        let reports = nats.apply().await;
        for report in &reports {
            assert_eq!(
                report.outcome,
                provision::Outcome::Created,
                "{}",
                report.object
            );
        }
        nats
    }

    /// A server without any stream.
    pub async fn start_empty(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nats-server");
        let mut config = Config::default();
        config.data_dir.0 = dir.path().to_owned();
        config.nats.server = Some(binary::obtain(None, &cache).await.expect("a nats-server"));
        change(&mut config);
        let mut nats = Self {
            server: None,
            config,
            dir,
        };
        nats.start_server().await;
        nats
    }

    async fn start_server(&mut self) {
        let server = NatsServer::start(&self.config.nats, self.dir.path()).await;
        let server = server.expect("the server starts");
        self.config.nats.url = server.url(Role::Operator);
        self.server = Some(server);
    }

    fn server(&self) -> &NatsServer {
        self.server.as_ref().expect("it runs")
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.server().pid()
    }

    /// The program that it runs.
    pub fn program(&self) -> &Path {
        self.config.nats.server.as_deref().expect("obtained")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// `nats://user:password@127.0.0.1:port` for a role.
    pub fn url(&self, role: Role) -> String {
        self.server().url(role)
    }

    /// `nats://127.0.0.1:port`.
    pub fn address(&self) -> String {
        let url = self.url(Role::Service);
        format!("nats://{}", url.rsplit('@').next().expect("an address"))
    }

    /// The user and password of a role.
    pub fn login(&self, role: Role) -> (String, String) {
        let url = self.url(role);
        let login = url
            .strip_prefix("nats://")
            .and_then(|url| url.split('@').next())
            .expect("a login");
        let (user, password) = login.split_once(':').expect("a password");
        (user.to_owned(), password.to_owned())
    }

    /// The whole configuration, connecting as `role`.
    pub fn config(&self, role: Role) -> Config {
        let mut config = self.config.clone();
        config.nats.url = self.url(role);
        config
    }

    /// The configuration of the connection of a role.
    pub fn nats_config(&self, role: Role) -> Nats {
        self.config(role).nats
    }

    /// A new connection as `role`.
    pub async fn bus(&self, role: Role) -> Bus {
        let bus = Bus::connect(&self.nats_config(role), role, "test").await;
        bus.expect("connected")
    }

    /// Provisions what the configuration asks for.
    pub async fn apply(&self) -> Vec<provision::Report> {
        let bus = self.bus(Role::Operator).await;
        let reports = provision::apply(&bus, &self.config).await;
        reports.expect("provisioned")
    }

    /// Ends the server and starts it again on the same port, with what it stored.
    pub async fn restart(&mut self) {
        self.pause().await;
        self.resume().await;
    }

    /// Ends the server; the next [`TestNats::resume`] starts it again on the same port.
    pub async fn pause(&mut self) {
        let url = self.url(Role::Operator);
        self.config.nats.server_port = url
            .rsplit(':')
            .next()
            .expect("a port")
            .parse()
            .expect("a number");
        self.server.take().expect("it runs").stop().await;
    }

    /// Starts it again.
    pub async fn resume(&mut self) {
        self.start_server().await;
    }
}

/// A client that sends what no client library would.
pub struct RawClient {
    stream: tokio::net::TcpStream,
}

impl RawClient {
    /// Logged in as `role`.
    pub async fn connect(nats: &TestNats, role: Role) -> Self {
        let (user, password) = nats.login(role);
        let address = nats.address();
        let address = address.strip_prefix("nats://").expect("a url");
        let stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connected");
        let mut raw = Self { stream };
        let login = serde_json::json!({ "user": user, "pass": password, "headers": true, "verbose": false, "pedantic": false });
        raw.send(format!("CONNECT {login}\r\n").as_bytes()).await;
        raw.flush().await;
        raw
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// Publishes with headers as they are, and waits until the server has read it.
    pub async fn publish_headers(&mut self, subject: &str, headers: &str, body: &str) {
        self.publish_bytes(subject.as_bytes(), headers.as_bytes(), body.as_bytes())
            .await;
    }

    /// The same with any bytes.
    pub async fn publish_bytes(&mut self, subject: &[u8], headers: &[u8], body: &[u8]) {
        let sizes = format!(" {} {}\r\n", headers.len(), headers.len() + body.len());
        let line = [
            b"HPUB ".as_slice(),
            subject,
            sizes.as_bytes(),
            headers,
            body,
            b"\r\n",
        ]
        .concat();
        self.send(&line).await;
        self.flush().await;
    }

    /// Waits until the server has read everything; returns what it said meanwhile.
    pub async fn flush(&mut self) -> String {
        self.send(b"PING\r\n").await;
        let mut said = Vec::new();
        while !said.windows(6).any(|window| window == b"PONG\r\n") {
            let read = self.stream.read_buf(&mut said).await.expect("read");
            assert!(
                read > 0,
                "the server closed the connection: {}",
                String::from_utf8_lossy(&said)
            );
        }
        String::from_utf8_lossy(&said).into_owned()
    }
}
