from __future__ import annotations

import pytest

from ntdh_bench.paper import printed as paper


@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [
        ("table1", "ravdess", "teacher_parameters", 13.24),
        ("table1", "semantickitti", "student_strength", 60.5),
        ("table2", "w/o KD", "SP", 69.1),
        ("table2", "T 0.25", "PKT", 59.85),
        ("table2", "R 0.75", "RKD", 69.83),
        ("table2", "F 0.75", "DKD", 67.9),
        ("table3", "w/o mask", "FitNet", 70.8),
        ("table3", "R 0.75", "FitNet", 40.1),
        ("table3", "T 0.50", "CRD", 66.6),
        ("table4", "2DPASS", "w/o mask", 64.2),
        ("table4", "2DPASS", "T 0.50", 66.2),
        ("table4", "PMF", "R 0.25", 57.2),
        ("table4", "PMF", "R 0.75", 63.2),
    ],
)
def test_numbers_are_as_printed(table: str, row: str, column: str, value: float) -> None:
    found = paper.tables()[table]
    assert found.values[row][found.columns.index(column)] == value


def test_tables_are_whole() -> None:
    shapes = {
        name: (len(table.values), len(table.columns)) for name, table in paper.tables().items()
    }
    assert shapes == {"table1": (5, 4), "table2": (11, 6), "table3": (11, 6), "table4": (2, 10)}
    for table in paper.tables().values():
        assert {len(values) for values in table.values.values()} == {len(table.columns)}


def test_sums_of_the_tables() -> None:
    """Guards against a slip of a digit: sums added up from the printed tables by row."""
    sums = {row: round(sum(values), 2) for row, values in paper.tables()["table2"].values.items()}
    assert sums == {
        "w/o KD": 414.6, "w/o mask": 411.0, "T 0.25": 419.75, "R 0.25": 399.5, "F 0.25": 374.1,
        "T 0.50": 414.7, "R 0.50": 389.6, "F 0.50": 362.3, "T 0.75": 395.1, "R 0.75": 376.03,
        "F 0.75": 360.6,
    }  # fmt: skip
    sums = {row: round(sum(values), 2) for row, values in paper.tables()["table3"].values.items()}
    assert sums == {
        "w/o KD": 428.4, "w/o mask": 424.8, "T 0.25": 464.5, "R 0.25": 438.8, "F 0.25": 339.0,
        "T 0.50": 453.1, "R 0.50": 432.1, "F 0.50": 336.9, "T 0.75": 393.7, "R 0.75": 359.1,
        "F 0.75": 337.2,
    }  # fmt: skip
    sums = {row: round(sum(values), 2) for row, values in paper.tables()["table4"].values.items()}
    assert sums == {"2DPASS": 630.4, "PMF": 616.0}


def test_numbers_in_the_form_of_records() -> None:
    rows = paper.as_rows("table2")
    assert len(rows) == 66
    found = [
        row["last_test_accuracy"]
        for row in rows
        if (row["method"], row["removes"], row["ratio"]) == ("DKD", "least_divergent", 0.5)
    ]
    assert found == pytest.approx([0.696])
    assert {row["arm"] for row in rows if row["method"] is None} == {"without_kd"}
    application = paper.as_rows("table4")
    assert {(r["method"], r["mask"]) for r in application if r["ratio"] is None} == {
        ("2DPASS", None),
        ("PMF", None),
    }
    assert application[0]["last_test_score"] == application[0]["last_test_miou"]
    assert {r["last_test_accuracy"] for r in application} == {None}
    networks = paper.as_rows("table1")
    assert [r["last_test_miou"] for r in networks if r["dataset"] == "nyuv2"] == [0.244, 0.247]
    assert {r["last_test_miou"] for r in networks if r["dataset"] == "mnist"} == {None}
    assert [r["modality"] for r in networks if r["dataset"] == "nyuv2"] == ["teacher", "student"]


def test_every_figure_says_something() -> None:
    assert set(paper.figures()) == {
        "fig3", "fig6", "fig7", "fig8", "fig9", "fig10", "fig11", "fig12", "fig13",
    }  # fmt: skip
    assert all(len(says) > 40 for says in paper.figures().values())
    assert "Non-target Divergence Hypothesis" in paper.source()
