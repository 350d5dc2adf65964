"""How long runs will take, going by those of their protocol that are finished."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from statistics import fmean
from typing import Any, NamedTuple

from ntdh_bench.experiments import Run


class Timing(NamedTuple):
    """What a finished run took.

    Attributes:
        seconds: its own, or its share of its stack's; 0 is unknown.
        stacked: whether it was trained in a stack.
    """

    seconds: float
    stacked: bool = False


class Expected(NamedTuple):
    """What runs take one after the other: ``about``, ``at most`` or ``at least`` the seconds.

    Attributes:
        seconds: of the runs of which something tells.
        word: how near that is.
        runs: how many these are.
        unknown: protocols of the others: no run of them is finished.
    """

    seconds: float
    word: str = "about"
    runs: int = 0
    unknown: tuple[str, ...] = ()


def expected_seconds(
    todo: Iterable[tuple[Run, bool]], finished: Iterable[tuple[Run, Timing]]
) -> Expected:
    """Return what runs take one after the other.

    A run takes what the finished ones of its cell took on average; else those of the same classes
    (network, method, mask, data, ...); else all of its protocol. Runs in stacks go by those in
    stacks: if there are none, by those alone, which take longer.

    Args:
        todo: runs to do, and whether in a stack.
        finished: runs with their times, also of other protocols.
    """
    taken: dict[Hashable, list[float]] = {}
    for run, timing in finished:
        for kin in _kin(run) if timing.seconds else ():
            taken.setdefault((timing.stacked, kin), []).append(timing.seconds)
    means = {kin: fmean(values) for kin, values in taken.items()}
    total, words, runs = 0.0, set(), 0
    unknown: dict[str, None] = {}
    for run, stacked in todo:
        kins = [(way, kin) for way in (stacked, not stacked) for kin in _kin(run)]
        nearest = next((kin for kin in kins if kin in means), None)
        if nearest is None:
            unknown[run.protocol] = None
            continue
        runs += 1
        total += means[nearest]
        words |= {"at most" if stacked else "at least"} if nearest[0] != stacked else set()
    return Expected(total, words.pop() if len(words) == 1 else "about", runs, tuple(unknown))


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
