"""Looks for every file and directory of the root file system that it could write to, and tries the likeliest by hand."""

import os

from report import attempt, say

OWN = ("/work", "/tmp", "/dev/shm", "/proc", "/sys")
writable = []
for top, directories, files in os.walk("/"):
    directories[:] = [name for name in directories if os.path.join(top, name) not in OWN]
    paths = [top] + [os.path.join(top, name) for name in files]
    writable += [path for path in paths if not os.path.islink(path) and os.access(path, os.W_OK)]
say("writable", " ".join(sorted(writable)))
attempt("write /etc/passwd", lambda: open("/etc/passwd", "a"))
attempt("make /made", lambda: os.mkdir("/made"))
attempt("remove /bin/sh", lambda: os.unlink("/usr/bin/sh"))
attempt("move /usr", lambda: os.rename("/usr", "/tmp/usr"))
attempt("make /dev/made", lambda: open("/dev/made", "w"))
attempt("make /envicutor/made", lambda: open("/envicutor/made", "w"))
attempt("write the agent", lambda: open("/envicutor/agent", "r+b"))
attempt("connect to the worker", lambda: os.stat("/envicutor/socket/worker.sock"))
attempt("connect to Docker", lambda: os.stat("/var/run/docker.sock"))
