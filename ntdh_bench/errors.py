"""Errors a user can cause."""

from __future__ import annotations

#: Most characters of an error's line.
LONGEST = 400
_GAP = " ... "
_HEAD = 240


class UserError(Exception):
    """Something the user can mend: one line naming what is wrong, what was expected, what to do.

    The command line prints it without a traceback and exits with status 1. A text of more than 400
    characters loses its middle: it begins with what is wrong and ends with what to do.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class FileError(UserError):
    """A file that is missing, cannot be read, or does not hold what it should."""


class DataError(UserError):
    """Data that a run cannot have: missing, damaged, or not as the settings say."""


class NotStackable(UserError):
    """What cannot be a member of a stack, and why."""


def one_line(text: str) -> str:
    """Return ``text`` as one line of printable characters, without its middle if it is too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) <= LONGEST:
        return line
    return line[:_HEAD] + _GAP + line[_HEAD + len(_GAP) - LONGEST :]
