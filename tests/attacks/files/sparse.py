"""Files with holes: larger than they may be, and so many that all together would be larger than any disk. A build leaves them
for its runs."""

import os
import signal

from report import attempt, say

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
MIB = 1 << 20
if not os.path.exists("0"):
    file = os.open("large", os.O_CREAT | os.O_RDWR)
    attempt("truncate to 1 TiB", lambda: os.truncate(file, 1 << 40))
    attempt("write at 1 TiB", lambda: os.pwrite(file, b"x", 1 << 40))
    other = os.open("other", os.O_CREAT | os.O_RDWR)
    attempt("allocate 100 MiB", lambda: [os.posix_fallocate(it, 0, 50 * MIB) for it in (file, other)])
    os.unlink("large")
    os.unlink("other")
    for number in range(1000):
        with open(str(number), "wb") as file:
            file.truncate(60 * MIB)
            file.seek(30 * MIB)
            file.write(b"middle")
sizes = [os.stat(str(number)) for number in range(1000)]
say("GiB", sum(size.st_size for size in sizes) >> 30)
say("MiB in use", sum(size.st_blocks for size in sizes) * 512 >> 20)
with open("999", "rb") as file:
    file.seek(30 * MIB)
    say("in the middle", file.read(6).decode())
