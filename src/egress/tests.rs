//! The proxy over loopback: what is forwarded, and each thing that is not. A test's net leads addresses that look global to a
//! server of its own, so that no test depends on what a name resolves to.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinHandle,
};

use super::*;
use crate::submission::units::{ByteSize, Micros};

const GLOBAL: &str = "8.8.4.4";

/// Names as the test has them; every connection leads to `server`, and is noted.
struct Staged {
    names: HashMap<String, Vec<Vec<IpAddr>>>,
    asked: AtomicUsize,
    server: SocketAddr,
    connected: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Net for Staged {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let answers = self.names.get(host).cloned().unwrap_or_default();
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            answers
                .get(turn.min(answers.len().saturating_sub(1)))
                .cloned()
                .ok_or_else(|| io::Error::other("no such name"))
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        self.connected.lock().expect("whole").push(address);
        Box::pin(TcpStream::connect(self.server))
    }

    fn own(&self) -> Vec<IpAddr> {
        vec!["9.9.9.9".parse().expect("an address")]
    }
}

/// A proxy with a server behind it.
struct Bed {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    connected: Arc<Mutex<Vec<SocketAddr>>>,
    heard: Arc<Mutex<Vec<String>>>,
    told: Arc<Mutex<Vec<String>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Bed {
    /// `names` are what `a.example.org` resolves to, one answer after the other.
    async fn new(
        names: &[&[&str]],
        answer: &'static str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::default();
        config.egress.idle_timeout_us = Micros(2_000_000);
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = listener.local_addr().expect("an address");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hearing = Arc::clone(&heard);
        let answering = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 4096];
                let count = stream.read(&mut bytes).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                hearing.lock().expect("whole").push(text);
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let parsed = |answer: &&[&str]| {
            answer
                .iter()
                .map(|it| it.parse().expect("an address"))
                .collect()
        };
        let connected = Arc::new(Mutex::new(Vec::new()));
        let net = Staged {
            names: [(
                "a.example.org".to_owned(),
                names.iter().map(parsed).collect(),
            )]
            .into(),
            asked: AtomicUsize::new(0),
            server,
            connected: Arc::clone(&connected),
        };
        let shared = Arc::new(Shared::new(
            &config,
            vec!["a.example.org".into()],
            Box::new(net),
        ));
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("proxy.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        let tell: Told = Arc::new(move |line| telling.lock().expect("whole").push(line));
        let proxy = tokio::spawn(serve(shared, listener, config.egress.connections, tell));
        Self {
            _dir: dir,
            socket,
            connected,
            heard,
            told,
            tasks: [answering, proxy],
        }
    }

    async fn global(answer: &'static str) -> Self {
        Self::new(&[&[GLOBAL]], answer, |_| ()).await
    }

    /// All that comes back for `request`.
    async fn ask(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.expect("a proxy");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    fn connected(&self) -> Vec<SocketAddr> {
        self.connected.lock().expect("whole").clone()
    }
}

const GET: &str = "GET http://a.example.org/x HTTP/1.1\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi";

#[tokio::test]
async fn a_plain_request_reaches_a_host_that_is_named() {
    let bed = Bed::global(OK).await;
    let answer = bed.ask(GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n")
            && answer.ends_with("\r\n\r\nhi"),
        "{answer}"
    );
    assert_eq!(
        bed.connected(),
        [format!("{GLOBAL}:80").parse().expect("an address")]
    );
    assert!(
        bed.heard.lock().expect("whole")[0]
            .starts_with("GET /x HTTP/1.1\r\nHost: a.example.org\r\n")
    );
    let told = bed.told.lock().expect("whole").clone();
    assert!(
        told[0].contains("GET http://a.example.org/x: 8.8.4.4, 200"),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_tunnel_passes_bytes_in_both_directions() {
    let bed = Bed::global("pong").await;
    let mut stream = UnixStream::connect(&bed.socket).await.expect("a proxy");
    stream
        .write_all(b"CONNECT a.example.org:443 HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    let mut established = vec![0; 39];
    stream
        .read_exact(&mut established)
        .await
        .expect("an answer");
    assert!(established.starts_with(b"HTTP/1.1 200 "));
    stream.write_all(b"ping").await.expect("sent");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("an answer");
    assert_eq!(
        (rest.as_str(), bed.heard.lock().expect("whole")[0].as_str()),
        ("pong", "ping")
    );
    assert_eq!(bed.connected()[0].port(), 443);
}

#[tokio::test]
async fn another_host_is_refused_before_its_name_is_resolved() {
    let bed = Bed::global(OK).await;
    for request in [
        "GET http://b.example.org/ HTTP/1.1\r\n\r\n",
        "CONNECT a.example.org.evil.example:443 HTTP/1.1\r\n\r\n",
    ] {
        let answer = bed.ask(request).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("none of the hosts"),
            "{answer}"
        );
    }
    assert_eq!(bed.connected(), []);
}

#[tokio::test]
async fn an_address_that_is_not_global_is_refused_however_its_name_is_allowed() {
    for address in [
        "127.0.0.1",
        "10.0.0.7",
        "172.17.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "203.0.113.80",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        // This machine's own, though global.
        "9.9.9.9",
    ] {
        let bed = Bed::new(&[&[address]], OK, |_| ()).await;
        for request in [GET, "CONNECT a.example.org:443 HTTP/1.1\r\n\r\n"] {
            let answer = bed.ask(request).await;
            assert!(
                answer.starts_with("HTTP/1.1 403 ") && answer.contains(address),
                "{address}: {answer}"
            );
        }
        assert_eq!(bed.connected(), [], "{address}");
    }
}

#[tokio::test]
async fn a_network_that_the_configuration_names_is_reached() {
    let bed = Bed::new(&[&["203.0.113.80"]], OK, |config| {
        config.egress.allow_networks = vec!["203.0.113.0/24".parse().expect("a network")];
    })
    .await;
    assert!(bed.ask(GET).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn the_servers_of_the_fleet_are_refused() {
    let bed = Bed::new(&[&[GLOBAL]], OK, |config| {
        config.nats.url = format!("nats://u:p@{GLOBAL}:4222");
    })
    .await;
    let answer = bed.ask(GET).await;
    assert!(answer.contains("this fleet's own"), "{answer}");
    assert_eq!(bed.connected(), []);
}

#[tokio::test]
async fn the_host_of_the_fleets_object_store_is_refused() {
    for (url, endpoint) in [
        ("s3://bucket/prefix", format!("http://{GLOBAL}:9000")),
        ("s3://bucket", format!("https://user@{GLOBAL}/path")),
        // By its name, which is resolved.
        ("s3://bucket", "https://a.example.org".to_owned()),
    ] {
        let bed = Bed::new(&[&[GLOBAL]], OK, |config| {
            config.blobs.url = url.into();
            config.blobs.options = [("aws_endpoint".to_owned(), endpoint.clone())].into();
        })
        .await;
        let answer = bed.ask(GET).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("this fleet's own"),
            "{endpoint}: {answer}"
        );
        assert_eq!(bed.connected(), [], "{endpoint}");
    }
    let bed = Bed::new(&[&[GLOBAL]], OK, |config| {
        config.blobs.url = "s3://bucket/prefix".into();
        config.blobs.options = [("aws_region".to_owned(), "eu-1".to_owned())].into();
    })
    .await;
    assert!(bed.ask(GET).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_network_that_the_configuration_denies_is_not_reached_though_global() {
    let bed = Bed::new(&[&[GLOBAL]], OK, |config| {
        config.egress.deny_networks = vec!["8.8.4.0/24".parse().expect("a network")];
    })
    .await;
    let answer = bed.ask(GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("egress.deny_networks"),
        "{answer}"
    );
    assert_eq!(bed.connected(), []);
}

#[tokio::test]
async fn a_name_that_means_another_address_a_moment_later_gains_nothing() {
    // Looked at: global. Were it resolved again for the connection, it would be loopback.
    let bed = Bed::new(&[&[GLOBAL], &["127.0.0.1"]], OK, |config| {
        config.nats.url = "nats://127.0.0.9".into();
    })
    .await;
    assert!(bed.ask(GET).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(
        bed.connected(),
        [format!("{GLOBAL}:80").parse().expect("an address")]
    );
    assert!(
        bed.ask(GET).await.starts_with("HTTP/1.1 403 "),
        "and then it is refused"
    );
    assert_eq!(bed.connected().len(), 1);
}

#[tokio::test]
async fn of_several_addresses_only_the_allowed_are_connected_to() {
    let bed = Bed::new(&[&["127.0.0.1", GLOBAL]], OK, |_| ()).await;
    assert!(bed.ask(GET).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(
        bed.connected(),
        [format!("{GLOBAL}:80").parse().expect("an address")]
    );
}

#[tokio::test]
async fn a_second_request_on_a_connection_is_not_forwarded() {
    let bed = Bed::global(OK).await;
    let answer = bed.ask(&format!("{GET}{GET}")).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(bed.connected(), []);
    let mut stream = UnixStream::connect(&bed.socket).await.expect("a proxy");
    stream.write_all(GET.as_bytes()).await.expect("sent");
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.expect("an answer");
    // The connection may be closed by then.
    let _ = stream.write_all(GET.as_bytes()).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(bed.connected().len(), 1);
    assert_eq!(bed.heard.lock().expect("whole").len(), 1);
}

#[tokio::test]
async fn a_head_without_an_end_is_refused() {
    let bed = Bed::new(&[&[GLOBAL]], OK, |config| {
        config.egress.head_bytes = ByteSize(2_000);
    })
    .await;
    let answer = bed
        .ask(&format!(
            "GET http://a.example.org/ HTTP/1.1\r\nA: {}",
            "x".repeat(4_000)
        ))
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 431 ") && answer.contains("egress.head_bytes"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_request_that_stands_still_is_ended() {
    let bed = Bed::new(&[&[GLOBAL]], OK, |config| {
        config.egress.idle_timeout_us = Micros(100_000);
    })
    .await;
    assert!(
        bed.ask("GET http://a.exa")
            .await
            .starts_with("HTTP/1.1 408 ")
    );
}

#[tokio::test]
async fn requests_and_bytes_are_bounded() {
    let bed = Bed::new(&[&[GLOBAL]], OK, |config| config.egress.max_requests = 1).await;
    assert!(bed.ask(GET).await.starts_with("HTTP/1.1 200 "));
    let answer = bed.ask(GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 429 ") && answer.contains("egress.max_requests"),
        "{answer}"
    );
    let bed = Bed::new(&[&[GLOBAL]], OK, |config| {
        config.egress.max_bytes = ByteSize(10);
    })
    .await;
    let answer = bed.ask(GET).await;
    assert!(
        answer.starts_with("HTTP/1.1 429 ") && answer.contains("egress.max_bytes"),
        "{answer}"
    );
    assert!(bed.ask(GET).await.starts_with("HTTP/1.1 429 "));
}

#[test]
fn apt_names_the_hosts_of_the_images_own_sources() {
    let found = apt_hosts(
        "# deb http://no.example.org/debian x main\ndeb [signed-by=/k] http://deb.example.org/debian x main\n\
         URIs: https://user@sec.example.org:443/debian-security\ndeb file:///srv x main\ndeb http://10.0.0.1/ x main\n",
    );
    assert_eq!(
        found.into_iter().collect::<Vec<_>>(),
        ["deb.example.org", "sec.example.org"]
    );
}

#[test]
fn a_preset_comes_from_the_configuration() {
    let config = config::Egress {
        presets: [(
            "pip".to_owned(),
            config::Hosts(vec!["index.example.org".into()]),
        )]
        .into(),
        ..config::Egress::default()
    };
    let sources = |text: &[&str]| {
        text.iter()
            .map(|it| it.parse().expect("a source"))
            .collect::<Vec<_>>()
    };
    let named = hosts(
        &sources(&["apt", "pip", "c.example.org"]),
        &config,
        &["deb.example.org".into()],
    );
    assert_eq!(
        named.expect("known"),
        ["c.example.org", "deb.example.org", "index.example.org"]
    );
    let error = hosts(&sources(&["npm"]), &config, &[])
        .expect_err("unknown")
        .to_string();
    assert!(error.contains("egress.presets.npm"), "{error}");
}
