//! Between a program and a NATS server: carries its connections, and counts their bytes.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// Bytes so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the program to the server.
    pub sent: u64,
    /// From the server to the program.
    pub received: u64,
}

impl Carried {
    /// What was carried since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            received: self.received - before.received,
        }
    }
}

/// A relay. Dropped, its connections end.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    counts: Arc<Counts>,
    /// Carries until it is dropped.
    _carriers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Relay {
    /// A relay to the server at `to`.
    pub async fn to(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let counts = Arc::<Counts>::default();
        let mut carriers = JoinSet::new();
        carriers.spawn(listen(listener, to, Arc::clone(&counts)));
        Ok(Self {
            address,
            counts,
            _carriers: carriers,
        })
    }

    /// Where its program connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has carried so far.
    pub fn carried(&self) -> Carried {
        Carried {
            sent: self.counts.sent.load(Ordering::Relaxed),
            received: self.counts.received.load(Ordering::Relaxed),
        }
    }
}

async fn listen(listener: TcpListener, to: SocketAddr, counts: Arc<Counts>) {
    let mut carriers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => drop(carriers.spawn(carry(near, to, Arc::clone(&counts)))),
                Err(error) => tracing::warn!(%error, "a connection is not carried"),
            },
            Some(_) = carriers.join_next() => {}
        }
    }
}

/// Carries one connection until either end closes it.
async fn carry(near: TcpStream, to: SocketAddr, counts: Arc<Counts>) {
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    // An error says that the option is not there; it is about speed.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = far.into_split();
    tokio::select! {
        _ = pump(near_reads, far_writes, &counts.sent) => {}
        _ = pump(far_reads, near_writes, &counts.received) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&piece[..length]).await?;
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}
