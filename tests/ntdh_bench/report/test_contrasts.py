from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ntdh_bench.cache import digest
from ntdh_bench.records.columns import Row
from ntdh_bench.report.cells import MixedRuns
from ntdh_bench.report.contrasts import (
    SCORE,
    average,
    cell,
    column,
    evaluate,
    minus,
    plus,
    times,
    trend,
)
from tests.ntdh_bench.report.rows import bare_row

GAPS = (0.0, 0.2, 0.4, 1.0)


def row(seed: int, accuracy: float | None, **given: Any) -> Row:
    known = bare_row(seed=seed, last_test_score=accuracy, **given)
    return {**known, "run": digest(known)}


def test_a_difference_is_paired_by_seed_in_points() -> None:
    rows = [row(s, 0.5 + s / 10, arm="kd") for s in (2, 0, 1)]
    rows += [row(s, 0.4, arm="without_kd") for s in (0, 1, 5)]
    found = evaluate(minus(cell(arm="kd"), cell(arm="without_kd")), rows)
    assert found == pytest.approx({0: 10.0, 1: 20.0})
    assert list(found) == [0, 1]


def test_a_seed_counts_only_with_all_cells() -> None:
    contrast = trend(lambda gap: cell(gap=gap), GAPS)
    rows = [row(seed, gap, gap=gap) for seed in (0, 1) for gap in GAPS]
    rows = [r for r in rows if (r["seed"], r["gap"]) != (1, 0.4)]
    rows.append(row(2, None, gap=0.0))
    assert list(evaluate(contrast, rows)) == [0]


def test_a_trend_is_the_change_along_the_fitted_line() -> None:
    values = [0.3, 0.9, 0.2, 0.7]
    rows = [row(0, value, gap=gap) for gap, value in zip(GAPS, values, strict=True)]
    slope = np.polyfit([0, 1, 2, 3], [100 * value for value in values], 1)[0]
    assert evaluate(trend(lambda gap: cell(gap=gap), GAPS), rows)[0] == pytest.approx(3 * slope)


def test_contrasts_combine() -> None:
    rows = [row(0, 0.1 * n, removes=name) for n, name in enumerate("abc", start=1)]
    a, b, c = (cell(removes=name) for name in "abc")
    assert evaluate(plus(a, times(2.0, b)), rows)[0] == pytest.approx(50)
    assert evaluate(average([a, b, c]), rows)[0] == pytest.approx(20)
    assert evaluate(minus(c, average([a, b])), rows)[0] == pytest.approx(15)


def test_like_is_compared_with_like() -> None:
    """Gap 1 has only one side: its accuracy must not enter the difference."""
    rows = [row(0, 0.5, gap=0.0, arm="kd"), row(0, 0.4, gap=0.0, arm="without_kd")]
    rows += [row(0, 0.9, gap=1.0, arm="kd")]
    assert evaluate(minus(cell(arm="kd"), cell(arm="without_kd")), rows) == pytest.approx({0: 10})


def test_several_comparisons_of_a_seed_are_averaged_or_reduced() -> None:
    rows = [row(0, value, gap=gap) for gap, value in zip(GAPS, (0.4, 0.1, 0.3, 0.2), strict=True)]
    assert evaluate(cell(), rows)[0] == pytest.approx(25)
    assert evaluate(cell(), rows, min)[0] == pytest.approx(10)


def test_runs_that_nothing_tells_apart_are_not_averaged() -> None:
    rows = [row(0, 0.2, last_test_kl=1.0), row(0, 0.6)]
    with pytest.raises(MixedRuns, match=f"runs {rows[0]['run']} and {rows[1]['run']} of seed 0"):
        evaluate(cell(), rows)


def own(seed: int, accuracy: float, **cell: str) -> Row:
    """A row of a user's experiment, whose axes no column knows."""
    arm = "without_kd" if cell["method"] == "without_kd" else "kd"
    return {**row(seed, accuracy, arm=arm, layer=str(cell)), "cell": cell}


def test_axes_that_no_column_knows_are_compared_like_with_like_and_may_be_named() -> None:
    rows = [
        own(0, 0.5 + lr / 10 - t / 100, method="KD", temperature=str(t), lr=str(lr))
        for t in (1, 4)
        for lr in (1, 2)
    ]
    rows += [own(0, 0.5, method="without_kd", lr=lr) for lr in ("1", "2")]
    hot, cold = cell(temperature="4"), cell(temperature="1")
    assert evaluate(minus(hot, cold), rows) == pytest.approx({0: -3.0})
    assert evaluate(hot, rows, min) == pytest.approx({0: 56.0})
    gain = minus(cell(arm="kd", temperature="4"), cell(arm="without_kd"))
    assert evaluate(gain, rows, max)[0] == pytest.approx(16)
    at_2 = minus(cell(arm="kd", temperature="4", lr="2"), cell(arm="without_kd", lr="2"))
    assert evaluate(at_2, rows)[0] == pytest.approx(16)


def test_an_axis_may_be_told_by_other_columns() -> None:
    """``mask: {T, none}`` is mentioned with ``removes``; ``gap`` is not, whatever was run."""
    rows = [
        {**row(0, score, removes=removes, gap=gap), "cell": {"mask": mask, "gap": str(gap)}}
        for score, removes, mask, gap in (
            (0.5, "most_divergent", "T", 0.0), (0.4, None, "none", 0.0), (0.9, None, "none", 1.0),
        )
    ]  # fmt: skip
    effect = minus(cell(removes="most_divergent"), cell(removes=None))
    assert evaluate(effect, rows) == pytest.approx({0: 10.0})
    assert evaluate(effect, [rows[0], rows[2]]) == {}


def test_a_column_is_taken_as_it_is() -> None:
    rows = [row(0, 0.5, last_test_ncjsd=0.25), row(1, 0.5)]
    assert evaluate(cell(column("last_test_ncjsd")), rows) == {0: 0.25}
    assert evaluate(cell(SCORE), rows) == {0: 50.0, 1: 50.0}


def test_nothing_fits() -> None:
    assert evaluate(minus(cell(arm="kd"), cell(arm="x")), [row(0, 0.5, arm="kd")]) == {}
