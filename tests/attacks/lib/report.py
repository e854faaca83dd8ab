"""What an attack says: a line `what=result` for each thing that it tries."""

import errno
import sys


def say(what, result):
    sys.stdout.write(f"{what}={result}\n")
    sys.stdout.flush()


def name_of(error):
    return errno.errorcode.get(error.errno, str(error))


def attempt(what, do):
    """Says `ok`, or the name of the error that `do` raised."""
    try:
        do()
        say(what, "ok")
    except OSError as error:
        say(what, name_of(error))
