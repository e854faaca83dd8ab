//! `envicutor-agent install PROGRAM ARGUMENTS…`: PID 1 of the container of an installation, as `envicutor_protocol::install` says. It
//! runs one program to its end and leads its way out; it knows no stages and no protocol.
//!
//! Everything else in the container is root too and may do to it what it likes. That gains nothing: it holds no more than the two
//! sockets that are there for all.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::{net::UnixStream, process::ExitStatusExt as _},
    path::Path,
    process::{Command, ExitStatus},
    thread,
    time::Duration,
};

use envicutor_protocol::install::{
    DIRECTORY, FAILED, LIFE_SOCKET, PROXY_PORT, PROXY_SOCKET, PROXY_VARIABLES,
};

use crate::{failure::Failure, sys};

/// How much is led on at a time, in bytes.
const CHUNK: usize = 16 << 10;

/// The stack of a thread that leads bytes on.
const STACK: usize = 64 << 10;

/// How long to wait before ended processes are looked for again.
const LOOK: Duration = Duration::from_millis(10);

/// What a shell adds to a signal's number for the exit code.
const BY_SIGNAL: i32 = 128;

/// Does it. The exit code: the program's, or [`FAILED`] with the reason on standard error.
pub fn run(arguments: impl Iterator<Item = OsString>) -> libc::c_int {
    let pid = sys::own_pid();
    if pid != 1 {
        eprintln!(
            "envicutor-agent install: it runs as PID 1 of a container only; this is process {pid}"
        );
        return FAILED;
    }
    sys::settle_descriptors();
    match install(arguments) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("envicutor-agent install: {failure}");
            FAILED
        }
    }
}

fn install(mut arguments: impl Iterator<Item = OsString>) -> Result<libc::c_int, Failure> {
    let program = arguments
        .next()
        .ok_or_else(|| Failure::new("install", "no program", "expected PROGRAM ARGUMENTS…"))?;
    let sockets = Path::new(DIRECTORY);
    end_with_the_installer(&sockets.join(LIFE_SOCKET))?;
    offer_the_proxy()?;
    let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
    let child = Command::new(&program)
        .args(arguments)
        .envs(PROXY_VARIABLES.map(|name| (name, proxy.as_str())))
        .spawn()
        .map_err(|error| Failure::new("start", program.display(), error))?;
    let status = wait_for(child.id())?;
    Ok(code_of(status))
}

/// From here on this process ends, and with it the container, when the installer closes its end or is gone.
fn end_with_the_installer(socket: &Path) -> Result<(), Failure> {
    let mut life = UnixStream::connect(socket)
        .map_err(|error| Failure::new("connect to", socket.display(), error))?;
    start(move || {
        let mut byte = [0];
        while life.read(&mut byte).is_ok_and(|count| count > 0) {}
        std::process::exit(FAILED);
    })
    .map_err(|error| Failure::new("start a thread for", socket.display(), error))
}

fn offer_the_proxy() -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new("offer the proxy at port", PROXY_PORT, error);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PROXY_PORT)).map_err(failed)?;
    start(move || {
        for client in listener.incoming() {
            // A connection that cannot be led on is closed: its client tries again, or fails.
            if client.and_then(lead).is_err() {
                thread::sleep(LOOK);
            }
        }
    })
    .map_err(failed)
}

/// Leads a connection to the proxy, both ways, until both have ended.
fn lead(client: TcpStream) -> io::Result<()> {
    let proxy = UnixStream::connect(Path::new(DIRECTORY).join(PROXY_SOCKET))?;
    let (mut from_client, mut to_proxy) = (client.try_clone()?, proxy.try_clone()?);
    let (mut from_proxy, mut to_client) = (proxy, client);
    start(move || {
        pass(&mut from_client, &mut to_proxy);
        let _ = to_proxy.shutdown(Shutdown::Write);
    })?;
    start(move || {
        pass(&mut from_proxy, &mut to_client);
        // The proxy says the last word: then the client's further words have nobody to go to.
        let _ = to_client.shutdown(Shutdown::Both);
        let _ = from_proxy.shutdown(Shutdown::Both);
    })
}

fn pass(from: &mut impl Read, to: &mut impl Write) {
    let mut chunk = [0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
}

fn start(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .stack_size(STACK)
        .spawn(work)
        .map(drop)
}

/// Waits until the process `pid` has ended, and takes every other that ends meanwhile off the kernel's table: it is PID 1 that
/// orphans come to.
fn wait_for(pid: u32) -> Result<ExitStatus, Failure> {
    loop {
        match sys::reap() {
            Ok(sys::Reaping::Found(reaped)) if u32::try_from(reaped.pid) == Ok(pid) => {
                return Ok(ExitStatus::from_raw(reaped.status));
            }
            Ok(sys::Reaping::Found(_)) => {}
            Ok(sys::Reaping::AllLive) => thread::sleep(LOOK),
            Ok(sys::Reaping::NoneLeft) => {
                return Err(Failure::new("wait for", pid, "it is no child any more"));
            }
            Err(error) => return Err(Failure::new("wait for", pid, error)),
        }
    }
}

fn code_of(status: ExitStatus) -> libc::c_int {
    let by_signal = || status.signal().map(|signal| BY_SIGNAL + signal);
    status.code().or_else(by_signal).unwrap_or(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_programs() {
        assert_eq!(code_of(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code_of(ExitStatus::from_raw(9)), 137);
        assert_eq!(code_of(ExitStatus::from_raw(0)), 0);
    }
}
