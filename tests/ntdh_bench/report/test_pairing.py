from __future__ import annotations

from typing import Any

import pytest

from ntdh_bench.records.columns import CONTROLS, Row
from ntdh_bench.report.pairing import Controls, split
from tests.ntdh_bench.report.rows import bare_row

TRUE = {"mask": "feature", "removes": "most_divergent", "ratio": 0.25, "layer": "hidden1"}


def row(arm: str, accuracy: float | None = 0.7, ncjsd: float = 0.2, **given: Any) -> Row:
    known = {
        "arm": arm,
        "baseline_hash": "seed 0",
        "protocol": "mnist",
        "source": "real",
        "teacher_hash": "teacher",
        "last_val_score": 0.6,
        "last_test_score": accuracy,
        "last_val_ncjsd": ncjsd,
        "last_test_ncjsd": 9.0,
    }
    return bare_row(**{**known, **given})


def test_gain_and_divergence_come_from_the_control_with_the_same_mask() -> None:
    masked, unmasked = row("kd", 0.75, **TRUE), row("kd", 0.72)
    controls = Controls(
        [
            row("without_kd", 0.70, 0.20),
            row("without_kd", 0.70, 0.15, **TRUE),
            row("without_kd", 0.70, 0.33, **{**TRUE, "ratio": 0.5}),
            row("matched", 0.99, 0.99, task_weight=2.0),
            masked,
            unmasked,
        ]
    )
    assert controls.gain(masked) == pytest.approx(0.05)
    assert controls.gain(unmasked) == pytest.approx(0.02)
    assert controls.before(masked) == 0.15
    assert controls.before(unmasked) == 0.20


@pytest.mark.parametrize(
    "other",
    [
        {"removes": "random"},
        {"ratio": 0.5},
        {"layer": "input"},
        {"teacher_hash": "another"},
        {"retrain": True},
    ],
)
def test_a_control_of_another_teacher_or_mask_gives_the_gain_but_no_divergence(
    other: dict[str, Any],
) -> None:
    controls = Controls([row("without_kd", 0.70, **{**TRUE, **other})])
    run = row("kd", 0.75, **TRUE)
    assert controls.before(run) is None
    assert controls.control(run) is None
    assert controls.gain(run) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "other",
    [
        {"baseline_hash": "seed 1", "seed": 1},
        {"source": "simulated"},
        {"protocol": "mnist_short"},
        {"data_fingerprint": "other noise", "experiment": "another"},
        {"baseline_hash": "wide", "cell": {"arm": "without_kd", "width": "64"}},
        {"baseline_hash": "wide", "cell": {}},
    ],
)
def test_another_student_is_no_control(other: dict[str, Any]) -> None:
    controls = Controls([{**row("without_kd", 0.70), **other}])
    assert controls.gain(row("kd")) is None
    assert controls.before(row("kd")) is None


def beside(method: str, **given: Any) -> Row:
    """A row of an experiment with the axis ``method``."""
    arm = method if method in CONTROLS else "kd"
    made = row(arm, experiment="methods", seed=3, task_weight=1.0, distill_weight=1.0)
    return {**made, "cell": {"method": method, "mask": "none"}, **given}


def test_a_module_of_its_own_is_paired_with_the_control_that_lies_beside_it() -> None:
    """Its settings, or the data that its teacher sees, are not those of a student without KD."""
    own = beside("C2KD", baseline_hash="own", task_weight=None, distill_weight=None)
    both = beside("KD, both", last_test_score=0.69, data_fingerprint="both modalities")
    control = beside("without_kd", last_test_score=0.60)
    matched = beside("matched", last_test_score=0.65, task_weight=2.0)
    controls = Controls([own, control, matched])
    for run, score in ((own, 0.70), (both, 0.69)):
        assert controls.gain(run) == pytest.approx(score - 0.60)
        assert controls.gain(run, over="matched") == pytest.approx(score - 0.65)
        assert controls.before(run) is None
    for other in ({"seed": 4}, {"experiment": "others"}, {"dataset": "wiki"}):
        assert Controls([{**control, **other}]).student(own) is None
    wide = {**control, "baseline_hash": "wide", "cell": {"method": "wide", "mask": "none"}}
    assert Controls([control, wide]).student(own) is None  # which of the two?
    assert Controls([wide]).student(own) is wide
    same = beside("KD")
    assert Controls([wide, control]).student(same) is control


def test_matched_has_the_sum_of_the_weights() -> None:
    run = beside("KD", last_test_score=0.72, distill_weight=0.5)
    sums = {total: beside("matched", task_weight=total) for total in (1.5, 2.0)}
    controls = Controls([beside("without_kd"), *sums.values()])
    assert controls.student(run, "matched") is sums[1.5]
    assert controls.student(beside("KD"), "matched") is sums[2.0]
    assert controls.student(beside("KD", distill_weight=9.0), "matched") is None
    assert controls.gain(beside("KD", distill_weight=9.0), over="matched") is None


def test_the_equal_task_control_has_the_runs_own_task_weight() -> None:
    half = beside("KD", last_test_score=0.72, task_weight=0.5, distill_weight=0.5)
    without = beside("without_kd", last_test_score=0.70)
    equal = beside("equal_task", last_test_score=0.65, task_weight=0.5)
    other = beside("equal_task", last_test_score=0.60, task_weight=0.9)
    controls = Controls([without, equal, other])
    assert controls.gain(half) == pytest.approx(0.02)
    assert controls.gain(half, over="equal_task") == pytest.approx(0.07)
    assert controls.student(half, "matched") is without  # 0.5 and 0.5 are 1
    # Of weight 1 the two controls are one; where it was not run, no other one stands in for it.
    assert controls.student(beside("KD"), "equal_task") is without
    assert Controls([without, other]).student(half, "equal_task") is None
    assert controls.student(beside("KD", task_weight=0.0), "equal_task") is None
    own = beside("C2KD", baseline_hash="own", task_weight=None)
    assert controls.student(own, "equal_task") is without


def test_weights_are_equal_but_for_their_rounding() -> None:
    """A run of lambda 0.9, beside controls whose weights are written out."""
    run = beside("KD", task_weight=1 - 0.9, distill_weight=0.2, last_test_score=0.72)
    equal = beside("equal_task", task_weight=0.1, last_test_score=0.65)
    matched = beside("equal_task", task_weight=0.3)
    controls = Controls([equal, matched])
    assert controls.gain(run, over="equal_task") == pytest.approx(0.07)
    assert controls.student(run, "matched") is matched
    assert Controls([equal, {**equal, "task_weight": 1 - 0.9}]).student(run, "equal_task") is equal


def test_without_validation_data_the_test_split_serves_and_is_named() -> None:
    run = row("kd", last_val_score=None)
    control = row("without_kd", last_val_score=None, last_test_ncjsd=0.3)
    assert split(run) == "test"
    assert split(row("kd")) == "val"
    assert Controls([control]).before(run) == 0.3


def test_what_was_not_measured_is_none() -> None:
    controls = Controls([row("without_kd", None, last_val_tcjsd=None)])
    assert controls.gain(row("kd")) is None
    assert controls.before(row("kd"), "tcjsd") is None
    assert controls.before(row("kd"), "ncjsd") == 0.2
