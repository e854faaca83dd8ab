# Leaves what would lead a careless collector somewhere else.
import os, socket
import report

os.mkdir("out"); os.mkdir("zmany"); os.mkdir("fd")
with open("out/real", "w") as file:
    file.write("real")
os.symlink("/etc/passwd", "out/link")
os.symlink("../../../../etc/shadow", "out/shadow")
os.symlink("/", "root")
os.symlink("/proc", "proc")
os.symlink(".", "self")
os.symlink("/proc/self/fd/0", "fd/0")
os.mkfifo("out/pipe")
socket.socket(socket.AF_UNIX).bind("out/socket")
with open("out/sparse", "wb") as file:
    file.truncate(60 << 20)
open("out/\n\x1b[31m", "w").close()
os.chmod("out/real", 0)
for number in range(2000):
    open(f"zmany/{number}", "w").close()
report.say("left", "all")
