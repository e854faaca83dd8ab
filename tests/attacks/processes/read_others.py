"""Reads everything that /proc has of every process but itself: memory, environment, descriptors, root directory."""

import os

from report import name_of, say

READ = [
    "environ", "auxv", "maps", "smaps", "mem", "pagemap", "stack", "syscall", "io", "personality",
    "task/{pid}/mem", "task/{pid}/environ",
]
LISTED = ["fd", "fdinfo", "map_files", "root", "cwd", "root/proc"]
FOLLOWED = ["exe", "cwd", "root", "ns/mnt", "ns/user", "ns/pid", "ns/net"]
WRITTEN = ["mem", "oom_score_adj", "coredump_filter", "clear_refs", "comm", "timerslack_ns", "uid_map", "loginuid", "attr/current"]


def read(path):
    with open(path, "rb", buffering=0) as file:
        if not file.read(1):
            raise OSError(61, "nothing in it")


def write(path):
    with open(path, "wb", buffering=0) as file:
        file.write(b"0")


ways = [(name, read) for name in READ] + [(name, os.listdir) for name in LISTED]
ways += [(name, os.readlink) for name in FOLLOWED] + [("write " + name, write) for name in WRITTEN]
others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
holes = {}
for pid in others:
    for name, way in ways:
        path = f"/proc/{pid}/" + name.removeprefix("write ").format(pid=pid)
        try:
            way(path)
            holes[name] = "ok"
        except OSError as error:
            if error.errno not in (1, 2, 13, 22, 61):
                holes[name] = name_of(error)
say("others", len(others))
say("holes", " ".join(f"{name}:{result}" for name, result in sorted(holes.items())))
