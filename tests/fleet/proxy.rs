//! A TCP proxy before a server, that cuts, stops, slows or spoils the connections that go through it, and counts what it carries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// How a proxy treats what the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It is carried.
    Well,
    /// It is read, and goes no further until the manner changes. So does what the client sends.
    Hanging,
    /// It is carried, at most 64 KiB at a time and so long after it came.
    Slow(Duration),
    /// In everything longer than this, one byte in the middle is another one.
    Spoiling(usize),
    /// New connections are closed at once; the ones there were are cut.
    Away,
}

/// A proxy; it and its connections end with this.
pub struct Proxy {
    address: String,
    cut: watch::Sender<u64>,
    manner: watch::Sender<Manner>,
    through: Arc<AtomicUsize>,
    carried: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before `target`, `HOST:PORT`.
    pub async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (cut, manner) = (watch::Sender::new(0), watch::Sender::new(Manner::Well));
        let (through, carried) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let asked = Arc::<AtomicU64>::default();
        let (cuts, manners) = (cut.clone(), manner.clone());
        let (count, bytes) = (Arc::clone(&through), Arc::clone(&carried));
        let questions = Arc::clone(&asked);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let way = Way {
                    manner: manners.subscribe(),
                    carried: Arc::clone(&bytes),
                    asked: Arc::clone(&questions),
                };
                tokio::spawn(carry(client, target.clone(), cuts.subscribe(), way));
            }
        });
        Self {
            address,
            cut,
            manner,
            through,
            carried,
            asked,
            accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Drops every connection. New ones are accepted.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Treats what goes through it in another manner from now on.
    pub fn is(&self, manner: Manner) {
        self.manner.send_replace(manner);
        if manner == Manner::Away {
            self.cut();
        }
    }

    /// How many connections were made through it.
    pub fn connections(&self) -> usize {
        self.through.load(Ordering::Relaxed)
    }

    /// How many bytes of the server's it has carried.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// How many bytes the clients have sent, carried or not.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

/// Carries one connection until it ends or is cut.
async fn carry(client: TcpStream, target: String, mut cuts: watch::Receiver<u64>, way: Way) {
    if *way.manner.borrow() == Manner::Away {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut there, mut back) = (way.clone(), way);
    tokio::select! {
        _ = async {
            tokio::join!(
                there.carry(&mut from_client, &mut to_server, false),
                back.carry(&mut from_server, &mut to_client, true),
            )
        } => {}
        _ = cuts.changed() => {}
    }
}

/// One direction of a connection.
#[derive(Clone)]
struct Way {
    manner: watch::Receiver<Manner>,
    carried: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
}

impl Way {
    async fn carry(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        from_server: bool,
    ) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if !from_server {
                self.asked.fetch_add(count as u64, Ordering::Relaxed);
            }
            let hangs = |manner: &Manner| *manner != Manner::Hanging;
            if self.manner.wait_for(hangs).await.is_err() {
                return;
            }
            let manner = *self.manner.borrow();
            if from_server {
                if let Manner::Slow(pause) = manner {
                    tokio::time::sleep(pause).await;
                }
                self.carried.fetch_add(count as u64, Ordering::Relaxed);
                if matches!(manner, Manner::Spoiling(most) if count > most) {
                    buffer[count / 2] ^= 1;
                }
            }
            if to.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        // The other side reads on to its own end.
        let _ = to.shutdown().await;
    }
}
