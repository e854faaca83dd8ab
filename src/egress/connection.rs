//! One connection of an installation: one request, and what comes of it. Then it is closed, so that no byte can belong to another
//! request than the one that was looked at.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    Shared,
    request::{self, Refused, Request, What},
};

/// How much is passed on at a time.
const CHUNK: usize = 16 << 10;

/// How long, and how much of, what a client says after its refusal is read.
const LAST_WORDS: Duration = Duration::from_secs(1);
const LAST_CHUNKS: usize = 16;

/// What came of a request: a line for the log.
pub(super) struct Served {
    pub(super) what: String,
    pub(super) outcome: Result<String, Refused>,
}

/// Serves the one request of `client`.
pub(super) async fn serve(
    shared: &Shared,
    mut client: impl AsyncRead + AsyncWrite + Unpin + Send,
) -> Option<Served> {
    let head = match read_head(&mut client, shared).await {
        Ok(Some(head)) => head,
        // Opened and closed: nothing was asked.
        Ok(None) => return None,
        Err(refused) => {
            return Some(refuse(&mut client, shared, "a request".to_owned(), refused).await);
        }
    };
    let request = match shared.meter.request().and_then(|()| request::parse(&head)) {
        Ok(request) => request,
        Err(refused) => {
            return Some(refuse(&mut client, shared, "a request".to_owned(), refused).await);
        }
    };
    let what = match &request.what {
        What::Tunnel => format!("CONNECT {}:{}", request.host, request.port),
        What::Plain { shown, .. } => shown.clone(),
    };
    match shared
        .rules
        .dial(shared.net.as_ref(), &request.host, request.port)
        .await
    {
        Ok((server, ip)) => {
            let outcome = forward(shared, request, &mut client, server, ip).await;
            match outcome {
                Ok(said) => Some(Served {
                    what,
                    outcome: Ok(said),
                }),
                Err(refused) => Some(refuse(&mut client, shared, what, refused).await),
            }
        }
        Err(refused) => Some(refuse(&mut client, shared, what, refused).await),
    }
}

/// Answers with the refusal; the reason is what the installation's log will show.
async fn refuse(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    shared: &Shared,
    what: String,
    refused: Refused,
) -> Served {
    let Refused { status, reason } = &refused;
    let answer = format!(
        "HTTP/1.1 {status} envicutor: {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{reason}\n",
        reason.len() + 1
    );
    // Who does not take the answer does not get it.
    let _ = timeout(shared.idle, client.write_all(answer.as_bytes())).await;
    let _ = timeout(shared.idle, client.shutdown()).await;
    // Closed with something unread, the connection would be reset, and the answer lost with it.
    let _ = timeout(LAST_WORDS, drain(client)).await;
    Served {
        what,
        outcome: Err(refused),
    }
}

/// Reads what a client still says, up to an end of patience with it.
async fn drain(client: &mut (impl AsyncRead + Unpin)) {
    let mut ignored = vec![0; CHUNK];
    for _ in 0..LAST_CHUNKS {
        match client.read(&mut ignored).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

async fn forward(
    shared: &Shared,
    request: Request,
    client: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
    mut server: TcpStream,
    ip: IpAddr,
) -> Result<String, Refused> {
    match request.what {
        What::Tunnel => {
            write(
                client,
                b"HTTP/1.1 200 Connection established\r\n\r\n",
                shared.idle,
            )
            .await?;
            let (up, down) = tunnel(shared, client, &mut server).await;
            Ok(format!("{ip}, {up} bytes there, {down} back"))
        }
        What::Plain { head, .. } => {
            write(&mut server, &head, shared.idle).await?;
            let (status, rebuilt, rest) = read_answer(&mut server, shared).await?;
            write(client, &rebuilt, shared.idle).await?;
            write(client, &rest, shared.idle).await?;
            let bytes = download(shared, client, &mut server).await;
            Ok(format!(
                "{ip}, {status}, {} bytes",
                bytes + rest.len() as u64
            ))
        }
    }
}

/// The head of the request. None where the client closed before its first byte.
async fn read_head(
    client: &mut (impl AsyncRead + Unpin),
    shared: &Shared,
) -> Result<Option<Vec<u8>>, Refused> {
    let mut head = Vec::new();
    // One byte at a time would be slow, and more than the head is not wanted: what follows it stays with the client's
    // buffer where it is a tunnel's. A client that follows the protocol sends nothing before the answer.
    let mut chunk = [0; 1024];
    loop {
        let read = timeout(shared.idle, client.read(&mut chunk)).await;
        let read = read.map_err(|_| Refused::new(408, "the request does not come to its end"))?;
        let count = read.unwrap_or(0);
        if count == 0 {
            let cut = || Refused::new(400, "the request broke off");
            return if head.is_empty() {
                Ok(None)
            } else {
                Err(cut())
            };
        }
        head.extend_from_slice(&chunk[..count]);
        if let Some(end) = end_of_head(&head) {
            if end < head.len() {
                return Err(Refused::new(
                    400,
                    "something follows the head of the request before its answer",
                ));
            }
            return Ok(Some(head));
        }
        if head.len() > shared.head_bytes {
            let reason = format!(
                "the head of the request is longer than {} bytes (egress.head_bytes)",
                shared.head_bytes
            );
            return Err(Refused::new(431, reason));
        }
    }
}

/// The head of the server's final answer: its status, how it is passed on, and what came of the body with it.
async fn read_answer(
    server: &mut TcpStream,
    shared: &Shared,
) -> Result<(u16, Vec<u8>, Vec<u8>), Refused> {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = end_of_head(&read) {
            let rest = read.split_off(end);
            let (status, head) = request::answer(&read)
                .ok_or_else(|| Refused::new(502, "the host's answer is no HTTP"))?;
            if (100..200).contains(&status) {
                read = rest;
                continue;
            }
            if !shared.meter.take(head.len() + rest.len()) {
                return Err(Refused::new(
                    429,
                    "the bytes of this installation are used up (egress.max_bytes)",
                ));
            }
            return Ok((status, head, rest));
        }
        if read.len() > shared.head_bytes {
            return Err(Refused::new(
                502,
                "the head of the host's answer is too long (egress.head_bytes)",
            ));
        }
        let count = timeout(shared.idle, server.read(&mut chunk)).await;
        let count = count.map_err(|_| Refused::new(504, "the host does not answer"))?;
        match count {
            Ok(0) => return Err(Refused::new(502, "the host closed without an answer")),
            Ok(count) => read.extend_from_slice(&chunk[..count]),
            Err(error) => {
                return Err(Refused::new(
                    502,
                    format!("the host's answer cannot be read: {error}"),
                ));
            }
        }
    }
}

/// Where the head of a message ends, after its empty line.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let at = |pattern: &[u8]| {
        bytes
            .windows(pattern.len())
            .position(|it| it == pattern)
            .map(|it| it + pattern.len())
    };
    match (at(b"\r\n\r\n"), at(b"\n\n")) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    patience: Duration,
) -> Result<(), Refused> {
    match timeout(patience, to.write_all(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Refused::new(502, format!("the connection broke: {error}"))),
        Err(_) => Err(Refused::new(504, "the connection stands still")),
    }
}

/// Passes the body on until its end, or until the client is gone. What the client sends meanwhile is not read as anything.
async fn download(
    shared: &Shared,
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut TcpStream,
) -> u64 {
    let (mut listening, mut telling) = tokio::io::split(client);
    let gone = async {
        let mut ignored = [0; 1024];
        while listening
            .read(&mut ignored)
            .await
            .is_ok_and(|count| count > 0)
        {}
    };
    let bytes = AtomicU64::new(0);
    tokio::select! {
        () = pass(shared, server, &mut telling, &bytes) => {}
        () = gone => {}
    }
    let _ = timeout(shared.idle, telling.shutdown()).await;
    bytes.into_inner()
}

/// Passes both directions on until both have ended, or one broke. Silence in both for long ends it.
async fn tunnel(
    shared: &Shared,
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut TcpStream,
) -> (u64, u64) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = server.split();
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let there = async {
        pass(shared, &mut from_client, &mut to_server, &up).await;
        let _ = to_server.shutdown().await;
    };
    let back = async {
        pass(shared, &mut from_server, &mut to_client, &down).await;
        let _ = to_client.shutdown().await;
    };
    // When the host has said all, what the client still says goes nowhere.
    let mut there = std::pin::pin!(there);
    let mut back = std::pin::pin!(back);
    tokio::select! {
        () = &mut there => back.await,
        () = &mut back => {}
    }
    let count = |it: &AtomicU64| it.load(Ordering::Relaxed);
    (count(&up), count(&down))
}

/// Passes on what comes until the end, an error, a long silence, or the last byte that may pass.
async fn pass(
    shared: &Shared,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    passed: &AtomicU64,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let Ok(Ok(count @ 1..)) = timeout(shared.idle, from.read(&mut chunk)).await else {
            return;
        };
        if !shared.meter.take(count) {
            return;
        }
        let written = timeout(shared.idle, to.write_all(&chunk[..count])).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
        passed.fetch_add(count as u64, Ordering::Relaxed);
    }
}
