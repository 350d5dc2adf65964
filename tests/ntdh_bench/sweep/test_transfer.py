"""Records that travel in a file, by the command; every run is complete, so no worker starts."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ntdh_bench.commands import sweep
from ntdh_bench.errors import LONGEST, UserError
from ntdh_bench.experiments import Experiment, Run, load_experiment
from ntdh_bench.records.details import read_details
from ntdh_bench.records.files import write_record
from ntdh_bench.records.rows import csv_path, read_rows
from ntdh_bench.sweep import transfer
from ntdh_bench.sweep.store import Store
from tests.ntdh_bench.report.rows import make_record

Machine = Callable[..., int]


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """2 cells and 2 seeds, curves kept; a second protocol with one seed."""
    content = {
        "title": "Travels",
        "requires": "synthetic",
        "keep": ["curves"],
        "protocols": {"quick": {"seeds": 2}, "long": {"seeds": 1, "overrides": {"long": True}}},
        "grids": [{"axes": {"mask.ratio": [0.25, 0.5]}}],
    }
    path = tmp_path / "travels.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_experiment(path)


def record_of(run: Run, **given: Any) -> dict[str, Any]:
    curves = {"val/accuracy": [0.1, 0.2 + run.seed / 10]}
    return make_record(run=run.hash, seed=run.seed, curves=curves, seconds=1 / 3, **given)


def on(machine: Path, experiment: Experiment, *words: str) -> int:
    """Run the command on a machine with a store and results of its own."""
    places = ["--runs", str(machine / "runs"), "--results", str(machine / "results")]
    return sweep.main(["sweep", str(experiment.path), *places, *words])


@pytest.fixture
def away(tmp_path: Path, experiment: Experiment) -> Path:
    """A machine where every run is done."""
    machine = tmp_path / "away"
    for run in experiment.runs:
        write_record(Store(machine / "runs").record(run.hash), record_of(run))
    return machine


@pytest.fixture
def file(tmp_path: Path, experiment: Experiment, away: Path) -> Path:
    path = tmp_path / "travels.zip"
    assert on(away, experiment, "--export", str(path)) == 0
    return path


def content(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return {name: json.loads(archive.read(name)) for name in archive.namelist()}


def write(path: Path, members: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            archive.writestr(name, value if isinstance(value, (str, bytes)) else json.dumps(value))
    return path


def files(folder: Path) -> dict[Path, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in found}


def test_a_sweep_comes_home(
    experiment: Experiment, away: Path, file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Records and what is collected of them are as they were there, to the byte."""
    home = tmp_path / "home"
    assert on(home, experiment, "--import", str(file)) == 0
    shown = capsys.readouterr().out
    assert f"travels: {file}: 4 taken\n" in shown
    assert "travels.csv, 4 of 6 runs" in shown
    names = {f"{run.hash}.json" for run in experiment.runs if run.protocol == "quick"}
    there = {path: text for path, text in files(away).items() if path.name in names}
    assert len(there) == 4
    assert {path: text for path, text in files(home).items() if path.suffix == ".json"} == there
    rows = read_rows(csv_path(home / "results", "travels")).rows
    assert rows == [row for row in read_rows(csv_path(away / "results", "travels")).rows
                    if row["protocol"] == "quick"]  # fmt: skip
    assert len(read_details(csv_path(home / "results", "travels"), "curves").rows) == 8
    assert on(home, experiment, "--import", str(file)) == 0
    assert "0 taken, 4 here already" in capsys.readouterr().out


def test_the_selection_is_exported_in_the_same_bytes(
    experiment: Experiment, away: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one.zip", tmp_path / "new" / "two.zip"
    long = [run.hash for run in experiment.runs if run.protocol == "long"]
    for path in (one, two, two):
        assert on(away, experiment, "--protocol", "long", "--export", str(path)) == 0
        assert f"export: {path}, 2 records\n" in capsys.readouterr().out
    assert one.read_bytes() == two.read_bytes()
    assert list(content(one)) == [f"{run}.json" for run in sorted(long)]
    half = ["--protocol", "long", "--only", "mask.ratio=0.5", "--export", str(one)]
    assert on(away, experiment, *half) == 0
    assert len(content(one)) == 1
    # runs whose row is all there is cannot travel
    for path in (away / "runs" / "records").iterdir():
        path.unlink()
    capsys.readouterr()
    before = one.read_bytes()
    assert on(away, experiment, *half) == 1
    assert (
        f"no run has a record in {away / 'runs'}; {one} is not written" in capsys.readouterr().out
    )
    assert one.read_bytes() == before


def test_an_export_replaces_nothing_else(experiment: Experiment, away: Path) -> None:
    for path in (experiment.path, away):
        with pytest.raises(UserError, match="there is something else"):
            on(away, experiment, "--export", str(path))


def test_what_is_here_is_kept_unless_asked_for(
    experiment: Experiment, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the store, and in the CSV."""
    home, store = tmp_path / "home", Store(tmp_path / "home" / "runs")
    first, second, third, fourth = (run for run in experiment.runs if run.protocol == "quick")
    own = record_of(first, metrics={"last": {"test": {"accuracy": 0.9}}, "best": None})
    write_record(store.record(first.hash), own)
    write_record(store.record(second.hash), record_of(second))
    write_record(store.record(third.hash), {**own, "run": third.hash})
    assert on(home, experiment, "--import", str(write(tmp_path / "none.zip", {}))) == 0
    store.record(third.hash).unlink()  # only its row is here
    store.record(second.hash).unlink()  # its row is that of the file's record
    store.record(fourth.hash).write_text("damaged")
    capsys.readouterr()
    assert on(home, experiment, "--import", str(file)) == 0
    shown = capsys.readouterr().out
    assert "2 taken, 2 kept as they are here\n" in shown
    assert shown.count("another record is here and was kept (--rerun takes the file's):") == 2
    assert f"damaged record here, set aside: {store.record(fourth.hash)}.damaged" in shown
    assert json.loads(store.record(first.hash).read_text())["metrics"] == own["metrics"]
    rows = {row["run"]: row["last_test_accuracy"] for row in read_rows(
        csv_path(home / "results", "travels")).rows}  # fmt: skip
    assert [rows[run.hash] for run in (first, second, third, fourth)] == [0.9, 0.5, 0.9, 0.5]
    assert on(home, experiment, "--import", str(file), "--rerun") == 0
    assert "2 taken, 2 here already" in capsys.readouterr().out
    rows_now = read_rows(csv_path(home / "results", "travels")).rows
    assert {row["last_test_accuracy"] for row in rows_now} == {0.5}


def test_what_does_not_belong_is_named_and_left_out(
    experiment: Experiment, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, store = tmp_path / "home", Store(tmp_path / "home" / "runs")
    name, record = next(iter(content(file).items()))
    good = content(file)
    others = {
        "other.json": {**record, "run": "f" * 16},
        "../../escaped.json": {**record, "run": "../../escaped"},
        "list.json": [1],
        "schema.json": {**record, "run": "e" * 16, "schema": 99},
        "metrics.json": {**record_of(experiment.runs[-1]), "schema": 4, "metrics": None},
        "curves.json": {**record_of(experiment.runs[-2]), "schema": 4, "curves": {"a": ["x"]}},
    }
    held = experiment.runs[0].hash
    store.prepare()
    lock = store.claim(held)
    assert lock is not None
    try:
        assert on(home, experiment, "--import", str(write(file, {**others, **good}))) == 1
    finally:
        lock.release()
    shown = capsys.readouterr().out
    assert "3 taken, 7 left out" in shown
    for told in (
        "run ffffffffffffffff is left out: travels has no such run here",
        "run ../../escaped is left out: travels has no such run",
        "run None is left out: a record of schema None",
        "run eeeeeeeeeeeeeeee is left out: a record of schema 99",
        f"run {experiment.runs[-1].hash} is left out: the record of run",
        f"run {experiment.runs[-2].hash} is left out: the curves of run",
        f"run {held} is left out: a sweep here is doing it",
    ):
        assert told in shown
    assert max(map(len, shown.splitlines())) < LONGEST + 10
    names = {path.name for path in files(home) if path.suffix == ".json"}
    assert names == {n for n in good if n != f"{held}.json"}
    assert name in good
    assert not list(tmp_path.glob("**/*escaped*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: {**good, "last.json": "{"}, "record 5: not JSON"),
        (lambda good: {**good, "last.json": b"\xff\xfe"}, "damaged, or not a file that sweep"),
        (lambda good: {**good, "again.json": next(iter(good.values()))}, "a run is there twice"),
        (lambda good: {**good, "last.json": '{"a": NaN}'}, "record 5: not JSON"),
        (lambda good: {**good, "big.json": b"0" * (1 << 20)}, "more than|damaged"),
    ],
)
def test_nothing_is_taken_from_a_damaged_file(
    damage: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
    experiment: Experiment,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transfer, "MAX_BYTES", 1 << 19)
    write(file, damage(content(file)))
    with pytest.raises(UserError, match=message) as error:
        on(tmp_path / "home", experiment, "--import", str(file))
    assert str(file) in str(error.value)
    assert not [path for path in files(tmp_path / "home") if path.suffix in (".json", ".csv")]


def test_sizes_come_first(
    experiment: Experiment, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_MAX_TOTAL", 100)
    monkeypatch.setattr(transfer, "read_member", None)  # nothing is unpacked
    with pytest.raises(UserError, match=r"travels.zip: \d+ bytes of records, expected at most 100"):
        on(tmp_path / "home", experiment, "--import", str(file))


def test_an_import_takes_no_selection(experiment: Experiment, file: Path, tmp_path: Path) -> None:
    for words in (["--protocol", "long"], ["--only", "seed=1"]):
        with pytest.raises(UserError, match="leave --only and --protocol out"):
            on(tmp_path / "home", experiment, "--import", str(file), *words)
    with pytest.raises(SystemExit):
        on(tmp_path / "home", experiment, "--import", str(file), "--export", str(file))
    with pytest.raises(UserError, match=r"none.zip is missing"):
        on(tmp_path / "home", experiment, "--import", str(tmp_path / "none.zip"))


def test_a_full_disk_takes_what_it_holds_and_the_same_command_goes_on(
    experiment: Experiment, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    written: list[Path] = []

    def write_two(path: Path, record: dict[str, Any]) -> None:
        if len(written) == 2:
            raise UserError("cannot write to runs: No space left on device")
        written.append(path)
        write_record(path, record)

    home = tmp_path / "home"
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "write_record", write_two)
        with pytest.raises(UserError, match="No space left"):
            on(home, experiment, "--import", str(file))
    capsys.readouterr()
    assert on(home, experiment, "--import", str(file)) == 0
    assert "2 taken, 2 here already" in capsys.readouterr().out
    shutil.rmtree(home)
