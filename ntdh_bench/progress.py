"""A progress bar for what takes more than a few seconds. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from ntdh_bench.notices import is_quiet


class Update(Protocol):
    """What moves a progress bar."""

    def __call__(
        self,
        *,
        advance: float | None = None,
        completed: float | None = None,
        total: float | None = None,
        description: str | None = None,
    ) -> None:
        """Move it by ``advance``, or to ``completed`` of what is now known to be the ``total``."""


def is_shown() -> bool:
    """Return whether someone looks at bars: on a terminal that is not to be quiet."""
    from rich.console import Console

    return Console(stderr=True).is_terminal and not is_quiet()


@contextmanager
def progress_bar(
    title: str, total: int | None = None, *, done: int = 0, in_bytes: bool = False
) -> Iterator[Update]:
    """Show on a terminal how much of something is done; yields what moves the bar.

    Args:
        title: what it is.
        total: how much there is; None if that is not known yet. Nothing to do shows nothing.
        done: how much was done before.
        in_bytes: show sizes and speed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    terminal = Console(stderr=True)
    sizes = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    columns = sizes if in_bytes else Progress.get_default_columns()
    quiet = not terminal.is_terminal or is_quiet() or total == 0
    with Progress(*columns, console=terminal, disable=quiet) as bars:
        task = bars.add_task(title, total=total, completed=done)
        yield partial(bars.update, task)
