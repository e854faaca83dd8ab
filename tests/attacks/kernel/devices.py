"""Opens the devices that lead to memory, disks, machines and terminals; says which there are at all."""

import os

from report import name_of, say

NAMES = """mem kmem port kmsg fuse kvm net/tun loop0 loop-control sda vda nvme0 ram0 vsock vhost-vsock vhost-net uinput uhid userio
input/event0 rtc0 hpet cpu/0/msr cpu/0/cpuid autofs btrfs-control mapper/control ppp rfkill snapshot userfaultfd vfio/vfio
dri/card0 snd/timer console tty0 ttyS0 hwrng nvram watchdog cuse vcs fb0 sg0 bsg tpm0 udmabuf dma_heap/system""".split()
opened = []
for name in NAMES:
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(f"/dev/{name}", flags | os.O_NONBLOCK))
            opened.append(name)
        except OSError as error:
            if error.errno not in (1, 2, 13):
                opened.append(f"{name}:{name_of(error)}")
say("opened", " ".join(opened))
say("there", " ".join(sorted(name for name in os.listdir("/dev"))))
