from __future__ import annotations

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from ntdh_bench.experiments import load_shipped
from ntdh_bench.paper import authors
from ntdh_bench.paper import printed as paper
from ntdh_bench.paper.exhibits import (
    AUTHORS,
    EXHIBITS,
    application_table,
    method_table,
    middle_table,
    share_in_the_middle,
    strength_table,
)
from ntdh_bench.report import evidence
from ntdh_bench.report.layouts import panel
from ntdh_bench.report.tables import Cell, Table
from tests.ntdh_bench.report.rows import (
    METHODS,
    make_row,
    semantickitti,
    table1,
    table2,
    with_derived,
    write_results,
)
from tests.typed import some


def find(table: Table, line: str, column: str) -> Cell:
    index = [c.full for c in table.columns].index(column)
    return some(next(entry for entry in table.lines if entry.labels[0] == line).cells[index])


def test_table2_is_the_papers_with_ours_beside_it() -> None:
    rows = with_derived(table2(5))
    table, gains = method_table("table2", rows)
    printed = paper.tables()["table2"]
    assert tuple(column.name for column in table.columns) == printed.columns
    assert [line.labels[0] for line in table.lines if line.labels[0] != "matched"] == list(
        printed.values
    )
    found = find(table, "F 0.50", "DKD")
    assert found.paper == 69.6
    assert found.estimate is not None
    assert found.estimate.n == 5
    expected = fmean(
        row["last_test_accuracy"]
        for row in rows
        if row["method"] == "DKD" and row["removes"] == "least_divergent" and row["ratio"] == 0.5
    )
    assert found.estimate.mean == pytest.approx(expected)
    without = {find(table, "w/o KD", method).estimate for method in METHODS}
    assert len(without) == 1
    for column in range(len(table.columns)):
        marked = [line for line in table.lines if (c := line.cells[column]) and c.best]
        assert len(marked) == 1
    assert [line.labels[0] for line in gains.lines] == list(printed.values)[1:]
    accuracies = {
        row["seed"]: row["last_test_accuracy"]
        for row in rows
        if row["arm"] == "without_kd"
        and row["mask"] == "feature"
        and row["ratio"] == 0.5
        and row["removes"] == "least_divergent"
    }
    paired = [
        row["last_test_accuracy"] - accuracies[row["seed"]]
        for row in rows
        if row["method"] == "DKD" and row["removes"] == "least_divergent" and row["ratio"] == 0.5
    ]
    shown = some(find(gains, "F 0.50", "DKD").estimate)
    assert shown.mean == pytest.approx(fmean(paired))


def test_a_table_that_the_paper_does_not_have_is_the_same_without_its_numbers() -> None:
    rows = with_derived(table2(2))
    ours, gains = method_table("table_pairs", rows)
    beside, same = method_table("table2", rows)
    assert gains == same
    assert ours.columns == beside.columns
    assert {cell.paper for cell in ours.cells} == {None}
    assert [cell.estimate for cell in ours.cells] == [cell.estimate for cell in beside.cells]
    assert method_table("table_pairs", []) == []


def test_methods_that_the_paper_leaves_out_come_last() -> None:
    table = method_table("table2", with_derived([*table2(1), make_row(method="KD")]))[0]
    assert table.columns[-1].name == "KD"
    assert find(table, "w/o mask", "KD").paper is None


def test_presets_never_share_a_table() -> None:
    rows = with_derived([*table2(1), make_row(method="AuthorsSP", protocol="mnist")])
    published, _, authors, _ = method_table("table2", rows)
    assert "authors" in authors.title
    assert find(authors, "w/o mask", "SP").estimate is not None
    assert find(authors, "T 0.25", "SP").estimate is None
    only = next(row for row in rows if row["method"] == "AuthorsSP")
    shown = some(find(authors, "w/o mask", "SP").estimate)
    assert shown.mean == only["last_test_accuracy"]
    assert find(published, "w/o mask", "SP").estimate != shown


def test_a_class_whose_name_begins_alike_is_no_preset() -> None:
    rows = with_derived([*table2(1), make_row(method="AuthorsMine")])
    accuracies, _ = method_table("table2", rows)
    assert "AuthorsMine" in [column.name for column in accuracies.columns]
    assert set(AUTHORS) == {name for name in vars(authors) if name.startswith("Authors")}


def test_the_papers_real_numbers_do_not_stand_beside_simulated_ones() -> None:
    rows = with_derived(table2(1, source="simulated"))
    assert {cell.paper for cell in method_table("table2", rows)[0].cells} == {None}
    alone = with_derived([row | {"source": "simulated"} for row in table1(1)])
    (table,) = strength_table([row for row in alone if row["dataset"] == "mnist"])
    assert {cell.paper for cell in table.cells} == {None}


def test_the_papers_scene_completion_does_not_stand_beside_segmentation() -> None:
    alone = [row | {"dataset": "nyuv2"} for row in table1(1) if row["dataset"] == "mnist"]
    for protocol, printed in (("nyuv2_ssc", {0.17, 24.4, 24.7}), ("nyuv2_seg_small", {None})):
        (table,) = strength_table(with_derived([row | {"protocol": protocol} for row in alone]))
        line = [line for line in table.lines if line.labels == ("NYU Depth V2",)]
        assert {cell.paper for cell in line[0].cells} == printed


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_without_runs_the_papers_numbers_stand_alone(name: str) -> None:
    (table,) = method_table(name, [])
    assert {cell.ours for cell in table.cells} == {"not run"}
    assert [cell.paper for cell in table.cells] == [
        number for numbers in paper.tables()[name].values.values() for number in numbers
    ]


def test_table4_without_runs_has_all_20_numbers() -> None:
    (table,) = application_table([])
    assert len(table.cells) == 20
    assert find(table, "2DPASS", "T 0.50").paper == 66.2


def test_table1_takes_networks_trained_alone_or_students_without_kd() -> None:
    alone = with_derived([row for row in table1(3) if row["dataset"] == "mnist"])
    (table,) = strength_table(alone)
    teacher = find(table, "MNIST/MNIST-M", "accuracy or mIoU (%), teacher")
    assert some(teacher.estimate).mean == pytest.approx(
        fmean(row["last_test_accuracy"] for row in alone if row["modality"] == "teacher")
    )
    assert find(table, "MNIST/MNIST-M", "parameters (million), student").ours == "0.5358"
    assert find(table, "RAVDESS", "parameters (million), teacher").paper == 13.24

    pairs = with_derived(
        [make_row(dataset="synthetic", source="simulated", arm="without_kd", gap=0.0)]
    )
    (table,) = strength_table(pairs)
    assert [line.labels for line in table.lines] == [("Scikit-learn, gap 0",)]
    assert find(table, "Scikit-learn, gap 0", "accuracy or mIoU (%), teacher").paper == 39.6
    found = some(find(table, "Scikit-learn, gap 0", "accuracy or mIoU (%), teacher").estimate)
    assert found.mean == pairs[0]["last_test_teacher_accuracy"]


def test_every_shipped_experiment_of_the_paper_has_an_exhibit() -> None:
    shown = {exhibit.experiment for exhibit in EXHIBITS}
    shipped = load_shipped()
    ours = {
        "smoke",
        "methods",
        "directions",
        "multimodal_teachers",
        "random_masks",
        "interventions",
        "interventions_t1",
        "teachers",
        "sensitivity",
    }
    assert {experiment.part_of for experiment in shipped} - shown <= ours
    assert shown - {experiment.name for experiment in shipped} == {None}


def test_eq25_draws_both_readings_of_the_target_divergence() -> None:
    rows = with_derived([make_row(classes=c, gap=1.0) for c in (3, 10)])
    exhibit = next(e for e in EXHIBITS if e.name == "eq25")
    drawn = some(panel(exhibit.panels[0], rows))
    curves = {curve.label: curve for curve in drawn.curves}
    assert set(curves) == {"NCKL / TCKL, two-way", "NCKL / |TCKL|, Eq. 19", "C - 1"}
    row = rows[0]
    assert curves["NCKL / |TCKL|, Eq. 19"].y[0].mean == pytest.approx(
        row["last_test_nckl"] / row["last_test_tckl_size"]
    )
    assert "which of the two" in exhibit.note


def test_fig10_says_how_much_of_the_heat_lies_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "shipped_runs", dict)  # made-up rows are of no shipped experiment
    row = make_row(experiment="fig10", protocol="mnist", arm="saliency", layer="hidden1")
    write_results(tmp_path, [row])
    exhibit = next(e for e in EXHIBITS if e.name == "fig10")
    [read] = evidence.read(tmp_path, {"fig10": exhibit.of_maps}).rows["fig10"]
    assert 0 < read["middle_least_divergent"] < read["middle_random"] < 0.6
    (table,) = middle_table([read])
    assert table.cells[0].ours == "1.00"
    assert [line.labels for line in table.lines] == [("hidden1",)]
    assert middle_table([row]) == []
    assert share_in_the_middle(np.ones((14, 7))) == pytest.approx(50 / 98)


def test_table4_shows_mean_iou_and_the_papers_beside_real_data_only() -> None:
    for source, printed in (("real", 65.2), ("simulated", None)):
        rows = with_derived(semantickitti(3, source))
        (table,) = application_table(rows)
        found = find(table, "2DPASS", "T 0.25")
        assert found.paper == printed
        expected = fmean(
            row["last_test_miou"]
            for row in rows
            if row["method"] == "2DPASS" and row["removes"] == "most_divergent"
        )
        assert some(found.estimate).mean == pytest.approx(expected)
        assert find(table, "PMF", "R 0.75").estimate is None
