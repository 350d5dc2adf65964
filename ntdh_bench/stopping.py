"""Ctrl-C and SIGTERM (a preempted job) end a command at once, in the same way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A command that a signal stopped.

    Args:
        number: of the signal.
        hint: how to go on.
    """

    def __init__(self, number: int, hint: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}: {hint}" if hint else f"stopped by {name}")
        self.number = number
        self.hint = hint
        self.status = 128 + number  # what a shell shows


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise :class:`Stopped` in the block on Ctrl-C and SIGTERM; handlers stay as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop_on_sigterm()
    try:
        yield
    except BaseException as error:
        raise_stopped(error)
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)  # Lightning leaves Ctrl-C ignored


def stop_on_sigterm() -> None:
    """Let SIGTERM raise :class:`Stopped`, if this is the thread that may handle signals."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)


def raise_stopped(error: BaseException, hint: str = "") -> None:
    """Raise :class:`Stopped` if a signal led to ``error``.

    Lightning makes a SystemExit of it, and torch a RuntimeError where it was writing a file.

    Args:
        error: what is handled.
        hint: how to go on; one that was given before stays.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    if isinstance(cause, Stopped):
        raise Stopped(cause.number, cause.hint or hint) from None
    if cause is not None:
        raise Stopped(signal.SIGINT, hint) from None


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
