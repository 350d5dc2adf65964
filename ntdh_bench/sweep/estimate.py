"""How long runs will take, going by finished ones that are like them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from statistics import fmean
from typing import Any, NamedTuple

from ntdh_bench.cache import digest
from ntdh_bench.experiments import Run
from ntdh_bench.run_hash import PINNED

# What no run takes longer for: which numbers are drawn, and in what state files were.
_OF_NO_TIME = {"seed_everything", "seed", "draw", *PINNED}


class Timing(NamedTuple):
    """What a finished run took.

    Attributes:
        seconds: its own, or its share of its stack's; 0 is unknown.
        stacked: whether it was trained in a stack.
    """

    seconds: float
    stacked: bool = False


class Expected(NamedTuple):
    """What runs take one after the other.

    Attributes:
        seconds: of the runs of which something tells.
        runs: how many these are.
        unknown: how many others there are: no run like them is finished.
    """

    seconds: float
    runs: int
    unknown: int


def expected_seconds(
    todo: Iterable[tuple[Run, bool]], finished: Iterable[tuple[Run, Timing]]
) -> Expected:
    """Return what runs take one after the other: each the mean of the finished ones like it.

    They are alike that share data, networks, method, Trainer and the like, and whether they are in
    a stack; seeds may differ, and what is no size: weights, rates, temperatures, shares. Where none
    has as many epochs, those of others count by the epoch.

    Args:
        todo: runs to do, and whether in a stack.
        finished: runs with their times, also of other protocols.
    """
    taken: dict[Hashable, list[float]] = {}
    for run, timing in finished:
        kind, epochs = (timing.stacked, _kind(run.config)), _epochs(run.config)
        if timing.seconds:
            taken.setdefault((kind, epochs), []).append(timing.seconds)
            taken.setdefault(kind, []).append(timing.seconds / epochs)
    means = {kind: fmean(values) for kind, values in taken.items()}
    found, unknown = [], 0
    for run, stacked in todo:
        kind, epochs = (stacked, _kind(run.config)), _epochs(run.config)
        if kind in means:
            found.append(means.get((kind, epochs), means[kind] * epochs))
        else:
            unknown += 1
    return Expected(sum(found), len(found), unknown)


def _kind(config: Any) -> str:
    """Return a digest of what decides how long a run takes, but for its epochs."""
    trainer = {**(config.get("trainer") or {}), "max_epochs": None}
    return digest(_sizes({**config, "trainer": trainer}))


def _sizes(value: Any) -> Any:
    """Return what of a config is a class, name, switch or whole number; None if nothing is."""
    if isinstance(value, dict):
        kept = {name: _sizes(item) for name, item in value.items() if name not in _OF_NO_TIME}
        if kept.get("class_path"):
            kept["class_path"] = str(kept["class_path"]).rpartition(".")[2]
        return {name: item for name, item in kept.items() if item is not None} or None
    if isinstance(value, list):
        return [_sizes(item) for item in value]
    return None if isinstance(value, float) else value


def _epochs(config: Any) -> int:
    """Return the epochs of a run; 1 where it is not told how many."""
    epochs = (config.get("trainer") or {}).get("max_epochs")
    return epochs if isinstance(epochs, int) and epochs > 0 else 1
