"""Whole reports, built once: one of everything, and a small one to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ntdh_bench.records.identity import Place
from ntdh_bench.records.rows import csv_path, to_row, write_rows
from ntdh_bench.report import evidence
from ntdh_bench.report.build import build
from tests.ntdh_bench.report.rows import all_rows, make_record, smoke, table2, write_results


def _build(results: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:  # for fixtures that outlive a test
        patch.setattr(evidence, "shipped_runs", dict)
        build(results, results / "no-store")


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up rows are of no shipped experiment, though they bear its name: keep them."""
    monkeypatch.setattr(evidence, "shipped_runs", dict)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with rows of all experiments and all that is made from them; read only."""
    results = tmp_path_factory.mktemp("results")
    write_results(results, all_rows(5))
    _build(results)
    return results


@pytest.fixture(scope="session")
def _small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("small")
    write_results(results, [*table2(2), *smoke()])
    write_rows(csv_path(results, "mine"), [to_row(make_record(), Place("mine", "short"))])
    _build(results)
    return results


@pytest.fixture
def results(_small: Path, tmp_path: Path) -> Path:
    """A copy of a small results folder: ``table2``, ``smoke``, and ``mine`` of one record."""
    return Path(shutil.copytree(_small, tmp_path / "results"))
