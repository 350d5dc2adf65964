from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ntdh_bench.records import COLUMNS, Row
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
from ntdh_bench.report.pairing import scored

GAPS = (0.0, 0.2, 0.4, 1.0)


def row(seed: int, accuracy: float | None, **given: Any) -> Row:
    return {**scored(dict.fromkeys(COLUMNS)), "seed": seed, "last_test_score": accuracy, **given}


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


def test_runs_alike_are_averaged() -> None:
    rows = [row(0, value, gap=0.0, layer=layer) for layer, value in (("a", 0.2), ("b", 0.6))]
    assert evaluate(cell(gap=0.0), rows)[0] == pytest.approx(40)


def test_a_column_is_taken_as_it_is() -> None:
    rows = [row(0, 0.5, last_test_ncjsd=0.25), row(1, 0.5)]
    assert evaluate(cell(column("last_test_ncjsd")), rows) == {0: 0.25}
    assert evaluate(cell(SCORE), rows) == {0: 50.0, 1: 50.0}


def test_nothing_fits() -> None:
    assert evaluate(minus(cell(arm="kd"), cell(arm="x")), [row(0, 0.5, arm="kd")]) == {}
