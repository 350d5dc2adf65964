from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.experiments import find_experiment, load_experiment
from ntdh_bench.records import older
from ntdh_bench.records.columns import RecordError, Row, own_metrics
from ntdh_bench.records.identity import Place, place
from ntdh_bench.records.rows import conflicts, csv_path, read_rows, to_row, write_rows
from ntdh_bench.records.upgrading import upgrade
from tests.ntdh_bench.report.rows import make_record, make_row

T2 = {"model.init_args.distiller.init_args.temperature": "2", "lr": "0.1"}


def measured(**metrics: float) -> dict[str, Any]:
    return {"last": {"val": None, "test": metrics}, "best": None}


def test_every_metric_that_was_measured_has_a_column(tmp_path: Path) -> None:
    """Of this package's modules, each class's, and those of a user's own; known ones first."""
    metrics = measured(miou=0.5, point_miou=0.4, completion_iou=0.3, my_score=-7.5)
    metrics["last"]["test_per_class"] = {"road": 0.9, "traffic-sign": 0.1}
    row = to_row(make_record(metrics=metrics, measure="miou"), Place("own", "p", T2))
    plain = to_row(make_record(run="b" * 16, seed=1), Place("own", "p", T2))
    path = tmp_path / "own.csv"
    write_rows(path, [plain, row])
    found = read_rows(path)
    assert found.problems == []
    read_plain, read = found.rows
    assert read == row
    assert (read["cell"], read["measure"], plain["measure"]) == (T2, "miou", "accuracy")
    own = {
        "last_test_completion_iou": 0.3, "last_test_iou_road": 0.9,
        "last_test_iou_traffic-sign": 0.1, "last_test_my_score": -7.5, "last_test_point_miou": 0.4,
    }  # fmt: skip
    assert own_metrics(found.rows) == list(own)
    assert {name: read[name] for name in own} == own
    assert read_plain == plain
    columns = path.read_text().partition("\n")[0].split(",")
    assert columns.index("best_test_nckl") < columns.index("last_test_completion_iou")
    assert columns[-12] == "seconds"


def test_a_run_that_measures_nothing_has_no_measure() -> None:
    """Of a saliency alone: as its row of an older schema, which cannot know."""
    nothing = make_record(metrics={"last": None, "best": None}, measure="accuracy")
    assert to_row(nothing, Place("own", "p"))["measure"] is None


@pytest.mark.parametrize(
    "metrics",
    [
        {"point_miou": 1.5}, {"iou_road": -1}, {"my_score": float("inf")}, {"my_score": "0.5"},
        {"my_score": True}, {"two\nlines": 0.5}, {"x" * 101: 0.5},
        dict.fromkeys(map(str, range(2001)), 0.5),
    ],
)  # fmt: skip
def test_own_metrics_are_checked(metrics: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="is not as it was written") as raised:
        to_row(make_record(metrics=measured(**metrics)), Place("own", "p"))
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '"a"', '{"a": 1}', '{"a": "' + "x" * 301 + '"}', '{"a": "two\\nlines"}',
        '{"a"', "[" * 20_000, '{"a": null}', json.dumps(dict.fromkeys(map(str, range(101)), "")),
    ],
)  # fmt: skip
def test_a_cell_of_a_file_is_checked(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.csv"
    write_rows(path, [to_row(make_record(), Place("own", "p", T2))])
    with path.open(newline="") as file:
        (line,) = csv.DictReader(file)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, line, lineterminator="\n")
        writer.writeheader()
        writer.writerow({**line, "cell": text})
    found = read_rows(path)
    assert found.rows == []
    (problem,) = found.problems
    assert "own.csv, line 2: cell is" in problem
    assert len(problem) < 400


def test_runs_that_no_axis_tells_apart_are_named_and_count_for_nothing() -> None:
    def row(run: str, **changes: Any) -> Row:
        return {**to_row(make_record(run=run), Place("own", "p", T2)), **changes}

    hot, cold = row("a", task_weight=1.0), row("b", task_weight=2.0)
    others = [
        row("c", seed=1), row("d", cell={**T2, "lr": "0.2"}), row("e", protocol="q"),
        row("f", experiment="another"), row("g", source="simulated"),
    ]  # fmt: skip
    found = conflicts([hot, *others, cold])
    assert found.rows == others
    (problem,) = found.problems
    assert problem.startswith("own: 2 runs of the cell model.init_args.distiller")
    assert (
        "temperature=2, lr=0.1, seed 0, protocol p (a and b ...) differ in task_weight" in problem
    )
    assert conflicts([hot, *others]).problems == []
    reordered = row("b", task_weight=1.0, cell=dict(reversed(T2.items())))
    assert "differ in settings without a column" in conflicts([hot, reordered]).problems[0]


def test_a_run_has_hashes_of_its_objective_pair_and_mask(tmp_path: Path) -> None:
    """What is not known by name goes with the objective; seeds do not matter."""
    model = {"teacher": "joint", "lr": 1, "distiller": {"class_path": "KD"}}
    overrides = {
        "model": {"class_path": "M", "init_args": model}, "mask": None,
        "data": {"class_path": "D", "init_args": {"gap": 0.5}},
    }  # fmt: skip
    which = {
        "none": {}, "temperature": {"model.init_args.distiller.init_args.temperature": 2},
        "lr": {"model.init_args.lr": 2}, "epochs": {"trainer.max_epochs": 3},
        "gap": {"data.init_args.gap": 1.0}, "teacher": {"model.init_args.teacher": "independent"},
        "mask": {"mask": {"class_path": "Mask"}},
        "change": {"model.init_args.intervention": {"class_path": "I", "init_args": {"share": 1}}},
    }  # fmt: skip
    grids = [{"overrides": overrides, "axes": {"which": which}}]
    spec = tmp_path / "own.yaml"
    protocols = {"p": {"seeds": 2}}
    given = {"title": "t", "requires": "synthetic", "protocols": protocols, "grids": grids}
    spec.write_text(yaml.safe_dump(given, sort_keys=False))
    places = {run.labels["which"]: place("own", run) for run in load_experiment(spec).runs}
    runs = load_experiment(spec).runs
    assert place("own", runs[0]) == place("own", runs[1])
    first = places.pop("none")
    assert (first.cell, first.mask_hash) == ({"which": "none"}, None)
    changed = {
        which: "".join(
            name[0] for name in ("objective_hash", "pair_hash", "mask_hash")
            if getattr(found, name) != getattr(first, name)
        )
        for which, found in places.items()
    }  # fmt: skip
    assert changed == {
        "temperature": "o", "lr": "o", "epochs": "o", "gap": "p", "teacher": "p", "mask": "m",
        "change": "m",
    }  # fmt: skip


def as_schema(path: Path, schema: int, rows: list[Row]) -> str:
    """Write rows as an older version did; returns the text."""
    with path.open("w", newline="") as file:
        columns = older._LAYOUTS[schema]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path.read_text()


@pytest.mark.parametrize("schema", [2, 3])
def test_older_schemas_are_read_and_converted(tmp_path: Path, schema: int) -> None:
    """A shipped experiment's run has its cell, another one that of the settings that vary."""
    experiment = find_experiment("fig3")
    run = load_experiment(experiment).runs[0]
    known = make_row(experiment="fig3", protocol=run.protocol, run=run.hash, gap=0.2)
    known["run"] = run.hash
    gone = make_row(experiment="fig3", protocol=run.protocol, gap=0.4, mask="feature", ratio=0.5)
    path = csv_path(tmp_path, "fig3")
    path.parent.mkdir()
    before = as_schema(path, schema, [known, gone])
    found = read_rows(path)
    assert found.problems == []
    assert [row["cell"] for row in found.rows] == [
        run.labels, {"gap": "0.4", "mask": "feature", "ratio": "0.5"},
    ]  # fmt: skip
    assert found.rows[0]["objective_hash"] == place("fig3", run).objective_hash
    assert [row["measure"] for row in found.rows] == ["accuracy", "accuracy"]
    assert [row["mask_hash"] is None for row in found.rows] == [True, False]

    own = csv_path(tmp_path, "mine")
    write_rows(own, [known])
    kept = own.read_bytes()
    (told,) = upgrade(tmp_path)
    assert told == (
        f"{path}: schema {schema} to 4, 2 rows; the cells of 1 are the settings that vary in the "
        "file"
    )
    assert read_rows(path) == found
    assert own.read_bytes() == kept
    assert upgrade(tmp_path) == []
    with path.open(newline="") as file:
        new = list(csv.DictReader(file))
    old = list(csv.DictReader(before.splitlines()))
    assert [{name: line[name] for name in old[0]} for line in new] == old


def test_lines_that_a_conversion_loses_are_kept(tmp_path: Path) -> None:
    path = csv_path(tmp_path, "mine")
    path.parent.mkdir()
    rows = [make_row(experiment="mine", protocol="p", seed=seed) for seed in range(2)]
    before = as_schema(path, 3, [rows[0], {**rows[1], "ratio": 7.0}])
    told, damaged, copy = upgrade(tmp_path)
    assert "schema 3 to 4, 1 rows" in told
    assert "ratio: 7.0 is not in [0, 1]" in damaged
    (kept,) = path.parent.glob("*.damaged")
    assert str(kept) in copy
    assert kept.read_text() == before
