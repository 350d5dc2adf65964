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
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if before[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        raise_stopped(error)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # Lightning leaves Ctrl-C ignored


def raise_stopped(error: BaseException, hint: str = "") -> None:
    """Raise :class:`Stopped` if ``error`` is what a signal led to.

    Args:
        error: a KeyboardInterrupt, or the SystemExit that Lightning makes of one.
        hint: how to go on; one that ``error`` has already stays.
    """
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if isinstance(cause, Stopped):
        raise cause if cause.hint else Stopped(cause.number, hint) from None
    if isinstance(cause, KeyboardInterrupt):
        raise Stopped(signal.SIGINT, hint) from None


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
