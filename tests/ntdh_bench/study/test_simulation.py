from __future__ import annotations

import shutil
from pathlib import Path

from ntdh_bench.records.rows import csv_path
from ntdh_bench.study import simulation

RESULTS = Path(__file__).parents[3] / "results"


def test_figures_and_texts_are_written_and_repeat(tmp_path: Path) -> None:
    first = [written(tmp_path / name) for name in ("a", "b")]
    assert first[0] == first[1]
    assert set(first[0]) == {"nulls.csv", "nulls.md", "power.csv", "power.md"}
    assert "bdgp" in first[0]["power.md"]


def written(results: Path) -> dict[str, str]:
    records = csv_path(results, "methods")
    records.parent.mkdir(parents=True)
    shutil.copy(csv_path(RESULTS, "methods"), records)
    simulation.write(results, cases=24)
    return {path.name: path.read_text(encoding="utf-8") for path in (results / "study").iterdir()}
