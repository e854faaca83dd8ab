"""Leaves in every place what `rm -r` cannot remove, and takes its own directories away."""

import os

from report import attempt, say

for place in ("/work", "/tmp", "/dev/shm"):
    os.chdir(place)
    for level in range(40):
        name = b"\xfe" * 200 + str(level).encode()
        os.mkdir(name)
        os.chdir(name)
        for number in range(3):
            with open(f"{number}\n", "w") as file:
                file.write("left")
            os.chmod(f"{number}\n", 0)
        os.mkfifo("pipe")
    for level in range(39):
        os.chdir("..")
        for name in os.listdir(b"."):
            os.chmod(name, 0)
    os.chdir(place)
    for name in os.listdir(b"."):
        if name.startswith(b"\xfe"):
            os.chmod(name, 0)
os.chdir("/")
for place in ("/work", "/tmp", "/dev/shm"):
    attempt(f"remove {place}", lambda: os.rmdir(place))
    attempt(f"move {place}", lambda: os.rename(place, place + "2"))
attempt("close /work", lambda: os.chmod("/work", 0))
attempt("close /tmp", lambda: os.chmod("/tmp", 0))
attempt("close /dev/shm", lambda: os.chmod("/dev/shm", 0))
say("alive", "yes")
