"""How long runs will take, going by those of their protocol that are finished."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from statistics import fmean
from typing import Any

from ntdh_bench.experiments import Run


def expected_seconds(todo: Iterable[Run], finished: Iterable[tuple[Run, float]]) -> float | None:
    """Return the seconds that runs take one after the other, None if nothing tells.

    A run takes what the finished ones of its cell took on average; else those of the same classes
    (network, method, mask, data, ...); else all of its protocol.

    Args:
        todo: runs to do.
        finished: runs with their seconds, also of other protocols; 0 is unknown.
    """
    taken: dict[Hashable, list[float]] = {}
    for run, seconds in finished:
        for kin in _kin(run) if seconds else ():
            taken.setdefault(kin, []).append(seconds)
    means = {kin: fmean(values) for kin, values in taken.items()}
    total = 0.0
    for run in todo:
        nearest = next((kin for kin in _kin(run) if kin in means), None)
        if nearest is None:
            return None
        total += means[nearest]
    return total


def _kin(run: Run) -> Iterator[Hashable]:
    """Yield the groups that a run belongs to, the closest first."""
    yield run.protocol, "cell", *sorted(run.labels.items())
    yield run.protocol, "classes", *_classes(run.config)
    yield run.protocol


def _classes(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of a config's classes, and their names."""
    if isinstance(value, dict):
        for name, item in sorted(value.items()):
            if name == "class_path":
                yield key, str(item)
            yield from _classes(item, f"{key}.{name}")
