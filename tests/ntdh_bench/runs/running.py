"""Runs of command lines, one alone or several as a stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntdh_bench.runs import Run, fit
from ntdh_bench.runs.session import quiet_lightning
from ntdh_bench.runs.stacks import fit_stack


def parsed(words: Sequence[str], folder: Path) -> Run:
    """Return the run of a command line, which leaves what it writes in ``folder``."""
    folder.mkdir(exist_ok=True, parents=True)
    return Run.parse("fit", words, folder=folder)


def alone(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the record of a run by itself."""
    with quiet_lightning():
        return fit(parsed(words, folder), record=False, share_control=True)


def together(runs: Sequence[Sequence[str]], folder: Path) -> list[Any]:
    """Return what a stack of runs gives: a record of each, or why it failed."""
    folder.mkdir(exist_ok=True)
    with quiet_lightning():
        return fit_stack([parsed(words, folder / "runs") for words in runs], folder)
