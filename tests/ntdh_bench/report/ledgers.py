"""Made-up rows with given scores, and what the ledger of the shipped papers says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ntdh_bench.paper import printed as paper
from ntdh_bench.paper.plugin import NTDH
from ntdh_bench.records.columns import Row
from ntdh_bench.report.claims import Result, ledger
from ntdh_bench.report.hypothesis import Hypothesis
from tests.ntdh_bench.report.rows import bare_row

NOTHING = Hypothesis([], [], [])
PAPERS = {"ntdh": NTDH}
NOISE = (0.001, -0.002, 0.0005, 0.0015, -0.001, 0.0003)


def row(experiment: str, seed: int, accuracy: float = 0.5, **given: Any) -> Row:
    known = {
        "measure": "accuracy",
        "experiment": experiment,
        "protocol": "mnist",
        "source": "real",
        "dataset": "mnist",
        "arm": "kd",
        "unimodal": False,
        "seed": seed,
        "last_test_score": accuracy,
    }
    return bare_row(**{**known, **given})


def masked_rows(
    t: float, r: float, f: float, seeds: int = 6, ratio: float = 0.25, method: str = "DKD",
    **given: Any,
) -> list[Row]:  # fmt: skip
    """Table II, one method: accuracies of T, R and F with noise that differs between them."""
    levels = zip(paper.REMOVES.values(), (t, r, f), (1, -1, 2), strict=True)
    return [
        row("table2", seed, level + sign * NOISE[seed], method=method, removes=removes,
            ratio=ratio, mask="feature", **given)
        for removes, level, sign in levels
        for seed in range(seeds)
    ]  # fmt: skip


def gain_rows(gain: float, seeds: int = 6, method: str = "DKD") -> list[Row]:
    rows = [row("table2", s, 0.69 + gain + NOISE[s], method=method) for s in range(seeds)]
    return rows + [row("table2", s, 0.69, arm="without_kd") for s in range(seeds)]


def find(rows: Sequence[Row], id: str, **where: str) -> Result:
    found = [
        result
        for result in ledger(rows, PAPERS, NOTHING)
        if result.id == id and all(getattr(result, k) == v for k, v in where.items())
    ]
    assert len(found) == 1, found
    return found[0]


ORDER = "table2.order.DKD.0.25"
