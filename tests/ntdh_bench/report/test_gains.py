from __future__ import annotations

from typing import Any

import pytest

from ntdh_bench.paper.exhibits import method_table
from ntdh_bench.records.columns import Row
from ntdh_bench.report.gains import remarks, shown_gains
from ntdh_bench.report.layouts import grouped
from ntdh_bench.report.overview import overview
from ntdh_bench.report.papers import SHOWN
from tests.ntdh_bench.report.rows import make_row, with_derived
from tests.typed import some

SCORES = {"kd": 0.70, "without_kd": 0.72, "equal_task": 0.65, "matched": 0.73}
OWN = {"without_kd": 1.0, "equal_task": 0.5}


def runs(task: float | None = 0.5, distill: float = 0.5, *arms: str, **given: Any) -> list[Row]:
    """Rows of two seeds: KD with these weights, and the controls of these arms."""
    found = []
    for arm in ("kd", *arms):
        weights = (task, distill) if arm == "kd" else (OWN.get(arm, 2.0), distill)
        for seed in (0, 1):
            row = make_row(seed=seed, arm=arm, **given)
            pair = dict(zip(("task_weight", "distill_weight"), weights, strict=True))
            found.append({**row, **pair, "last_test_score": SCORES[arm] + seed / 100})
    return with_derived(found)


def test_both_controls_have_a_column_where_their_weights_differ() -> None:
    rows = runs(0.5, 1.5, "without_kd", "equal_task", "matched")
    assert shown_gains(rows) == {
        "gain": "gain over w/o KD",
        "gain_over_equal_task": "gain over equal task",
        "gain_over_matched": "gain over matched",
    }
    assert remarks(rows) == ""
    (table,) = grouped(*SHOWN, by=("arm",))(rows)
    heads = [column.name for column in table.columns]
    kd = next(line for line in table.lines if line.labels == ("KD",))
    shown = dict(zip(heads, map(table.text, kd.cells), strict=True))
    gains = [shown[f"gain over {over} (points)"] for over in ("w/o KD", "equal task", "matched")]
    assert gains == ["-2.00 ± 0.00", "5.00 ± 0.00", "-3.00 ± 0.00"]
    equal = next(line for line in table.lines if line.labels == ("equal task",))
    assert table.text(equal.cells[heads.index("gain over w/o KD (points)")]) == "-7.00 ± 0.00"


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ((1.0, 1.0), "gain over w/o KD = equal task"),
        ((None, 1.0), "gain over w/o KD = equal task"),  # a module of its own
        ((1.0, 0.0), "gain over w/o KD = equal task = matched"),
    ],
)
def test_controls_that_are_one_run_share_a_column_that_says_so(
    weights: tuple[float | None, float], name: str
) -> None:
    rows = runs(*weights, "without_kd")
    assert shown_gains(rows) == {"gain": name}
    assert remarks(rows) == ""
    (table,) = grouped(*SHOWN, by=("arm",))(rows)
    assert [c.name for c in table.columns if "gain" in c.name] == [f"{name} (points)"]


def test_where_equal_task_was_not_run_the_cell_says_so() -> None:
    rows = runs(0.5, 0.5, "without_kd")
    (table,) = grouped(*SHOWN, by=("arm",))(rows)
    place = [column.name for column in table.columns].index("gain over equal task (points)")
    texts = {line.labels: table.text(line.cells[place]) for line in table.lines}
    assert texts == {("KD",): "not run", ("w/o KD",): "–"}
    assert "Equal task was not run for the task weight 0.5: part of the gain" in table.note
    (_, gains) = method_table("table2", rows)
    assert gains.title == "Gain over w/o KD = matched, paired by seed"  # 0.5 and 0.5 are 1
    assert "Equal task was not run" in gains.note
    both = method_table("table2", runs(0.5, 0.5, "without_kd", "equal_task"))
    titles = [table.title.partition(",")[0] for table in both]
    assert titles == ["Accuracy", "Gain over w/o KD = matched", "Gain over equal task"]
    assert "Equal task" not in both[1].note


def test_an_untrained_student_is_no_control() -> None:
    rows = [*runs(1.0, 1.0, "without_kd"), *runs(0.0, 1.0, method="SimKD")]
    rows = with_derived(rows)
    assert shown_gains(rows)["gain"] == "gain over w/o KD = equal task"
    assert remarks(rows).startswith("SimKD: the cross entropy weighs 0, and no student is trained")


def test_controls_that_still_learn_are_named() -> None:
    rows = [{**row, "late_gain": 0.004} for row in runs(0.5, 1.0, "without_kd", "equal_task")]
    assert remarks(rows) == ""
    (table,) = grouped(*SHOWN, by=("arm",))(rows)
    assert table.columns[-1].name == "late gain (points)"
    slow = [{**row, "late_gain": 0.012} for row in rows]
    late = "w/o KD (+1.20 points late), equal task (+1.20 points late)"
    assert remarks(slow) == f"Not converged: {late}."
    half = [row if row["arm"] == "equal_task" else {**row, "late_gain": 0.0} for row in slow]
    assert remarks(half) == "Not converged: equal task (+1.20 points late)."


def test_the_overview_says_what_lacks() -> None:
    rows = [
        {**row, "cell": {"method": row["method"] or "without_kd"}}
        for dataset in ("wiki", "bdgp")
        for method in ("KD", "SP")
        for row in runs(0.5, 1.0, "without_kd", dataset=dataset, protocol=dataset, method=method)
        if method == "KD" or row["arm"] == "kd"
    ]
    found = some(overview(with_derived(rows), "drawing"))
    assert any("Equal task was not run for the task weight 0.5" in note for note in found.notes)
    assert [table.title for table in found.tables][1:2] == ["Gain over w/o KD (points)"]
