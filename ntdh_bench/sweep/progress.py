"""What a sweep says while it runs, and how it writes durations."""

from __future__ import annotations

import sys
import time

from ntdh_bench.experiments import Run
from ntdh_bench.notices import is_quiet
from ntdh_bench.sweep.driver import Failure, Outcome

_PERIOD = 30.0  # seconds between lines where there is no terminal
_BAR = 20  # characters


def describe(run: Run) -> str:
    """Return a run in words: the last part of each axis with its label, protocol and seed."""
    cell = [f"{axis.rpartition('.')[2]}={label}" for axis, label in run.labels.items()]
    return ", ".join([*cell, f"protocol {run.protocol}", f"seed {run.seed}"])


def failed(failure: Failure) -> str:
    """Return what failed, and why."""
    run, reason, runs = failure
    which = describe(run) if runs == 1 else f"{runs} runs of protocol {run.protocol} on its data"
    return f"failed: {which}: {reason}"


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
    """A bar on a terminal, otherwise a line every half minute, quietly neither; failures at once.

    Args:
        total: number of runs to do.
        jobs: how many run at once.
    """

    def __init__(self, total: int, jobs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        self._total, self._jobs = total, jobs
        self._told = 0  # failures
        self._last = time.monotonic()
        self._by_line = not sys.stderr.isatty() and not is_quiet()
        hidden = self._by_line or is_quiet()
        fixed, wrapped = Column(no_wrap=True), Column(ratio=1)  # stacks at once: more than a line
        columns = (
            BarColumn(_BAR, table_column=fixed),
            TimeElapsedColumn(table_column=fixed.copy()),
            TextColumn("{task.description}", table_column=wrapped),
        )
        terminal = Console(stderr=True)
        self._bar = Bar(*columns, console=terminal, refresh_per_second=4, disable=hidden)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bar's last state on the screen."""
        self._bar.stop()

    def update(self, outcome: Outcome) -> None:
        """Show where the sweep is."""
        status, finished = self._status(outcome), self._total - outcome.left
        self._bar.update(self._task, completed=finished, description=status)
        lines = [failed(failure) for failure in outcome.failures[self._told :]]
        self._told = len(outcome.failures)
        if self._by_line and time.monotonic() - self._last >= _PERIOD:
            self._last = time.monotonic()
            lines.insert(0, status)
        for line in lines:  # a bar that is shown stays below them
            sys.stderr.write(f"{line}\n")

    def _status(self, outcome: Outcome) -> str:
        seconds = time_left(outcome, self._jobs)
        about = "" if seconds is None else f", about {duration(seconds)} left"
        finished = outcome.done + outcome.elsewhere
        stages = "".join(f"; a stack: {stage}" for stage in outcome.stages)
        return f"{finished} done, {outcome.failed} failed, {outcome.left} to go{about}{stages}"
