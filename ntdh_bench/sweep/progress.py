"""What a sweep says while it runs, and how it writes durations."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from ntdh_bench.experiments import Run
from ntdh_bench.sweep.driver import Outcome

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_PERIOD = 30.0  # seconds between lines where there is no terminal


def describe(run: Run) -> str:
    """Return a run in words: the last part of each axis with its label, and the seed."""
    cell = [f"{axis.rpartition('.')[2]}={label}" for axis, label in run.labels.items()]
    return ", ".join([*cell, f"seed {run.seed}"])


def duration(seconds: float) -> str:
    """Return a duration in words, in its two largest units."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def time_left(outcome: Outcome, jobs: int) -> float | None:
    """Return the seconds left by the mean of the finished runs, None if there is none."""
    if not outcome.done or not outcome.left:
        return None
    return outcome.seconds / outcome.done * outcome.left / min(jobs, outcome.left)


class Progress:
    """A bar on a terminal, and otherwise a line every half minute; failures at once.

    Args:
        total: number of runs to do.
        jobs: how many run at once.
    """

    def __init__(self, total: int, jobs: int) -> None:
        self._total, self._jobs = total, jobs
        self._told = 0  # failures
        self._last = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar's last state on the screen."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, outcome: Outcome) -> None:
        """Show where the sweep is."""
        if self._bar is not None:
            finished = self._total - outcome.left
            self._bar.update(self._task, completed=finished, description=self._status(outcome))
        elif time.monotonic() - self._last >= _PERIOD:
            self._last = time.monotonic()
            self._say(self._status(outcome))
        for run, reason in outcome.failures[self._told :]:
            self._say(f"failed: {describe(run)}: {reason}")
        self._told = len(outcome.failures)

    def _status(self, outcome: Outcome) -> str:
        seconds = time_left(outcome, self._jobs)
        about = "" if seconds is None else f", about {duration(seconds)} left"
        finished = outcome.done + outcome.elsewhere
        return f"{finished} done, {len(outcome.failures)} failed, {outcome.left} to go{about}"

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            sys.stderr.write(f"{line}\n")


def _bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
