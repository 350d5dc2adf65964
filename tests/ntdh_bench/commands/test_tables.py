from __future__ import annotations

from pathlib import Path

import pytest

from ntdh_bench.cli import main
from ntdh_bench.records.rows import csv_path, read_rows
from tests.helpers import run_script
from tests.ntdh_bench.records.test_cells import as_schema
from tests.ntdh_bench.report.rows import make_row, write_results

HEAVY = ("torch", "lightning", "jsonargparse")
CHECK_IMPORTS = ("matplotlib", "numpy", "scipy", *HEAVY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [make_row(experiment="mine", protocol="short", seed=seed) for seed in range(2)]
    write_results(tmp_path, rows)
    return tmp_path


def run(folder: Path, *words: str) -> int:
    return main(["tables", *words, "--results", str(folder), "--runs", str(folder / "store")])


def test_builds_then_checks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--check") == 1
    assert "manifest.json is missing; run `ntdh-bench tables`" in capsys.readouterr().out
    assert run(folder) == 0
    shown = capsys.readouterr().out
    assert "2 rows of 1 experiments" in shown
    assert f"open      {folder / 'index.html'}" in shown
    assert run(folder, "--check") == 0
    assert "up to date" in capsys.readouterr().out
    csv_path(folder, "mine").unlink()
    assert run(folder, "--check") == 1
    assert "records/mine.csv is gone" in capsys.readouterr().out


def test_nothing_is_computed_where_nothing_changed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(folder) == 0
    assert " of them new or changed" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr("ntdh_bench.report.build.build", None)
        assert run(folder) == 0
    assert capsys.readouterr().out == f"{folder}: up to date, nothing is made again\n"
    with monkeypatch.context() as patch:
        patch.setattr("ntdh_bench.report.check.code_digest", lambda: "of another version")
        assert run(folder) == 0
    assert ", 0 of them new or changed" in capsys.readouterr().out
    (folder / "claims.md").unlink()
    monkeypatch.setenv("NTDH_CACHE", "/dev/null/cache")  # where nothing can be noted
    for changed in (1, 0):
        assert run(folder) == 0
        assert f", {changed} of them new or changed" in capsys.readouterr().out


def test_a_csv_of_another_schema_is_one_line_and_stays(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "store" / "records").mkdir(parents=True)
    foreign = [csv_path(folder, name) for name in ("foreign", "table2")]  # one to be collected
    for path in foreign:
        path.write_text("a,b\n1,2\n")
    assert run(folder) == 0
    shown = capsys.readouterr().out
    assert "2 rows of 1 experiments" in shown
    for path in foreign:
        assert shown.count(f"problem: {path}: its columns are not those of a schema") == 1
        assert path.read_text() == "a,b\n1,2\n"


def test_runs_that_cannot_be_told_apart_are_an_error_every_time(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [make_row(experiment="two", protocol="p", task_weight=weight) for weight in (0.5, 0.7)]
    write_results(folder, rows)
    for _ in range(2):
        assert run(folder) == 1
        shown = capsys.readouterr().out
        assert "problem: two: 2 runs of the cell" in shown
        assert "differ in objective_hash, task_weight: left out, not averaged" in shown


def test_older_csvs_are_converted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv_path(folder, "mine")
    new = read_rows(path).rows
    path.write_bytes(as_schema(path, 3, new).encode())
    assert run(folder, "--upgrade") == 0
    assert f"{path}: schema 3 to 4, 2 rows; the cells of 2 are" in capsys.readouterr().out
    metric = "last_test_ncjsd"
    assert [row[metric] for row in read_rows(path).rows] == [row[metric] for row in new]
    assert run(folder, "--upgrade") == 0
    assert "nothing to convert" in capsys.readouterr().out


def test_imports_nothing_heavy(folder: Path) -> None:
    script = (
        "import sys; from ntdh_bench.cli import main\n"
        f"words = ['--results', {str(folder)!r}, '--runs', 'none']\n"
        "main(['tables', '--check', *words])\n"
        f"assert not set({CHECK_IMPORTS!r}) & set(sys.modules)\n"
        "assert main(['tables', *words]) == 0\n"
        f"assert not set({HEAVY!r}) & set(sys.modules)\n"
    )
    run_script(script)
