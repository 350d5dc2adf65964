from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ntdh_bench.cli import main
from ntdh_bench.records import csv_path
from tests.ntdh_bench.report.rows import make_row, write_results

ROOT = Path(__file__).resolve().parents[3]
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
    assert run(folder) == 0
    assert ", 1 of them new or changed" in capsys.readouterr().out


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


def test_imports_nothing_heavy(folder: Path) -> None:
    script = (
        "import sys; from ntdh_bench.cli import main\n"
        f"words = ['--results', {str(folder)!r}, '--runs', 'none']\n"
        "main(['tables', '--check', *words])\n"
        f"assert not set({CHECK_IMPORTS!r}) & set(sys.modules)\n"
        "assert main(['tables', *words]) == 0\n"
        f"assert not set({HEAVY!r}) & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
