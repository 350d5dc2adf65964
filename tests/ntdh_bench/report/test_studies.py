from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ntdh_bench import plugins
from ntdh_bench.errors import UserError
from ntdh_bench.report.build import build
from ntdh_bench.report.check import STUDIES, check, code_digest, is_current
from ntdh_bench.report.studies import studies
from tests.ntdh_bench.report.rows import make_row, write_results
from tests.third_party import forget_code

TOY = """
from ntdh_bench.report.studies import Added

def add(rows):
    return Added({"toy.md": f"{len(rows)} runs"})
"""


def forget() -> None:
    forget_code()
    code_digest.cache_clear()
    sys.modules.pop("toy_study", None)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of an installed package with a study."""
    site = tmp_path / "site"
    info = site / "toy_study-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "toy_study.py").write_text(TOY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-study\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{STUDIES}]\ntoy = toy_study:add\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    forget()
    yield site / "toy_study.py"
    forget()


def test_a_study_adds_its_files_of_all_rows(toy: Path, tmp_path: Path) -> None:
    results, store = tmp_path / "results", tmp_path / "no-store"
    write_results(
        results, [make_row(experiment="mine", protocol="p", seed=seed) for seed in range(3)]
    )
    build(results, store)
    assert (results / "toy.md").read_text() == "3 runs"
    assert is_current(results, store)
    (results / "toy.md").write_text("4 runs")
    assert check(results, store) == [f"{results / 'toy.md'} was edited"]


def test_what_a_study_leaves_out_is_a_conflict(toy: Path, tmp_path: Path) -> None:
    toy.write_text(TOY.replace(' runs"}', ' runs"}, left_out=["toy: left out"]'))
    results = tmp_path / "results"
    write_results(results, [make_row(experiment="mine", protocol="p")])
    report = build(results, tmp_path / "no-store")
    assert report.evidence.conflicts == ["toy: left out"]
    assert "toy: left out" in (results / "index.html").read_text()


def test_what_cannot_be_imported_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("x", "no_such_package:add", STUDIES)
    monkeypatch.setattr(plugins, "entry_points", lambda group: (entry,))
    with pytest.raises(UserError, match="cannot import the plugin no_such_package:add"):
        studies()
