"""Verdicts on the family of primary claims, and why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ntdh_bench.report import effects
from ntdh_bench.report.effects import INCONCLUSIVE, MARGIN, MIN_SETS, NOT_RUN, OUT_OF_SCOPE, Sides
from ntdh_bench.study.results import (
    ASSUMPTIONS,
    COUNTING,
    MIN_SEEDS,
    Decision,
    Part,
    SetEffect,
    Sign,
)

# Of a claim that is not tested: the family is as large as it was planned.
_NOTHING = Sides(1.0, 1.0, 1.0)


class Tested(NamedTuple):
    """A claim's sign, and its parts."""

    sign: Sign
    parts: tuple[Part, ...]


def verdicts(family: Sequence[Tested], within: bool = False) -> list[Decision]:
    """Return the verdicts on all claims of a family, whether they were run or not.

    Args:
        family: its claims.
        within: judge by the data sets that lie within both assumptions alone.
    """
    undecided = [_undecided(claim.parts, within) for claim in family]
    sides = [
        _NOTHING if known else _sides(claim, within)
        for claim, known in zip(family, undecided, strict=True)
    ]
    found = effects.decide(sides)
    return [
        known or Decision(new.verdict, _n(claim.parts, within), new.p, new.p_holm)
        for claim, known, new in zip(family, undecided, found, strict=True)
    ]


def _sides(claim: Tested, within: bool) -> Sides:
    means = [part.within if within else part.summary for part in claim.parts]
    # Without a mean, of data sets that are all alike, nothing is said: of no part, so of no claim.
    return effects.every(
        [effects.sides(mean, MARGIN, claim.sign) if mean else _NOTHING for mean in means]
    )


def _undecided(parts: Sequence[Part], within: bool) -> Decision | None:
    """Return that nothing is decided, and why; None if there are data sets enough."""
    n = _n(parts, within)
    if n >= MIN_SETS:
        return None
    fewest = min(parts, key=lambda part: len(_counted(part, within)))
    if not fewest.sets:
        return Decision(NOT_RUN, 0, reason=NOT_RUN)
    reason = f"{_count(n)}, a verdict needs {MIN_SETS}{_left_out(fewest.sets, within)}"
    enough = sum(found.effect is not None for found in fewest.sets) >= MIN_SETS
    return Decision(OUT_OF_SCOPE if enough and not n else INCONCLUSIVE, n, reason=reason)


def _count(n: int) -> str:
    return "1 data set counts" if n == 1 else f"{n or 'no'} data sets count"


def _left_out(run: Sequence[SetEffect], within: bool) -> str:
    """Return how many of the data sets that were run fail what, in words."""
    others = [found for found in run if not (found.within if within else found.counts)]
    names = (*COUNTING, *ASSUMPTIONS) if within else COUNTING
    failed = Counter(
        gate.name for found in others for gate in found.gates
        if gate.name in names and not gate.passed
    )  # fmt: skip
    failed["seeds"] = sum(found.seeds < MIN_SEEDS for found in others)
    said = [f"{name} {count}" for name, count in failed.items() if count]
    return f" (not passed: {', '.join(said)})" if said else ""


def _n(parts: Sequence[Part], within: bool) -> int:
    return min(len(_counted(part, within)) for part in parts)


def _counted(part: Part, within: bool) -> list[SetEffect]:
    return [found for found in part.sets if (found.within if within else found.counts)]
