"""Lifts its own limits, leaves its cgroup, and has the kernel run a program at a cgroup's end (release_agent)."""

import os

from report import name_of, say

mounts = [line.split() for line in open("/proc/mounts")]
tops = [fields[1] for fields in mounts if fields[2] in ("cgroup", "cgroup2")]
say("paths", " ".join(sorted({line.strip().split(":", 2)[2] for line in open("/proc/self/cgroup")})))
made, opened = [], []
for start in tops or ["/sys/fs/cgroup"]:
    for top, _, files in os.walk(start):
        try:
            os.mkdir(os.path.join(top, "escape"))
            made.append(top)
        except OSError:
            pass
        for name in files:
            path = os.path.join(top, name)
            try:
                os.close(os.open(path, os.O_WRONLY))
                opened.append(path)
            except OSError:
                pass
say("made", " ".join(made))
say("opened", " ".join(opened))
for name in ("memory/memory.limit_in_bytes", "memory.max", "pids.max", "pids/pids.max", "release_agent", "memory/release_agent",
             "rdma/release_agent", "cgroup.procs", "memory/cgroup.procs", "memory/tasks", "devices/devices.allow"):
    try:
        os.close(os.open(f"/sys/fs/cgroup/{name}", os.O_WRONLY))
        say(f"write {name}", "ok")
    except OSError as error:
        say(f"write {name}", "refused" if error.errno in (1, 2, 13, 30) else name_of(error))
