"""What the tests of the primary claims can see, given how effects vary over data sets."""

from __future__ import annotations

from collections.abc import Sequence

from ntdh_bench.report.effects import LEVEL, Pooled
from ntdh_bench.report.statistics import t_quantile
from ntdh_bench.study.results import Power, Primary

POWER = 0.8


def powers(claims: Sequence[Primary]) -> tuple[Power, ...]:
    """Return the smallest effect that each part of each claim would find with 80 % power.

    At the first step of Holm's procedure over both sides of all claims, by the standard error that
    was found: that of other data sets will differ.
    """
    level = (1 - LEVEL) / 2 / len(claims)
    return tuple(
        Power(
            claim.id if not part.name else f"{claim.id}, {part.name}", claim.unit,
            sum(found.counts for found in part.sets), _smallest(part.summary, level),
        )
        for claim in claims
        for part in claim.parts
    )  # fmt: skip


def _smallest(found: Pooled | None, level: float) -> float | None:
    """Return the effect, as a multiple of the error, that exceeds the limit so often.

    By bisection on the noncentral t distribution.
    """
    from scipy.special import nctdtr

    if found is None:
        return None
    freedom = found.n - 1
    limit = t_quantile(1 - level, freedom)
    low, high = 0.0, 2 * limit + 10
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - nctdtr(freedom, middle, limit) < POWER else (low, middle)
    return found.error * high
