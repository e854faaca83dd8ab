"""A build that leaves what a collector of files stumbles over: links that lead out, pipes, sockets, devices, names that are no
text, directories that nobody may enter. Then it looks at what it left; and so does each run, which spoils it for the next."""

import fcntl
import os
import socket
import stat
import struct
import sys

from report import attempt, say

NAMES = [b"new\nline", b"-rf", b" ", b"...", b"\xff\xfe", b"\x1b[31m", b"*", b"x" * 255]


def plant():
    os.symlink("/etc/shadow", "to shadow")
    os.symlink("/proc/1/root", "to the agent")
    os.symlink("../../../../../etc/passwd", "to above")
    os.symlink("to itself", "to itself")
    os.symlink("t" * 4095, "to nowhere")
    for name in NAMES:
        with open(name, "w") as file:
            file.write("named")
    attempt("name of 256 bytes", lambda: open(b"x" * 256, "w"))
    attempt("name with a slash", lambda: open("no/such", "w"))
    os.link("main.py", "hard link")
    attempt("hard link to passwd", lambda: os.link("/etc/passwd", "passwd"))
    attempt("hard link through a link", lambda: os.link("/proc/self/root/etc/passwd", "passwd", follow_symlinks=True))
    os.mkfifo("pipe")
    attempt("character device", lambda: os.mknod("memory", stat.S_IFCHR | 0o666, os.makedev(1, 1)))
    attempt("block device", lambda: os.mknod("disk", stat.S_IFBLK | 0o666, os.makedev(8, 0)))
    socket.socket(socket.AF_UNIX).bind("socket")
    os.makedirs("closed/inner")
    with open("closed/inner/file", "w") as file:
        file.write("hidden")
    os.chmod("closed/inner/file", 0)
    os.chmod("closed/inner", 0)
    os.chmod("closed", 0)
    with open("setuid", "w") as file:
        file.write("#!/bin/sh")
    os.chmod("setuid", 0o6777)
    os.utime("setuid", ns=(-(1 << 62), 1 << 62))
    file = os.open("setuid", os.O_RDONLY)
    immutable = struct.pack("l", 0x10)
    attempt("immutable", lambda: fcntl.ioctl(file, 0x40086602, immutable))
    attempt("give away", lambda: os.chown("setuid", 0, 0))
    attempt("remove the work directory", lambda: os.rmdir("/work"))
    attempt("move the work directory", lambda: os.rename("/work", "/tmp/work"))


def told(name):
    """An entry as a line says it: how it is called, what it is, where it leads or what is in it."""
    status = os.lstat(name)
    text = ascii(os.fsdecode(name))[1:-1]
    if len(text) > 60:
        text = f"{text[0]} x {len(text)}"
    kind = stat.filemode(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        target = os.fsdecode(os.readlink(name))
        return text, f"{kind} {target if len(target) < 60 else len(target)}"
    if stat.S_ISREG(status.st_mode) and name not in (b"main.py", b"report.py", b"hard link"):
        with open(name) as file:
            return text, f"{kind} {file.read()}"
    return text, kind


def look():
    for name in sorted(os.listdir(b".")):
        if name != b"__pycache__":
            say(*told(name))
    os.chmod("closed", 0o700)
    os.chmod("closed/inner", 0o700)
    os.chmod("closed/inner/file", 0o600)
    with open("closed/inner/file") as file:
        say("closed/inner/file", file.read())


def spoil():
    for name in os.listdir(b"."):
        if not os.path.isdir(name):
            os.unlink(name)
    os.rename("closed", "x" * 255)
    os.mkfifo("to shadow")
    os.symlink("/etc/shadow", "report.py")
    os.chmod("/work", 0)


if sys.argv[1:] == ["plant"]:
    plant()
else:
    look()
    spoil()
