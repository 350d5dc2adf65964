from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ntdh_bench.records.columns import Row
from ntdh_bench.study.sensitivity import sensitivities
from tests.ntdh_bench.study.rows import SHUFFLE, pair, with_parts
from tests.typed import some


def runs(
    effects: dict[str, float], sets: tuple[str, ...] = ("wiki", "bdgp"), **given: Any
) -> list[Row]:
    """Runs of specifications, with what shuffling changes in points."""
    random = np.random.default_rng(0)
    found: list[Row] = []
    for dataset in sets:
        for seed in range(5):
            for name, effect in effects.items():
                for intervention in (None, SHUFFLE):
                    row, _ = pair(
                        {"specification": name, "student": "distilled",
                         "intervention": "shuffle_nontarget" if intervention else "none"},
                        0.01 * effect * bool(intervention) + random.normal(0, 0.0005), 0.4, 0.1,
                        **{"experiment": "sensitivity", "dataset": dataset, "protocol": dataset,
                           "seed": seed, "intervention": intervention,
                           "dose": 1.0 if intervention else None, **given},
                    )  # fmt: skip
                    row["best_test_score"] = 0.5 + 0.01 * (effect > 0) * bool(intervention)
                    found.append(row)
    return with_parts(found)


def test_the_share_counts_signs_that_are_those_of_the_main_specification() -> None:
    rows = runs({"main": -2.0, "T 1": -1.0, "T 4": 0.5, "authors": -3.0}, task_weight=0.5)
    (found,) = sensitivities(rows)
    assert some(found.primary) == pytest.approx(-2.0, abs=0.1)
    told = {s.name: (s.sets, s.agrees) for s in found.specifications}
    assert told == {
        "T 1": (2, True), "T 4": (2, False), "authors": (2, True),
        "main, best epoch on validation data": (2, False),  # nothing: no sign
    }  # fmt: skip
    assert found.agreement.startswith("2 of 4 specifications agree in sign")
    assert found.specifications[1].value == pytest.approx(0.5, abs=0.1)


def test_signs_are_compared_on_the_same_data_sets() -> None:
    rows = runs({"main": -2.0}) + runs({"main": 9.0, "T 1": 1.0}, ("houston",))
    (found,) = sensitivities(rows)
    assert {s.name: s.agrees for s in found.specifications}["T 1"] is True


def test_partial_runs_and_none() -> None:
    assert sensitivities([]) == ()
    assert sensitivities(runs({"main": -1.0, "T 1": -1.0}, source="simulated")) == ()
    rows = runs({"main": -1.0, "T 1": -1.0})
    untouched = [row for row in rows if not row["intervention"]]
    assert sensitivities(untouched) == ()
    (found,) = sensitivities([row for row in rows if row["cell"]["specification"] != "main"])
    assert (found.primary, found.agreement) == (None, "none can be told")
    assert [s.agrees for s in found.specifications] == [None]
