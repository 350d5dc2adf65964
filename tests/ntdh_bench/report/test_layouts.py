from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest

from ntdh_bench.records.columns import Row
from ntdh_bench.report.cells import MixedRuns, select
from ntdh_bench.report.figures import draw_panel
from ntdh_bench.report.layouts import (
    LineSpec,
    PanelSpec,
    cell_panels,
    estimate,
    grouped,
    panel,
    panel_table,
    table_cell,
)
from tests.ntdh_bench.report.rows import make_row, with_derived
from tests.typed import some

SCORE = "last_test_score"


def rows_of(**given: Any) -> list[Row]:
    return [make_row(**given, seed=seed) for seed in range(3)]


def test_labels_say_what_the_scores_are() -> None:
    dense = with_derived(rows_of(dataset="semantickitti", gap=1.0))
    rows = with_derived(rows_of(gap=0.0))
    columns = (SCORE, "last_test_teacher_score")
    for found, name in ((rows, "accuracy"), (dense, "mIoU"), (rows + dense, "accuracy or mIoU")):
        (table,) = grouped(*columns, by=("dataset",))(found)
        assert [c.name for c in table.columns] == [f"{name} (%)", f"teacher's {name} (%)"]
        drawn = some(panel(PanelSpec("", "gap", "the {score}", SCORE, (LineSpec("KD"),)), found))
        assert (drawn.x_label, drawn.y_label) == (f"the {name}", f"{name} (%)")
    assert dense[0][SCORE] == dense[0]["last_test_miou"]
    assert dense[0]["last_test_accuracy"] is None


def test_select_matches_values_none_and_several() -> None:
    rows = [*rows_of(ratio=0.25, removes="random", mask="feature"), *rows_of(arm="without_kd")]
    assert len(select(rows, {"mask": None})) == 3
    assert len(select(rows, {"arm": ("kd", "without_kd")})) == 6
    assert select(rows, {"ratio": 0.5}) == []


def test_an_estimate_counts_seeds_and_averages_no_two_runs_of_one() -> None:
    rows = rows_of(gap=0.0)
    found = some(estimate([*rows, *rows], SCORE))  # the same runs, of two experiments
    assert found.n == 3
    assert found.mean == pytest.approx(fmean(row[SCORE] for row in rows))
    with pytest.raises(MixedRuns, match=r"of seed 0 stand in one place, and differ in .*gap"):
        table_cell([*rows, *rows_of(gap=1.0)], SCORE)


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
    drawn = some(panel(spec, rows))
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
    drawn = some(panel(spec, rows))
    table = panel_table(drawn)
    assert [line.labels for line in table.lines] == [("0.1",), ("no mask",)]
    first = some(table.lines[0].cells[0])
    assert first.estimate == estimate(rows[:3], SCORE)


def test_scatter_has_a_point_per_run() -> None:
    rows = with_derived(rows_of(teacher_noise=1.0) + rows_of(teacher_noise=2.0))
    column = "last_test_teacher_score"
    spec = PanelSpec("", column, "x", SCORE, (LineSpec("runs"),), scatter=True)
    drawn = some(panel(spec, rows))
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
    by = ("arm", "method", "mask", "ratio", "removes")  # removes says what mask and ratio do
    (table,) = grouped(SCORE, "gain", "last_test_kl", by=by)(rows)
    assert len(table.lines) == 3
    assert table.sortable
    labels = {line.labels for line in table.lines}
    assert labels == {
        ("KD", "no mask"),
        ("KD", "R, random"),
        ("w/o KD", "no mask"),
    }
    without = next(line for line in table.lines if line.labels[0] == "w/o KD")
    assert without.cells[1] is None  # no gain over itself
    assert grouped(SCORE)([]) == []


TEMPERATURE, LR = "model.init_args.distiller.init_args.temperature", "model.init_args.lr"


def crossed(**measured: float) -> list[Row]:
    """An experiment of axes and metrics that nothing here knows; scores tell the cells apart."""
    rows = []
    for number, (method, hot, rate) in enumerate(
        [("KD", t, lr) for t in ("10", "2") for lr in ("0.1", "0.03", "1e-3")]
        + [("none", None, lr) for lr in ("0.1", "0.03", "1e-3")]
    ):
        cell_of = {"method": method, TEMPERATURE: hot, LR: rate}
        for seed in range(2):
            row = make_row(experiment="mine", protocol="p", seed=seed, layer=str(cell_of))
            named = {axis: label for axis, label in cell_of.items() if label}
            score = {SCORE: (10 * number + seed) / 100}
            own = {f"last_test_{name}": value + number for name, value in measured.items()}
            rows.append({**row, "cell": named, **score, **own})
    return rows


def test_an_own_experiment_has_a_line_per_cell_and_columns_of_its_own_metrics() -> None:
    rows = crossed(brier_score=0.25, point_miou=0.0, iou_road=0.0)
    table, classes = grouped(SCORE, "last_test_kl")(rows)
    assert table.keys == ("method", "temperature", "lr")
    assert [column.name for column in table.columns] == [
        "accuracy (%)", "KL (nats)", "brier score", "point miou (%)",
    ]  # fmt: skip
    assert [column.name for column in classes.columns] == ["iou road (%)"]
    assert [line.labels for line in table.lines][:2] == [("KD", "10", "0.1"), ("KD", "10", "0.03")]
    assert table.lines[-1].labels == ("none", "–", "1e-3")
    texts = [table.text(line.cells[0]) for line in table.lines]
    assert [text.split()[0] for text in texts] == [f"{10 * n}.5" for n in range(9)]
    assert [table.text(line.cells[2]) for line in table.lines][:2] == [
        "0.2500 ± 0.0000", "1.2500 ± 0.0000",
    ]  # fmt: skip
    with_kl = [{**row, "cell": {LR: "1", "x.lr": "2"}} for row in rows[:1]]
    two, _ = grouped(SCORE)([*rows[2:4], *with_kl])
    assert two.keys == ("method", "temperature", "model.lr", "x.lr")


def test_an_own_experiment_has_a_panel_for_each_metric_and_combination() -> None:
    rows = crossed(brier_score=0.25, iou_road=0.0)
    drawn = [some(panel(spec, rows)) for spec in cell_panels(rows)]
    assert [(found.title, found.y_label) for found in drawn] == [
        ("", "accuracy (%)"), ("", "brier score"),
    ]  # fmt: skip
    first = drawn[0]
    assert first.x_label == "lr"
    assert [curve.label for curve in first.curves] == [
        "method KD, temperature 10", "method KD, temperature 2", "method none",
    ]  # fmt: skip
    assert first.curves[0].x == (0.001, 0.03, 0.1)
    assert [y.mean for y in first.curves[1].y] == pytest.approx([0.505, 0.405, 0.305])
    more = [
        {**row, "cell": {**row["cell"], "size": size}} for size in "abc" for row in rows
    ]  # nine lines: a panel for each method
    assert [(spec.title, len(spec.lines)) for spec in cell_panels(more)][:2] == [
        ("method KD", 6), ("method none", 3),
    ]  # fmt: skip
    words = [{**row, "cell": {"which": row["cell"][LR] + " a"}} for row in rows[:4]]
    assert cell_panels(words) == ()
    many = [{**row, "cell": {"a": "1", "b": f"{n} x", "c": "y", "d": f"{n}"}}
            for n, row in enumerate(rows)]  # fmt: skip
    assert len(cell_panels([*many, {**many[0], "cell": {"a": "2"}}])) == 0


@pytest.mark.parametrize(("methods", "panels"), [(6, 1), (7, 0)])
def test_lines_that_each_had_a_panel_of_their_own_are_no_figure(methods: int, panels: int) -> None:
    rows = [
        {**row, "cell": {"method": f"m{method}", "dose": f"{dose}"}}
        for method in range(methods)
        for dose in (0.25, 0.5, 1)
        for row in rows_of()
    ]
    assert len(cell_panels(rows)) == panels


def test_cells_without_the_value_of_an_axis_are_levels() -> None:
    rows = [row for row in crossed() if row["cell"].get(LR) == "0.1"]
    (spec,) = cell_panels(rows)
    found = some(panel(spec, rows))
    assert (found.x_label, [curve.x for curve in found.curves]) == ("temperature", [(2.0, 10.0)])
    assert [(level.label, level.y[0].mean) for level in found.levels] == [
        ("method none", pytest.approx(0.605))
    ]


def test_text_of_axes_and_metrics_is_taken_literally() -> None:
    rows = [
        {**row, "cell": {"{a": "1", "$b$": f"{{{n % 2}}}"}, "last_test_f{1}": 0.5}
        for n, row in enumerate(rows_of(gap=0.0) + rows_of(gap=1.0))
    ]
    rows = [{**row, "cell": {**row["cell"], "{a": str(n // 3)}} for n, row in enumerate(rows)]
    (table,) = grouped(SCORE)(rows)
    assert table.columns[-1].name == "f{1}"
    found = some(panel(cell_panels(rows)[-1], rows))
    assert (found.x_label, found.curves[0].label) == ("{a", "$b$ {0}")
    assert "$b$ {0}" in draw_panel(found, "x")
