//! A cable: between a program and a NATS server, carried by this process so that it can be cut, or go silent for a while, with
//! no right on the network and without a word to either end.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// The cables of one program, to every server.
#[derive(Debug)]
pub(super) struct Line(Vec<Cable>);

impl Line {
    /// A cable to each of `servers`.
    pub(super) async fn lay(servers: &[SocketAddr]) -> io::Result<Self> {
        let mut cables = Vec::with_capacity(servers.len());
        for server in servers {
            cables.push(Cable::lay(*server).await?);
        }
        Ok(Self(cables))
    }

    /// Where its program connects, in the order of the servers.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|cable| cable.address).collect()
    }

    /// Ends every connection. New ones may be made at once.
    pub(super) fn cut(&self) {
        for cable in &self.0 {
            cable.state.send_modify(|state| state.cuts += 1);
        }
    }

    /// Carries nothing any more, in neither direction, until it is told to again; connections stand meanwhile.
    pub(super) fn silence(&self, silent: bool) {
        for cable in &self.0 {
            cable.state.send_modify(|state| state.silent = silent);
        }
    }
}

/// What is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// A cable to one server. Dropped, it is cut for good.
#[derive(Debug)]
struct Cable {
    address: SocketAddr,
    state: watch::Sender<State>,
    /// Carries until it is dropped.
    _carriers: JoinSet<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// How often it was cut: a connection made before the last cut is over.
    cuts: u64,
    silent: bool,
}

impl Cable {
    /// A cable to the server at `to`.
    async fn lay(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (state, watched) = watch::channel(State::default());
        let mut carriers = JoinSet::new();
        carriers.spawn(listen(listener, to, watched));
        Ok(Self {
            address,
            state,
            _carriers: carriers,
        })
    }
}

async fn listen(listener: TcpListener, to: SocketAddr, state: watch::Receiver<State>) {
    let mut carriers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => drop(carriers.spawn(carry(near, to, state.clone()))),
                Err(error) => tracing::warn!(%error, "a connection is not carried"),
            },
            Some(_) = carriers.join_next() => {}
        }
    }
}

/// Carries one connection until either end closes it or the cable is cut. A server that is down closes it.
async fn carry(near: TcpStream, to: SocketAddr, mut state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    // An error says that the option is not there; it is about speed.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = far.into_split();
    let (there, back) = (state.clone(), state.clone());
    tokio::select! {
        _ = pump(near_reads, far_writes, there) => {}
        _ = pump(far_reads, near_writes, back) => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return Ok(());
        }
        // An error says that the cable is gone, and with it this task.
        let _ = state.wait_for(|state| !state.silent).await;
        to.write_all(&piece[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A server that sends back what it hears, with a line to it.
    async fn echo() -> (Line, JoinSet<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut reads, mut writes) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut reads, &mut writes).await });
            }
        });
        (Line::lay(&[address]).await.expect("laid"), tasks)
    }

    async fn connect(line: &Line) -> TcpStream {
        let stream = TcpStream::connect(line.addresses()[0]).await;
        stream.expect("connected")
    }

    async fn says(stream: &mut TcpStream, what: &[u8]) -> bool {
        stream.write_all(what).await.expect("sent");
        let mut heard = vec![0; what.len()];
        let read = stream.read_exact(&mut heard).await;
        read.is_ok() && heard == what
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_new_ones_stand() {
        let (line, _server) = echo().await;
        let mut stream = connect(&line).await;
        assert!(says(&mut stream, b"one").await);
        line.cut();
        let ended = timeout(PATIENCE, stream.read(&mut [0; 8])).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
        let mut stream = connect(&line).await;
        assert!(says(&mut stream, b"two").await);
    }

    #[tokio::test]
    async fn silence_holds_what_is_said_and_loses_nothing() {
        let (line, _server) = echo().await;
        let mut stream = connect(&line).await;
        assert!(says(&mut stream, b"one").await);
        line.silence(true);
        stream.write_all(b"two").await.expect("sent");
        let mut heard = [0; 3];
        let silent = timeout(Duration::from_millis(200), stream.read_exact(&mut heard)).await;
        assert!(silent.is_err(), "{silent:?}");
        line.silence(false);
        timeout(PATIENCE, stream.read_exact(&mut heard))
            .await
            .expect("in time")
            .expect("heard");
        assert_eq!(&heard, b"two");
    }
}
