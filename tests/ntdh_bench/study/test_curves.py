from __future__ import annotations

import pytest

from ntdh_bench.study.curves import dose_curves
from tests.ntdh_bench.study.rows import ALIGN, FACTORS, SCALE_TARGET, SHUFFLE, interventions
from tests.typed import some


def test_a_curve_a_data_set_and_intervention_real_ones_first() -> None:
    rows = interventions({SHUFFLE: -2.0, SCALE_TARGET: 1.0}, ["wiki", "bdgp"])
    rows += interventions({ALIGN: 1.0}, ["toy"], source="simulated")
    found = dose_curves(rows)
    assert [(curve.dataset, curve.source, curve.intervention) for curve in found] == [
        ("bdgp", "real", SHUFFLE), ("bdgp", "real", SCALE_TARGET), ("wiki", "real", SHUFFLE),
        ("wiki", "real", SCALE_TARGET), ("toy", "simulated", ALIGN),
    ]  # fmt: skip
    assert [point.dose for point in found[1].points] == [0.0, *FACTORS]
    first, *_, last = found[0].points
    assert some(last.gain).mean - some(first.gain).mean == pytest.approx(-2.0, abs=0.3)
    assert some(last.ncjsd).mean - some(first.ncjsd).mean == pytest.approx(0.2, abs=0.01)
    assert some(last.tcjsd).mean == pytest.approx(0.1, abs=0.01)
    assert some(last.teacher).mean == pytest.approx(70.0)
    assert some(last.gain).n == 10
    assert some(last.gain).low < some(last.gain).mean


def test_directions_are_averaged_by_seed_over_the_doses_that_both_have() -> None:
    rows = interventions({SHUFFLE: -2.0}, ["wiki"])
    rows += interventions({SHUFFLE: 2.0}, ["wiki"], 8, protocols=lambda name: ["wiki_reverse"])
    (curve,) = dose_curves([
        row for row in rows if row["protocol"] == "wiki" or row["dose"] != 1.0
    ])  # fmt: skip
    assert curve.protocols == ("wiki", "wiki_reverse")
    assert [point.dose for point in curve.points] == [0.0, 0.25, 0.5, 0.75]
    gains = [some(point.gain) for point in curve.points]
    assert {gain.n for gain in gains} == {8}
    assert gains[-1].mean - gains[0].mean == pytest.approx(0.0, abs=0.3)


def test_what_was_not_run_or_has_no_control_has_no_curve() -> None:
    assert dose_curves([]) == ()
    rows = interventions({SHUFFLE: -2.0}, ["wiki"])
    alone = [row for row in rows if row["arm"] == "kd"]
    for row in alone:
        row |= {"gain_over_equal_task": None, "ncjsd_before": None, "tcjsd_before": None}
    assert dose_curves(alone) == ()


def test_doses_are_compared_over_the_same_seeds() -> None:
    rows = interventions({SHUFFLE: -2.0}, ["wiki"])
    for row in rows:
        if row["seed"] >= 7 and row["gain_over_equal_task"] is not None:
            row["gain_over_equal_task"] += 0.5  # not of the seeds that have the largest dose
    rows = [row for row in rows if row["dose"] != 1.0 or row["seed"] < 7]
    (curve,) = dose_curves(rows)
    assert {some(point.gain).n for point in curve.points} == {7}
    first, *_, last = [some(point.gain).mean for point in curve.points]
    assert last - first == pytest.approx(-2.0, abs=0.3)
