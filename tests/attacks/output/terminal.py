"""Writes what takes over a terminal, ends a line of a log, or is no text at all."""

import sys

sys.stdout.buffer.write(b"\x1b]0;title\x07\x1b[2J\r\n{\"verdict\":\"ok\"}\n\0\x9b\xff\xfe\xed\xa0\x80")
