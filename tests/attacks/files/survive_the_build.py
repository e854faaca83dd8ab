"""A build leaves a daemon that changes the work directory for ever. The run looks whether it still does."""

import os
import signal
import sys
import time

from report import say


def live_on():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in set(range(1, 65)) - {9, 19, 32, 33}:
                signal.signal(number, signal.SIG_IGN)
            for count in range(1 << 60):
                with open("next", "w") as file:
                    file.write(str(count))
                os.rename("next", "alive")
        os._exit(0)


if sys.argv[1:] == ["build"]:
    live_on()
    while not os.path.exists("alive"):
        time.sleep(0.001)
else:
    first = os.stat("alive")
    time.sleep(0.2)
    second = os.stat("alive")
    say("the daemon", "dead" if first.st_ino == second.st_ino and first.st_mtime_ns == second.st_mtime_ns else "alive")
    say("processes", len([name for name in os.listdir("/proc") if name.isdigit() and name not in ("1", str(os.getpid()))]))
