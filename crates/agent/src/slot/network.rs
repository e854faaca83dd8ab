//! The network namespace of a slot: loopback that is up, nothing else. It is kept from one submission to the next only where
//! nobody has used it.

use std::{
    fs,
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::{slot::mounts::unshare, sys::check};

/// Makes a namespace for this thread, with loopback up.
pub fn make() -> io::Result<()> {
    unshare(libc::CLONE_NEWNET)?;
    loopback_up()
}

/// Whether this thread's namespace is as it was made: no socket is in use or waits out its time, no packet ever went through
/// it, no label is left of a flow. Everything else that a program could leave in it takes one of these.
pub fn is_unused() -> io::Result<bool> {
    let sockets = read("sockstat", |text| {
        Some(value(text, "sockets:", "used")? + value(text, "TCP:", "tw")? == 0)
    })?;
    let packets = read("dev", |text| {
        let line = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("lo:"))?;
        Some(line.split_ascii_whitespace().all(|number| number == "0"))
    })?;
    // There is none where the kernel knows no such labels. Else a line of titles is always there.
    let labels = read("ip6_flowlabel", |text| Some(text.lines().count() <= 1));
    Ok(sockets && packets && labels.unwrap_or(true))
}

/// What `find` makes of a file of this thread's namespace.
fn read(name: &str, find: impl FnOnce(&str) -> Option<bool>) -> io::Result<bool> {
    const MOST: usize = 1024;
    let mut text = [0; MOST];
    let mut file = fs::File::open(format!("/proc/thread-self/net/{name}"))?;
    let length = file.read(&mut text)?;
    let text = std::str::from_utf8(&text[..length]).map_err(io::Error::other)?;
    find(text).ok_or_else(|| io::Error::other(format!("{name} has another form than expected")))
}

/// In a text as `TCP: inuse 0 orphan 0 tw 2 alloc 5`, …: the number after `name` in the line that begins with `line`.
fn value(text: &str, line: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|it| it.strip_prefix(line))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

fn loopback_up() -> io::Result<()> {
    // Any socket of the family will do to ask by. Not the library's, which brings a resolver of names.
    // SAFETY: takes integers only.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the call succeeded, so that the descriptor is open and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an ifreq is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = byte.cast_signed();
    }
    // SAFETY: the request is an ifreq of ours, its name ends with a NUL.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the call above has set the flags.
    unsafe { request.ifr_ifru.ifru_flags |= libc::c_short::try_from(libc::IFF_UP).unwrap_or(1) };
    // SAFETY: as above.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn a_number_is_found_by_its_line_and_name() {
        let text =
            "sockets: used 3\nTCP: inuse 0 orphan 0 tw 2 alloc 5 mem 1\nUDP: inuse 1 mem 0\n";
        assert_eq!(value(text, "sockets:", "used"), Some(3));
        assert_eq!(value(text, "TCP:", "tw"), Some(2));
        assert_eq!(value(text, "UDP:", "tw"), None);
    }
}
