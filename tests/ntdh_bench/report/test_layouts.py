from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest

from ntdh_bench.records import Row
from ntdh_bench.report.evidence import derived
from ntdh_bench.report.layouts import (
    LineSpec,
    PanelSpec,
    cell,
    estimate,
    grouped,
    panel,
    panel_table,
    select,
    varying,
)
from ntdh_bench.report.pairing import Controls
from tests.ntdh_bench.report.rows import make_row

SCORE = "last_test_score"


def rows_of(**given: Any) -> list[Row]:
    return [make_row(**given, seed=seed) for seed in range(3)]


def with_derived(rows: list[Row]) -> list[Row]:
    controls = Controls(rows)
    return [derived(row, controls) for row in rows]


def test_labels_say_what_the_scores_are() -> None:
    dense = with_derived(rows_of(dataset="semantickitti", gap=0.0))
    rows = with_derived(rows_of(gap=0.0))
    columns = (SCORE, "last_test_teacher_score")
    for found, name in ((rows, "accuracy"), (dense, "mIoU"), (rows + dense, "accuracy or mIoU")):
        (table,) = grouped(*columns)(found)
        assert [c.name for c in table.columns] == [f"{name} (%)", f"teacher's {name} (%)"]
        drawn = panel(PanelSpec("", "gap", "the {score}", SCORE, (LineSpec("KD"),)), found)
        assert drawn is not None
        assert (drawn.x_label, drawn.y_label) == (f"the {name}", f"{name} (%)")
    assert dense[0][SCORE] == dense[0]["last_test_miou"]
    assert dense[0]["last_test_accuracy"] is None


def test_select_matches_values_none_and_several() -> None:
    rows = [*rows_of(ratio=0.25, removes="random", mask="feature"), *rows_of(arm="without_kd")]
    assert len(select(rows, {"mask": None})) == 3
    assert len(select(rows, {"arm": ("kd", "without_kd")})) == 6
    assert select(rows, {"ratio": 0.5}) == []


def test_an_estimate_counts_seeds_not_runs() -> None:
    rows = [*rows_of(gap=0.0), *rows_of(gap=1.0)]
    found = estimate(rows, SCORE)
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx(fmean(row[SCORE] for row in rows))
    assert cell(rows, SCORE).mixed
    assert not cell(rows[:3], SCORE).mixed


def test_panels_have_a_curve_per_line_or_per_value() -> None:
    rows = with_derived(
        [
            *[
                row
                for gap in (0.0, 0.5)
                for row in rows_of(gap=gap, method="WeightedKL", alpha=2.0)
            ],
            *[
                row
                for gap in (0.0, 0.5)
                for row in rows_of(gap=gap, method="WeightedKL", alpha=1.0)
            ],
            *rows_of(gap=0.0, arm="without_kd"),
        ]
    )
    spec = PanelSpec(
        "title",
        "gap",
        "gap",
        SCORE,
        (LineSpec("α = {}", {"arm": "kd"}, split="alpha"),),
        (LineSpec("w/o KD", {"arm": "without_kd"}), LineSpec("none", {"arm": "matched"})),
    )
    drawn = panel(spec, rows)
    assert drawn is not None
    assert [curve.label for curve in drawn.curves] == ["α = 1", "α = 2"]
    assert [curve.x for curve in drawn.curves] == [(0.0, 0.5), (0.0, 0.5)]
    assert [level.label for level in drawn.levels] == ["w/o KD"]
    expected = fmean(row[SCORE] for row in rows if row["alpha"] == 2.0 and row["gap"] == 0.5)
    assert drawn.curves[1].y[1].mean == pytest.approx(expected)
    assert drawn.y_label == "accuracy (%)"
    assert panel(spec, []) is None


def test_a_panels_table_has_its_numbers() -> None:
    rows = with_derived(rows_of(ratio=0.1, removes="random") + rows_of())
    spec = PanelSpec(
        "",
        "ratio",
        "share",
        SCORE,
        (LineSpec("R", {"removes": "random"}),),
        (LineSpec("no mask", {"ratio": None}),),
    )
    drawn = panel(spec, rows)
    assert drawn is not None
    table = panel_table(drawn)
    assert [line.labels for line in table.lines] == [("0.1",), ("no mask",)]
    first = table.lines[0].cells[0]
    assert first is not None
    assert first.estimate == estimate(rows[:3], SCORE)


def test_scatter_has_a_point_per_run() -> None:
    rows = with_derived(rows_of(teacher_noise=1.0) + rows_of(teacher_noise=2.0))
    column = "last_test_teacher_score"
    spec = PanelSpec("", column, "x", SCORE, (LineSpec("runs"),), scatter=True)
    drawn = panel(spec, rows)
    assert drawn is not None
    assert len(drawn.curves[0].x) == 6
    assert drawn.curves[0].x[0] == pytest.approx(100 * rows[0][column])


def test_grouped_has_a_line_per_setting_that_varies() -> None:
    rows = with_derived(
        [
            *rows_of(),
            *rows_of(mask="feature", removes="random", ratio=0.5, layer="hidden1"),
            *rows_of(arm="without_kd"),
        ]
    )
    assert varying(rows) == ("arm", "ratio", "removes")  # the others go with these
    (table,) = grouped(SCORE, "gain", "last_test_kl")(rows)
    assert len(table.lines) == 3
    assert table.sortable
    labels = {line.labels for line in table.lines}
    assert labels == {
        ("KD", "–", "no mask"),
        ("KD", "0.5", "R, random"),
        ("w/o KD", "–", "no mask"),
    }
    without = next(line for line in table.lines if line.labels[0] == "w/o KD")
    assert without.cells[1] is None  # no gain over itself
    assert grouped(SCORE)([]) == []
