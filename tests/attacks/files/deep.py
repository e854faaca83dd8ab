"""Directories in directories, with the longest names that there can be, in every place: no path reaches the last one. A build
leaves them for its runs."""

import errno
import os

from report import name_of, say

NAME = "d" * 255


def descend():
    """Makes one directory in the other until it is refused; says why it was."""
    while True:
        try:
            os.mkdir(NAME)
        except OSError as error:
            return name_of(error)
        os.chdir(NAME)


def depth_of(top):
    os.chdir(top)
    depth = 0
    while True:
        try:
            os.chdir(NAME)
        except OSError as error:
            if error.errno != errno.ENOENT:
                say("chdir", name_of(error))
            return depth
        depth += 1


def order_of(depth):
    """No path reaches the last of thousands; of tens, one that is twice as long as a path may be."""
    return "thousands" if depth > 2000 else "tens" if 16 < depth < 64 else str(depth)


build = not os.path.exists(NAME)
for top in ("/work", "/tmp", "/dev/shm") if build else ("/work",):
    os.chdir(top)
    if build:
        say(f"refused in {top}", descend())
    say(f"depth in {top}", order_of(depth_of(top)))
