//! The system calls around mounts, as safe functions.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

use libc::c_ulong;

use crate::sys::check;

/// Mounts a new file system of `kind`.
pub fn mount(kind: &CStr, target: &CStr, flags: c_ulong, options: &CStr) -> io::Result<()> {
    // SAFETY: every string ends with a NUL.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    check(result).map(drop)
}

/// Makes `source` appear at `target` too, without what is mounted below it.
pub fn bind(source: &CStr, target: &CStr) -> io::Result<()> {
    change(Some(source), target, libc::MS_BIND)
}

/// Adds `flags` to those of the mount at `target`. Its others stay: a user namespace may not take them away.
pub fn restrict(target: &CStr, flags: c_ulong) -> io::Result<()> {
    let has = flags_of(target)?;
    change(None, target, libc::MS_REMOUNT | libc::MS_BIND | has | flags)
}

/// Keeps what happens to mounts here from other namespaces, and the other way round.
pub fn make_private() -> io::Result<()> {
    change(None, c"/", libc::MS_REC | libc::MS_PRIVATE)
}

/// Makes the mount at `new_root` the root of everything, and lets go of the root before.
pub fn change_root(new_root: &CStr) -> io::Result<()> {
    chdir(new_root)?;
    // SAFETY: both paths end with a NUL. The old root lands over the new one, and goes from there.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    unmount(c".")?;
    chdir(c"/")
}

/// Takes the mount at `target` away, with what is below it.
pub fn unmount(target: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with a NUL.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// Enters the mount namespace at `fd`, and makes a copy of it for this thread alone.
pub fn enter_copy(namespace: &OwnedFd) -> io::Result<()> {
    // The threads of a process share what is their root; one that enters a namespace must not.
    unshare(libc::CLONE_FS)?;
    // SAFETY: the descriptor is open; it changes this thread alone.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) })?;
    unshare(libc::CLONE_NEWNS)
}

/// New namespaces for this thread.
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: changes the calling thread alone, and no memory.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with a NUL.
    check(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

fn change(source: Option<&CStr>, target: &CStr, flags: c_ulong) -> io::Result<()> {
    let source = source.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: the strings end with a NUL; nothing is read of those that are null.
    let result = unsafe { libc::mount(source, target.as_ptr(), ptr::null(), flags, ptr::null()) };
    check(result).map(drop)
}

/// The flags of the mount at `path`, as `mount` takes them.
fn flags_of(path: &CStr) -> io::Result<c_ulong> {
    const FLAGS: [(c_ulong, c_ulong); 7] = [
        (libc::ST_RDONLY, libc::MS_RDONLY),
        (libc::ST_NOSUID, libc::MS_NOSUID),
        (libc::ST_NODEV, libc::MS_NODEV),
        (libc::ST_NOEXEC, libc::MS_NOEXEC),
        (libc::ST_NOATIME, libc::MS_NOATIME),
        (libc::ST_NODIRATIME, libc::MS_NODIRATIME),
        (libc::ST_RELATIME, libc::MS_RELATIME),
    ];
    // SAFETY: a statvfs is plain data.
    let mut system: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a NUL, `system` is a statvfs that the call may write.
    check(unsafe { libc::statvfs(path.as_ptr(), &raw mut system) })?;
    let set = FLAGS
        .iter()
        .filter(|(has, _)| system.f_flag & has != 0)
        .map(|(_, flag)| flag);
    Ok(set.fold(0, |flags, flag| flags | flag))
}
