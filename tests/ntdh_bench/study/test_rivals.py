from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ntdh_bench.records.columns import Row
from ntdh_bench.study.plugin import make_study
from ntdh_bench.study.results import Rival
from ntdh_bench.study.rivals import rivals
from tests.ntdh_bench.study.rows import SETS, random_masks
from tests.typed import some

LABEL = 1.2  # nats that the student without KD has of the label


def measured(slopes: tuple[float, float, float] = (0.0, 0.0, 0.0), **given: Any) -> list[Row]:
    """Random masks whose other measures follow, run by run, from draws of their own."""
    rows = random_masks(slopes, **given)
    random = np.random.default_rng(4)
    for row in rows:
        shared, whole, features, logits = random.normal(size=4)
        if row["arm"] == "kd":
            row |= {
                "mi_teacher_student_before": 0.8 + 0.05 * shared,
                "mi_student_label_before": LABEL,
                "mi_teacher_label_before": 1.5 + 0.05 * whole,
                "cka_before": 0.6 + 0.05 * features,
                "cka_logits_before": 0.5 + 0.05 * logits,
            }
    return rows


def gaining(rows: list[Row], points: Callable[[Row], float]) -> list[Row]:
    """Runs that gain what a rival says."""
    for row in rows:
        if row["arm"] == "kd":
            row["gain_over_equal_task"] += 0.01 * points(row)
    return rows


def by_name(rows: list[Row]) -> dict[str, Rival]:
    return {found.name.partition(" (")[0]: found for found in rivals(rows)}


def clear(found: Rival) -> int:
    """The sign of a mean whose interval lies to one side of 0, else 0."""
    mean = some(found.summary)
    return int(mean.low > 0) - int(mean.high < 0)


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("mi_teacher_student_before", {"Complementary information", "Modality focusing"}),
        ("mi_teacher_label_before", {"Modality focusing"}),
        ("cka_before", {"Alignment of features"}),
        ("cka_logits_before", {"Alignment of labels"}),
    ],
)
def test_the_theory_is_found_that_tells_the_gain(column: str, names: set[str]) -> None:
    rows = measured()
    sign = -1 if "teacher_label" in column else 1
    found = by_name(gaining(rows, lambda row: sign * 20 * row[column]))
    assert {name for name, rival in found.items() if clear(rival)} == names
    assert all(clear(found[name]) == found[name].sign for name in names)


def test_the_slope_is_the_mean_of_the_seeds_slopes_in_standard_deviations() -> None:
    rows = gaining(measured(), lambda row: 20 * row["cka_before"])
    found = by_name(rows)["Alignment of features"]
    assert [of.dataset for of in found.sets] == list(SETS)
    for of in found.sets:
        own = [row for row in rows if row["dataset"] == of.dataset and row["arm"] == "kd"]
        masks = sorted({row["cell"]["mask"] for row in own} - {"none"})
        predictor, gain = (
            np.array([[row[name] for row in own if row["cell"]["mask"] == mask] for mask in masks])
            for name in ("cka_before", "gain_over_equal_task")
        )
        # what is left of a run, less what its mask and its seed share
        predictor, gain = (
            x - x.mean(0) - x.mean(1, keepdims=True) + x.mean() for x in (predictor, 100 * gain)
        )
        slopes = [np.polyfit(x, y, 1)[0] for x, y in zip(predictor.T, gain.T, strict=True)]
        assert of.value == pytest.approx(np.mean(slopes) * predictor.std())
        assert some(of.effect).cells == len(masks)
    mean = some(found.summary)
    assert mean.value == pytest.approx(np.mean([of.value for of in found.sets]))


def test_divergence_and_teacher_stand_beside_them() -> None:
    found = by_name(measured((-0.6, 0.0, 0.6)))
    assert list(found) == [
        "NTDH", "Complementary information", "Modality focusing", "Alignment of features",
        "Alignment of labels", "A better teacher",
    ]  # fmt: skip
    assert (clear(found["NTDH"]), clear(found["A better teacher"])) == (-1, 1)
    assert clear(found["Alignment of features"]) == 0


def test_sets_that_fail_a_gate_do_not_count() -> None:
    rows = measured(sets=SETS[:3]) + measured(sets=SETS[3:], late_gain=0.1)
    found = by_name(rows)["Alignment of features"]
    assert [of.counts for of in found.sets] == [True] * 3 + [False] * 3
    assert some(found.summary).n == 3


def test_records_without_these_measures_leave_the_others() -> None:
    rows = random_masks((-0.6, 0.0, 0.0))
    assert list(by_name(rows)) == ["NTDH", "A better teacher"]
    assert rivals([]) == ()
    simulated = measured(source="simulated")
    assert rivals(simulated) == ()


def test_a_teacher_that_tells_nothing_of_the_label_has_no_share() -> None:
    rows = measured()
    for row in rows:
        row["mi_teacher_label_before"] = 0.0
    assert "Modality focusing" not in by_name(rows)
    assert "Complementary information" in by_name(rows)


def test_the_study_holds_them() -> None:
    assert make_study(measured(seeds=5)).rivals[0].name == "NTDH"
