"""What a command says beside its results: a line at a time on standard error, from one process.

Lines go through the logger ``ntdh_bench``: what a user should know is a warning there, where a run
is is information, and details are for debugging. The log of a run, if there is one, has all.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ntdh_bench.errors import one_line

_LOGGER = logging.getLogger("ntdh_bench")


def notice(text: str) -> None:
    """Say one line that a user should know; of several processes of a run only the first does."""
    _LOGGER.warning(one_line(text))


def say(text: str, *, detail: bool = False) -> None:
    """Say in one line where a run is, unless it is to be quiet; details only if it is verbose."""
    _LOGGER.log(logging.DEBUG if detail else logging.INFO, one_line(text))


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet`` and ``--verbose``, which set ``verbosity`` for :func:`speaking`."""
    parser.set_defaults(verbosity=logging.INFO)
    add = parser.add_mutually_exclusive_group().add_argument
    add("-q", "--quiet", dest="verbosity", action="store_const", const=logging.WARNING,
        help="no progress: only results, notes and errors")  # fmt: skip
    add("-v", "--verbose", dest="verbosity", action="store_const", const=logging.DEBUG,
        help="details as well: every metric, every finished run, what Lightning says")  # fmt: skip


@contextmanager
def speaking(verbosity: int) -> Iterator[None]:
    """Show, in the block, what is at least as urgent as this level of :mod:`logging`."""
    before = _SCREEN.level
    _SCREEN.setLevel(verbosity)
    try:
        yield
    finally:
        _SCREEN.setLevel(before)


def is_quiet() -> bool:
    """Return whether progress stays off the screen."""
    return _SCREEN.level > logging.INFO


def is_verbose() -> bool:
    """Return whether details are shown."""
    return _SCREEN.level <= logging.DEBUG


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Write what is said in the block to a file as well, with the time of day."""
    log = _File(path, encoding="utf-8", errors="replace")
    log.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    _LOGGER.addHandler(log)
    try:
        yield
    finally:
        _LOGGER.removeHandler(log)
        log.close()


class _Screen(logging.Handler):
    """Writes to the standard error of the moment, which a bar or a test may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            note = "ntdh-bench: note: " if record.levelno >= logging.WARNING else ""
            sys.stderr.write(f"{note}{record.getMessage()}\n")
            sys.stderr.flush()


class _File(logging.FileHandler):
    """A log that ends no run: a full disk is reported by what the run cannot do without."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            self.stream = None


_SCREEN = _Screen(logging.INFO)
_LOGGER.addHandler(_SCREEN)
_LOGGER.setLevel(logging.DEBUG)
_LOGGER.propagate = False
