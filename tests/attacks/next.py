"""No attack: the next submission in the same slot. It says everything that it finds, computes something from its input, and uses
what it may use. It must find what the very first submission found."""

import ctypes
import hashlib
import os
import socket
import sys

from report import attempt, name_of, say

libc = ctypes.CDLL(None, use_errno=True)


def status_of(field):
    with open("/proc/self/status") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith(field + ":"))


def lines_of(path):
    """The lines of a table but its title."""
    try:
        with open(path) as file:
            return len(list(file)[1:])
    except FileNotFoundError:
        return 0


def used(place):
    """What is in a file system, whether it has a name there or not."""
    system = os.statvfs(place)
    return f"{system.f_blocks - system.f_bfree} blocks, {system.f_files - system.f_ffree} inodes"


def loopback():
    """Packets and bytes that the interface has counted."""
    with open("/proc/net/dev") as file:
        counted = next(line.split(":")[1].split() for line in file if line.strip().startswith("lo:"))
    return f"{counted[0]} bytes in {counted[1]} packets"


def syscall(*arguments):
    if libc.syscall(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")


def connect(family, address):
    with socket.socket(family) as caller:
        caller.connect(address)


def write(place):
    path = f"{place}/own"
    with open(path, "wb") as file:
        file.write(bytes(100_000))
    os.unlink(path)


say("loopback", loopback())
say("digest", hashlib.sha256(sys.stdin.buffer.read()).hexdigest())
say("arguments", " ".join(sys.argv))
say("environment", " ".join(sorted(f"{name}={value}" for name, value in os.environ.items())))
say("directory", os.getcwd())
say("in /work", sorted(os.listdir(b"/work")))
for place in ("/tmp", "/dev/shm"):
    say(f"in {place}", os.listdir(os.fsencode(place)))
    say(f"used of {place}", used(place))
say("modes", " ".join(oct(os.stat(place).st_mode)[-4:] for place in ("/work", "/tmp", "/dev/shm")))
say("processes", " ".join(sorted("self" if int(name) == os.getpid() else "1" if name == "1" else "other"
                                 for name in os.listdir("/proc") if name.isdigit())))
for kind in ("shm", "msg", "sem"):
    say(f"System V {kind}", lines_of(f"/proc/sysvipc/{kind}"))
queue = libc.mq_open(b"/envicutor-meet", os.O_RDONLY)
say("POSIX queue", name_of(OSError(ctypes.get_errno(), "")) if queue == -1 else "there")
for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "unix", "packet"):
    say(f"sockets of {table}", lines_of(f"/proc/net/{table}"))
say("labels", lines_of("/proc/net/ip6_flowlabel"))
attempt("abstract socket", lambda: connect(socket.AF_UNIX, "\0envicutor-meet"))
attempt("port", lambda: connect(socket.AF_INET, ("127.0.0.1", 17047)))
attempt("key", lambda: syscall(249, b"user", b"envicutor-meet", None, 0))  # request_key
say("descriptors", " ".join(name for name in sorted(os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{name}")))
say("host name", os.uname().nodename)
say("umask", oct(os.umask(0o022)))
say("niceness", os.getpriority(os.PRIO_PROCESS, 0))
say("signals", f"{status_of('SigBlk')} {status_of('SigIgn')} {status_of('SigCgt')}")
say("OOM score", open("/proc/self/oom_score_adj").read().strip())
for place in ("/work", "/tmp", "/dev/shm"):
    attempt(f"write {place}", lambda: write(place))
if os.fork() == 0:
    os._exit(7)
say("child", os.waitstatus_to_exitcode(os.wait()[1]))
server = socket.create_server(("127.0.0.1", 0))
attempt("own port", lambda: connect(socket.AF_INET, server.getsockname()))
