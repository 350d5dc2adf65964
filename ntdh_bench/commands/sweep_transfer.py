"""What ``ntdh-bench sweep --export`` and ``--import`` say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ntdh_bench.experiments import Experiment, Run
from ntdh_bench.sweep.progress import describe
from ntdh_bench.sweep.store import Store
from ntdh_bench.sweep.transfer import Imported, export_records

_MOST = 20  # lines of one kind


def print_export(runs: Sequence[Run], store: Store, keep: Sequence[str], path: Path) -> bool:
    """Write the records of the runs that are complete to a file, and say how many.

    Returns:
        Whether there is one; without records there is none.
    """
    selected = {run.hash for run in runs}
    count = export_records(selected, store, keep, path)
    if not count:
        print(f"export: no run has a record in {store.root}; {path} is not written")
        return False
    without = len(selected) - count
    note = f"; {without} of the selection have none in {store.root}" if without else ""
    print(f"export: {path}, {count} records{note}")
    return True


def print_import(experiment: Experiment, found: Imported, path: Path) -> None:
    """Say what came of a file of records."""
    counts = [f"{found.taken} taken"]
    counts += [f"{found.known} here already"] if found.known else []
    counts += [f"{len(found.kept)} kept as they are here"] if found.kept else []
    counts += [f"{len(found.problems)} left out"] if found.problems else []
    print(f"{experiment.name}: {path}: {', '.join(counts)}")
    _print([f"damaged record here, set aside: {damaged}" for damaged in found.damaged])
    runs = {run.hash: run for run in experiment.runs}
    _print([
        f"another record is here and was kept (--rerun takes the file's): {describe(runs[run])}"
        for run in found.kept
    ])  # fmt: skip
    _print([f"problem: {problem}" for problem in found.problems])


def _print(lines: Sequence[str]) -> None:
    for line in lines[:_MOST]:
        print(line)
    if len(lines) > _MOST:
        print(f"and {len(lines) - _MOST} more such")
