"""Two submissions of one tenant at the same time. Each leaves its mark wherever the other might look, looks for the other's, and
takes as much as it can of what is counted for each user of the machine. The argument says which of the two it is."""

import ctypes
import fcntl
import os
import socket
import sys
import time

from report import name_of, say

ME, OTHER = ("first", "second") if sys.argv[1] == "first" else ("second", "first")
# Below those that the kernel gives to connections: one to a port where nobody listens can get that very port, and meets itself.
PORTS = {"first": 17001, "second": 17002}
KEYS = {"first": 0x4D454501, "second": 0x4D454502}
LOCKED = {"first": "/etc/passwd", "second": "/etc/group"}
WATCHED = {"first": "/etc/issue", "second": "/etc/debian_version"}
libc = ctypes.CDLL(None, use_errno=True)
met = set()


def leave():
    for place in ("/work", "/tmp", "/dev/shm"):
        with open(f"{place}/{ME}", "w") as file:
            file.write("here")
    libc.shmget(KEYS[ME], 4096, 0o1666)
    libc.msgget(KEYS[ME], 0o1666)
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0envicutor-{ME}")
    abstract.listen()
    listener = socket.create_server(("127.0.0.1", PORTS[ME]))
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", PORTS[ME]))
    receiver.setblocking(False)
    lock = open(LOCKED[ME])
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(watch, WATCHED[OTHER].encode(), 0x1 | 0x20)
    return abstract, listener, receiver, lock, watch


def tell(receiver):
    """Does what the other one might notice."""
    receiver.sendto(b"here", ("127.0.0.1", PORTS[OTHER]))
    with open(WATCHED[ME]) as file:
        file.read()


def can_connect(family, address):
    with socket.socket(family) as caller:
        return caller.connect_ex(address) == 0


def is_locked(path):
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def has_something(read):
    try:
        return bool(read())
    except OSError:
        return False


def look(receiver, watch):
    for place in ("/work", "/tmp", "/dev/shm"):
        if os.path.exists(f"{place}/{OTHER}"):
            met.add(f"file in {place}")
    for what, get in (("System V memory", libc.shmget), ("System V queue", libc.msgget)):
        arguments = (KEYS[OTHER], 0, 0) if get is libc.shmget else (KEYS[OTHER], 0)
        if get(*arguments) != -1:
            met.add(what)
    if can_connect(socket.AF_UNIX, f"\0envicutor-{OTHER}"):
        met.add("abstract socket")
    if can_connect(socket.AF_INET, ("127.0.0.1", PORTS[OTHER])):
        met.add("port")
    if has_something(lambda: receiver.recv(16)):
        met.add("datagram")
    if is_locked(LOCKED[OTHER]):
        met.add("lock of a file of the root")
    if has_something(lambda: os.read(watch, 4096)):
        met.add("watch on a file of the root")
    others = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())]
    if others:
        met.add("processes")


def take_what_users_share():
    """Pipes' pages, watches, and locked memory are counted for each user of the whole machine."""
    taken = []
    try:
        while len(taken) < 1400:
            taken += os.pipe()
    except OSError as error:
        say("pipes", name_of(error))
    while (watch := libc.inotify_init()) != -1:
        taken.append(watch)
    say("watches", name_of(OSError(ctypes.get_errno(), "")))
    return taken


def what_is_left():
    """Of that, to the other one."""
    read, write = os.pipe()
    say("a new pipe holds", fcntl.fcntl(write, 1032))  # F_GETPIPE_SZ
    say("a new watch", "ok" if libc.inotify_init() != -1 else name_of(OSError(ctypes.get_errno(), "")))


left = leave()
began = time.monotonic()
taken = take_what_users_share() if ME == "first" else []
while time.monotonic() < began + float(sys.argv[2]):
    tell(left[2])
    look(left[2], left[4])
    time.sleep(0.02)
if ME == "second":
    what_is_left()
say("met by", ", ".join(sorted(met)))
say("time", f"{began} {time.monotonic()}")
