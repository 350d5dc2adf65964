"""A progress bar for what takes more than a few seconds. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Counts one of them done.
Advance = Callable[[], None]


@contextmanager
def counting_bar(title: str, total: int) -> Iterator[Advance]:
    """Show how many of ``total`` are done, on a terminal; yields what counts one of them."""
    from rich.console import Console
    from rich.progress import Progress

    terminal = Console(stderr=True)
    quiet = not terminal.is_terminal or not total
    with Progress(console=terminal, disable=quiet) as bars:
        task = bars.add_task(title, total=total)
        yield lambda: bars.advance(task)
